"""What a search of MeasureReports says of individual reports: whose, and which ids.

The criteria that individual reports share with their summary are answered by the summary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.errors import InputError
from fhir_gateway.server.search import Query, code_of

#: Criteria that are an individual report's own; all others are answered by its summary.
OWN = ("subject", "patient", "type", "_id")
_SPLIT = re.compile(r"(?<!\\),")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which individual reports a search is about: sets of members that all must hold, and ids as (run, member)."""

    members: tuple[frozenset[str], ...]
    ids: frozenset[tuple[str, str]] | None

    def member_sets(self, run: str) -> Iterator[frozenset[str]]:
        """Sets of members of a run; a member must be in each."""
        yield from self.members
        if self.ids is not None:
            yield frozenset(member for of_run, member in self.ids if of_run == run)


def wanted_of(query: Query, patients: Callable[[Criterion], Iterable[str]]) -> Wanted | None:
    """The individual reports that the criteria can match; None when they match none at all.

    ``patients`` answers a criterion on Patient with ids: what a chain through the subject leads to.
    """
    if any(key.startswith("_has:") for key, _ in query.criteria):
        return None  # nothing that is stored refers to a report that is not
    for modifier, value in query.named("type"):
        if modifier:
            raise InputError("search parameter type of MeasureReport has no modifiers")
        if not any(part.rpartition("|")[2] == "individual" for part in _SPLIT.split(value)):
            return None
    members: list[frozenset[str]] = []
    for name in ("subject", "patient"):
        for modifier, value in query.named(name):
            if modifier not in ("", "Patient"):
                raise InputError(f"search parameter {name} of MeasureReport has no modifier :{modifier}")
            members.append(frozenset(_patient(part, modifier or name) for part in _SPLIT.split(value)) - {""})
        for target, rest, value in query.chains(name):
            if target not in ("", "Patient"):
                return None
            if (
                target
                or code_of(rest) in ("_id", "_lastUpdated", "_has")
                or code_of(rest) in search_parameters("Patient")
            ):
                members.append(frozenset(patients((rest, value))))
            else:
                return None
    if any(not chosen for chosen in members):
        return None
    ids: frozenset[tuple[str, str]] | None = None
    for _, value in query.named("_id"):
        parts = frozenset((run, member) for run, _, member in (part.rpartition("-") for part in _SPLIT.split(value)))
        ids = parts if ids is None else ids & parts
    return Wanted(tuple(members), ids)


def _patient(text: str, kind: str) -> str:
    """Patient id of a reference value; empty for a reference to something else."""
    parts = text.partition("/_history/")[0].split("/")
    if len(parts) == 1:
        return parts[0]
    return parts[-1] if parts[-2] == "Patient" else ""
