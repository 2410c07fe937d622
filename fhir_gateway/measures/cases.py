"""Cases: what a criterion is true or false of, one per member or one per episode, for a whole batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.cql import Episodes
from fhir_gateway.cql.evaluation import Failure
from fhir_gateway.cql.values import ElementVec, StrVec, Vec, concat
from fhir_gateway.measures.model import Counts, Mask

Members = npt.NDArray[np.int32]


class CriteriaEvaluation(Protocol):
    """The part of the engine's Evaluation that populations need."""

    failures: dict[int, Failure]

    def vector(self, name: str) -> Vec:
        """Values of a definition, one per member."""

    def booleans(self, name: str) -> Mask:
        """One value per member, null is False."""

    def episodes(self, name: str) -> Episodes:
        """Elements of a list-valued definition, distinct and without nulls."""

    def identity(self, flat: Vec) -> npt.NDArray[np.int64]:
        """Numbers that are equal when two elements are the same."""

    def function_values(self, name: str, episodes: Episodes | None = None) -> Vec:
        """Values of a function for each of ``episodes``; for each member when ``episodes`` is None."""


@dataclass(frozen=True, slots=True)
class CaseSpace:
    """All cases of one basis in a batch of ``size`` members, ordered by member.

    ``criteria`` says which cases satisfy each expression; ``episodes`` holds the elements behind the cases and is None
    for the basis ``boolean``, where case and member are the same.
    """

    basis: str
    size: int
    member: Members
    episodes: Episodes | None
    criteria: Mapping[str, Mask]

    def per_member(self, mask: Mask) -> Counts:
        """Number of cases in ``mask`` of each member."""
        if self.episodes is None:
            return mask.astype(np.int64)
        return np.bincount(self.member[mask], minlength=self.size).astype(np.int64)

    def select(self, mask: Mask) -> Episodes | None:
        """The elements behind the cases in ``mask``; None for the basis ``boolean``."""
        if self.episodes is None:
            return None
        index = np.flatnonzero(mask)
        whole = self.episodes
        return Episodes(whole.member[index], whole.values.take(index), whole.identity[index])


def boolean_space(evaluation: CriteriaEvaluation, expressions: Iterable[str], alive: Mask) -> CaseSpace:
    """Each member is a case; members that are not ``alive`` satisfy nothing."""
    size = len(alive)
    criteria = {name: evaluation.booleans(name) & alive for name in expressions}
    return CaseSpace("boolean", size, np.arange(size, dtype=np.int32), None, criteria)


def episode_space(evaluation: CriteriaEvaluation, basis: str, expressions: Iterable[str], alive: Mask) -> CaseSpace:
    """The union of all lists: one case per member and element, however many lists it is in."""
    lists = {name: evaluation.episodes(name) for name in expressions}
    found = list(lists.values())
    member = np.concatenate([episodes.member for episodes in found]).astype(np.int64)
    values = concat([episodes.values for episodes in found])
    identity = evaluation.identity(values)
    distinct, element = np.unique(identity, return_inverse=True)
    case, first, position = np.unique(member * max(len(distinct), 1) + element, return_index=True, return_inverse=True)
    case_member = member[first]
    criteria: dict[str, Mask] = {}
    start = 0
    for name, episodes in lists.items():
        end = start + len(episodes)
        mask = np.zeros(len(case), np.bool_)
        mask[position[start:end]] = True
        criteria[name] = mask & alive[case_member]
        start = end
    episodes = Episodes(case_member, values.take(first), identity[first])
    return CaseSpace(basis, len(alive), case_member.astype(np.int32), episodes, criteria)


def references(episodes: Episodes) -> pa.Array:
    """``Type/id`` of each resource-valued element; the plain text of other elements."""
    values = episodes.values
    if isinstance(values, ElementVec) and values.source.is_resource and len(values):
        ids = values.property("id")
        if isinstance(ids, ElementVec):
            ids = ids.primitive()
        if isinstance(ids, StrVec):
            return pc.binary_join_element_wise(pa.scalar(values.fhir_type), ids.arrow(), "/")
    return pa.array(episodes.references(), pa.string())
