"""Evaluating only those whose data changed since a run before: the others' results are taken from that run.

The outcome is that of evaluating everybody, to the byte; where that cannot be told beforehand there is no earlier run
to go by, and :class:`NotReusable` says so when it turns out later. What a measure says of a member depends on the
member's rows, on rows that belong to no patient, on the package with its terminology and the period, and on the instant
of the evaluation only by its offset, unless the criteria ask for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.lake.changes import Changes
from fhir_gateway.measures.copies import left_out
from fhir_gateway.measures.elm_references import references, section
from fhir_gateway.measures.evaluate import Evaluator
from fhir_gateway.measures.merge import merge_groups, merge_supplemental
from fhir_gateway.measures.model import (
    Cases,
    GroupResult,
    MeasureResult,
    PartResult,
    PopulationResult,
    RunHeader,
    StratifierResult,
    SupplementalResult,
)
from fhir_gateway.measures.store import ResultStore

_OF_THE_INSTANT = frozenset({"Now", "Today", "TimeOfDay"})
_LEFT_OUT = re.compile(r"(\d+) Encounters? (was|were) set aside as copies")
#: A reason that depends on the other members (ADR 0137).
_OF_THE_OTHERS = "measure-observation ("
_Places = npt.NDArray[np.int64]


class NotReusable(Exception):
    """What was evaluated anew does not fit to the run before as it would have to."""


class ChangingLake(Protocol):
    """The part of the lake that is needed."""

    def changes(self, since: int, version: int | None = None) -> Changes:
        """Whose rows are others than in an earlier version."""


@dataclass(frozen=True)
class Earlier:
    """A run to go by, and what changed since."""

    run: str
    result: MeasureResult
    changes: Changes

    @cached_property
    def everybody_changed(self) -> frozenset[str]:
        """The members who changed."""
        return frozenset(self.changes.members.to_pylist())


def earlier(
    evaluator: Evaluator,
    store: ResultStore,
    header: RunHeader,
    changes: dict[int, Changes],
    lake: ChangingLake,
) -> Earlier | None:
    """The newest run of the same measure, content and period that can be gone by; None when there is none.

    ``changes`` is what is known already of the lake since each version.
    """
    found: list[tuple[int, str]] = []
    for run in store.runs():
        known = store.header(run)
        same = ("url", "version", "period", "engine_version", "package_hash", "terminology_hash", "copies")
        if any(getattr(known, name) != getattr(header, name) for name in same) or known.lake_version is None:
            continue
        if known.lake_version > (header.lake_version or 0) or not _same_instant(evaluator, known, header):
            continue
        found.append((known.lake_version, run))
    if not found or evaluator.withdrawn:
        return None
    since, run = max(found)
    if since not in changes:
        changes[since] = lake.changes(since, header.lake_version)
    read = _types(evaluator)
    if header.copies == "once" and "Encounter" in read:
        read |= {"Organization"}  # what tells copies of different sources apart
    if changes[since].shared & read or store.mixed(run):
        return None
    result = store.load(run)
    if any(reason.startswith(_OF_THE_OTHERS) for reason in result.failed.values()):
        return None
    if set(result.notes) - {*evaluator.notes, *left_out(set_aside_of(result))}:
        return None  # something was noted of a whole batch, or is counted over everybody
    return Earlier(run, result, changes[since])


def _same_instant(evaluator: Evaluator, known: RunHeader, header: RunHeader) -> bool:
    if known.evaluated_at == header.evaluated_at and known.evaluated_at.utcoffset() == header.evaluated_at.utcoffset():
        return True
    return known.evaluated_at.utcoffset() == header.evaluated_at.utcoffset() and not _asks_for_the_instant(evaluator)


def set_aside_of(result: MeasureResult) -> int:
    """How many Encounters were set aside: the notes say so."""
    return next((int(found[1]) for note in result.notes if (found := _LEFT_OUT.match(note))), 0)


def _asks_for_the_instant(evaluator: Evaluator) -> bool:
    return any(node.get("type") in _OF_THE_INSTANT for node in _reached(evaluator))


def _types(evaluator: Evaluator) -> set[str]:
    """Types that the criteria and supplemental data look for."""
    return {str(node["dataType"]).rpartition("}")[2] for node in _reached(evaluator) if node.get("type") == "Retrieve"}


def _reached(evaluator: Evaluator) -> Iterator[dict[str, Any]]:
    """The ELM nodes of all that is evaluated."""
    package = evaluator.package
    expressions = [*package.definition.expressions, *(one.expression for one in evaluator.supplemental)]
    reached = references(package.libraries, package.primary, expressions).definitions
    for elm in package.libraries:
        for statement in section(elm, "statements"):
            if (elm["identifier"]["id"], statement["name"]) in reached:
                yield from _nodes(statement)


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    stack = [node]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack.extend(one)
        elif isinstance(one, dict):
            yield one
            stack.extend(child for name, child in one.items() if name != "annotation")


def joined(
    known: Earlier,
    evaluator: Evaluator,
    anew: Sequence[PartResult],
    nobody: PartResult,
    set_aside: int,
    slices: Sequence[pa.Array],
) -> Iterator[PartResult]:
    """The parts of a run over everybody: of ``slices`` of members, in their order.

    ``anew`` is what was evaluated of those who changed, ``nobody`` what the measure says of nobody; ``set_aside`` how
    many Encounters of those who changed were copies in the run before. NotReusable when the two do not go together.
    """
    before, fresh = known.result, _put_together([*anew, nobody])
    _same_kind(known, evaluator, fresh)
    copies = set_aside_of(before) - set_aside + fresh.copies
    for number, members in enumerate(slices):
        at = pc.index_in(members, fresh.members).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        there = pc.index_in(members, before.members).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        kept = np.flatnonzero(at < 0)
        if (there[kept] < 0).any():
            raise NotReusable("somebody is new and did not change")
        sizes = [len(kept), len(members) - len(kept)]
        old = _Taken(before.groups, there[kept], len(before.members))
        new = _Taken(fresh.groups, at[at >= 0], len(fresh.members))
        groups = merge_groups([old.groups, new.groups], sizes)
        supplemental = merge_supplemental(
            [old.supplemental(before.supplemental), new.supplemental(fresh.supplemental)], sizes
        )
        order = np.concatenate([kept, np.flatnonzero(at >= 0)]).argsort(kind="stable")
        whole = _Taken(groups, order, len(members))
        names = frozenset(members.to_pylist())
        failed = {who: why for who, why in before.failed.items() if who in names and who not in known.everybody_changed}
        failed |= {who: why for who, why in fresh.failed.items() if who in names}
        yield PartResult(
            members,
            merge_groups([whole.groups, nobody.groups], [len(members), 0]),  # who has what strata are stated beforehand
            failed,
            whole.supplemental(supplemental),
            fresh.notes,
            fresh.seconds if number == 0 else 0.0,
            copies if number == 0 else 0,
            {},
        )


def _put_together(parts: Sequence[PartResult]) -> PartResult:
    sizes = [len(part.members) for part in parts]
    return PartResult(
        members=pa.concat_arrays([part.members for part in parts]),
        groups=merge_groups([part.groups for part in parts], sizes),
        failed={who: why for part in parts for who, why in part.failed.items()},
        supplemental=merge_supplemental([_plain(part.supplemental) for part in parts], sizes),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        seconds=sum(part.seconds for part in parts),
        copies=sum(part.copies for part in parts),
        unsupplied={name: 1 for part in parts for name in part.unsupplied},
    )


def _same_kind(known: Earlier, evaluator: Evaluator, fresh: PartResult) -> None:
    """NotReusable where the whole population would have to be looked at."""
    if set(fresh.notes) - set(evaluator.notes) or fresh.unsupplied:
        raise NotReusable("something is noted of a whole batch, or counted over everybody")
    kept = pc.invert(pc.is_in(known.result.members, value_set=known.changes.members))
    places = np.flatnonzero(kept.to_numpy(zero_copy_only=False)).astype(np.int64)
    old = _Taken(known.result.groups, places, len(known.result.members)).groups
    for before, after in zip(old, fresh.groups, strict=True):
        for one, other in zip(before.populations, after.populations, strict=True):
            if one.observations and other.observations:
                units = one.observations.found_units | other.observations.found_units
                if len(units) > 1:
                    raise NotReusable("observations are in several units")
        for had, has in zip(before.stratifiers, after.stratifiers, strict=True):
            if had.criteria and not has.criteria and not any((s == 0).any() for s in had.strata.values()):
                raise NotReusable("nobody is left who tells a criterion from a value")


class _Taken:
    """Some members of groups, in another order: those at ``places`` of ``size``."""

    def __init__(self, groups: Sequence[GroupResult], places: _Places, size: int) -> None:
        self._places = places
        self._new = np.full(size, -1, np.int64)
        self._new[places] = np.arange(len(places))
        self.groups = tuple(map(self._group, groups))

    def _rows(self, member: npt.NDArray[Any]) -> _Places:
        """Rows of these members, in their new order."""
        new = self._new[member]
        rows = np.flatnonzero(new >= 0)
        ordered: _Places = rows[new[rows].argsort(kind="stable")]
        return ordered

    def supplemental(self, found: Sequence[SupplementalResult]) -> tuple[SupplementalResult, ...]:
        taken = []
        for one in _plain(found):
            rows = self._rows(one.member)
            member = self._new[one.member[rows]].astype(np.int32)
            taken.append(replace(one, member=member, value=one.value.take(pa.array(rows))))
        return tuple(taken)

    def _group(self, group: GroupResult) -> GroupResult:
        rows = {cases.basis: self._rows(cases.member) for cases in group.cases}
        sizes = {cases.basis: len(cases.member) for cases in group.cases}
        return replace(
            group,
            populations=tuple(
                self._population(one, one.basis or group.basis, rows, sizes) for one in group.populations
            ),
            cases=tuple(self._cases(one, rows[one.basis]) for one in group.cases),
            stratifiers=tuple(self._stratifier(one, rows) for one in group.stratifiers),
        )

    def _population(
        self, population: PopulationResult, basis: str, rows: dict[str, _Places], sizes: dict[str, int]
    ) -> PopulationResult:
        observations = population.observations
        if observations is not None:
            here = self._rows(observations.member)
            cases = self._new
            if basis != "boolean":
                cases = np.full(sizes[basis], -1, np.int64)
                cases[rows[basis]] = np.arange(len(rows[basis]))
            observations = replace(
                observations,
                member=self._new[observations.member[here]].astype(np.int32),
                case=cases[observations.case[here]],
                value=observations.value.take(pa.array(here)),
                units=None if observations.units is None else observations.units.take(pa.array(here)),
            )
        return replace(
            population,
            counts=population.counts[self._places],
            raw=population.raw[self._places],
            observations=observations,
        )

    def _cases(self, cases: Cases, rows: _Places) -> Cases:
        return Cases(
            cases.basis,
            self._new[cases.member[rows]].astype(np.int32),
            cases.reference.take(pa.array(rows)),
            {name: mask[rows] for name, mask in cases.populations.items()},
        )

    def _stratifier(self, stratifier: StratifierResult, rows: dict[str, _Places]) -> StratifierResult:
        strata = {basis: numbers[rows.get(basis, self._places)] for basis, numbers in stratifier.strata.items()}
        if stratifier.criteria:
            return replace(stratifier, strata=strata)
        used = np.unique(np.concatenate([np.empty(0, np.int32), *strata.values()]))
        used = used[used >= 0]  # a value that nobody has is none
        new = np.full(len(stratifier.values) + 1, -1, np.int32)
        new[used] = np.arange(len(used))
        return replace(
            stratifier,
            values=tuple(stratifier.values[number] for number in used),
            strata={basis: new[numbers] for basis, numbers in strata.items()},
        )


def _plain(found: Sequence[SupplementalResult]) -> tuple[SupplementalResult, ...]:
    """Values as they are, not as numbers into a dictionary."""
    return tuple(replace(one, value=one.value.cast(pa.string())) for one in found)
