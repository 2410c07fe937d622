"""Gaps in care of one member: status by group, the criterion that decided, and the nearest evidence.

Status is that of DEQM (gaps in care): outside the initial population ``not-applicable``; where nothing is asked
(not in the denominator, excluded, or excepted) there is no gap, which DEQM calls ``closed-gap``; otherwise the
improvement notation says whether being in the numerator closes a gap or is one. A gap of a period that ends after the
day of the evaluation is ``prospective-gap``. With episodes a gap is open while any episode has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

import numpy as np

from fhir_gateway.cql.evidence import Evidence, evidence
from fhir_gateway.cql.explain import Recording
from fhir_gateway.cql.reasons import Criterion, deciding
from fhir_gateway.measures.definition import GroupDefinition
from fhir_gateway.measures.model import Counts, GroupResult

GapStatus = Literal["open-gap", "closed-gap", "prospective-gap", "not-applicable"]
#: Scorings for which DEQM defines gaps.
SCORINGS = frozenset({"proportion", "ratio"})
#: Statuses that are gaps: something is missing.
OPEN = ("open-gap", "prospective-gap")


@dataclass(frozen=True)
class Gap:
    """A group's gap for one member. ``failed`` and ``evidence`` are empty unless there is one.

    ``evidence`` are the resources that the numerator looked at, the nearest to the period first (of those equally
    near the ones that went through its filters, then the newest); ``nearest`` is the first.
    """

    group: str
    status: GapStatus
    improvement_notation: str
    failed: tuple[Criterion, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    @property
    def nearest(self) -> Evidence | None:
        """The resource that comes nearest to what is missing; None when there is nothing of the kind."""
        return self.evidence[0] if self.evidence else None


def gap_status(group: GroupResult, index: int, period: tuple[date, date], now: datetime) -> GapStatus | None:
    """Status of the member at ``index``; None for scorings without gaps, and for rates (ratios of observations)."""
    found = gap_statuses(group, period, now, slice(index, index + 1))
    return None if found is None else found[0]


def gap_statuses(
    group: GroupResult, period: tuple[date, date], now: datetime, members: slice = slice(None)
) -> list[GapStatus] | None:
    """Status of every member of a slice, out of the columns; None for scorings without gaps, and for rates."""
    if not has_gaps(group.scoring, (population.code for population in group.populations)):
        return None

    def counts(code: str) -> Counts:
        """Of the first population of that code; zeros without one."""
        population = group.population(code)
        return np.zeros(len(initial), np.int64) if population is None else population.counts[members]

    heads = [p.counts[members] > 0 for p in group.populations if p.code == "initial-population"]
    initial = np.logical_or.reduce(heads)
    asked = counts("denominator") - counts("denominator-exclusion") - counts("denominator-exception")
    met = counts("numerator") - counts("numerator-exclusion")
    gap = (asked > 0) & ((met > 0) if group.improvement_notation == "decrease" else (met < asked))
    statuses: list[GapStatus] = ["not-applicable", "closed-gap", "prospective-gap", "open-gap"]
    number = np.where(initial, 1 + gap * (1 if period[1] > now.date() else 2), 0)
    return [statuses[one] for one in number.tolist()]


def has_gaps(scoring: str, populations: Iterable[str]) -> bool:
    """Whether DEQM defines gaps for a group of that scoring with populations of these codes."""
    return scoring in SCORINGS and "measure-observation" not in populations


def find_gap(
    evaluation: Recording,
    definition: GroupDefinition,
    group: GroupResult,
    period: tuple[date, date],
    now: datetime,
) -> Gap | None:
    """The gap of the only member of the evaluation; None for scorings without gaps."""
    status = gap_status(group, 0, period, now)
    return None if status is None else gap_of(evaluation, definition, group, status, period)


def gap_of(
    evaluation: Recording,
    definition: GroupDefinition,
    group: GroupResult,
    status: GapStatus,
    period: tuple[date, date],
) -> Gap:
    """The gap of a status that is known, with reasons and evidence where it is one."""
    notation = group.improvement_notation or "increase"
    if status not in OPEN:
        return Gap(group.id, status, notation)
    library = evaluation.compiled.primary
    numerator = definition.of("numerator")[0].expression
    seen = sorted(evidence(evaluation, library, numerator), key=lambda one: _distance(one, period))
    return Gap(group.id, status, notation, deciding(evaluation, library, numerator), tuple(seen))


def _distance(one: Evidence, period: tuple[date, date]) -> tuple[int, bool, int]:
    """Days between evidence and period (undated evidence is farthest), those that went through first, newest first."""
    first, last = _day(one.start or one.end), _day(one.end or one.start)
    if first is None or last is None:
        return date.max.toordinal(), one.failed is not None, 0
    apart = max((period[0] - last).days, (first - period[1]).days, 0)
    return apart, one.failed is not None, -last.toordinal()


def _day(text: str | None) -> date | None:
    """The day of an ISO text; of a year or month its first."""
    if not text or len(text) < 4:
        return None
    return date.fromisoformat(f"{text[:10]}-01-01"[:10] if len(text) < 10 else text[:10])
