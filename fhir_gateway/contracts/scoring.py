"""From measure scores to points, and from points to a composite: pure decimal arithmetic.

Hospital VBP points follow 42 CFR 412.165 as published per hospital: rounding half up, never binary floating point
(three of 86,558 published points come out wrong with it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from typing import Literal, Protocol

from fhir_gateway.contracts.terms import MeasureTerms, Scoring
from fhir_gateway.errors import ContractError

ZERO, ONE = Decimal(0), Decimal(1)
_HALF = Decimal("0.5")


class MeasureOutcome(Protocol):
    """A measure's result over the attributed members."""

    @property
    def numerator(self) -> int | None:
        """Effective numerator count."""

    @property
    def denominator(self) -> int:
        """Effective denominator count."""

    @property
    def score(self) -> Decimal | None:
        """The score in the measure's unit; None when it cannot be computed."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A measure with its points; ``points`` is None and ``reason`` says why when it does not take part."""

    terms: MeasureTerms
    outcome: MeasureOutcome
    points: Decimal | None
    weight: Decimal
    reason: str | None = None


def round_half_up(value: Decimal) -> int:
    """Nearest integer, halves away from zero."""
    return int(value.to_integral_value(ROUND_HALF_UP))


def achievement_points(performance: Decimal, threshold: Decimal, benchmark: Decimal) -> int:
    """0-10 points for a level reached; better is towards ``benchmark``."""
    sign = ONE if benchmark > threshold else -ONE
    if sign * (performance - benchmark) >= 0:
        return 10
    if sign * (performance - threshold) < 0:
        return 0
    return min(9, max(1, round_half_up(9 * (performance - threshold) / (benchmark - threshold) + _HALF)))


def improvement_points(performance: Decimal, baseline: Decimal, threshold: Decimal, benchmark: Decimal) -> int:
    """0-9 points for getting better than one's own baseline."""
    sign = ONE if benchmark > threshold else -ONE
    if sign * (performance - baseline) <= 0:
        return 0
    if sign * (performance - benchmark) >= 0:
        return 9
    return min(9, max(0, round_half_up(10 * (performance - baseline) / (benchmark - baseline) - _HALF)))


def points(score: Decimal, direction: Literal["increase", "decrease"], scoring: Scoring) -> Decimal:
    """Points between 0 and 1 that a score earns."""
    sign = ONE if direction == "increase" else -ONE
    if scoring.kind == "ladder":
        return max((step.points for step in scoring.steps if sign * (score - step.at) >= 0), default=ZERO)
    target = _given(scoring.target, "target")
    if scoring.kind == "threshold":
        return ONE if sign * (score - target) >= 0 else ZERO
    threshold = _given(scoring.threshold, "threshold")
    if scoring.kind == "linear":
        return min(ONE, max(ZERO, (score - threshold) / (target - threshold)))
    best = achievement_points(score, threshold, target)
    if scoring.baseline is not None:
        best = max(best, improvement_points(score, scoring.baseline, threshold, target))
    return Decimal(best) / 10


def _given(value: Decimal | None, name: str) -> Decimal:
    if value is None:
        raise ContractError(f"scoring.{name}: is missing")
    return value


def score_measures(
    measures: Sequence[MeasureTerms],
    outcomes: Mapping[str, MeasureOutcome],
    missing: Literal["reweight", "zero"],
) -> tuple[Scored, ...]:
    """Points of each contractual measure, with the weight it has after measures that do not take part are taken out.

    A measure below its minimum denominator, or without a score, does not take part: ``reweight`` gives its weight to
    the others in proportion, ``zero`` leaves it there. ContractError when a measure was not evaluated at all.
    """
    scored = []
    for terms in measures:
        outcome = outcomes.get(terms.id)
        if outcome is None:
            raise ContractError(f"measures.{terms.id}: there is no result for {terms.canonical}")
        if terms.scoring is None:
            raise ContractError(f"measures.{terms.id}.scoring: is missing")
        if outcome.denominator < terms.min_denominator:
            scored.append(Scored(terms, outcome, None, terms.weight, "below-minimum-denominator"))
        elif outcome.score is None:
            scored.append(Scored(terms, outcome, None, terms.weight, "no-score"))
        else:
            scored.append(Scored(terms, outcome, points(outcome.score, terms.direction, terms.scoring), terms.weight))
    whole = sum((s.weight for s in scored), ZERO)
    left = sum((s.weight for s in scored if s.points is not None), ZERO)
    if missing == "zero" or left in (ZERO, whole):
        return tuple(scored)
    return tuple(
        Scored(s.terms, s.outcome, s.points, ZERO if s.points is None else s.weight * whole / left, s.reason)
        for s in scored
    )


def composite(scored: Iterable[Scored]) -> Decimal | None:
    """Weighted points; None when no measure takes part."""
    parts = [s.weight * s.points for s in scored if s.points is not None]
    return sum(parts, ZERO) if parts else None


def problems(measure: MeasureTerms) -> list[str]:
    """Contradictions in one measure's scoring, as ``term: message``."""
    scoring, where = measure.scoring, f"measures.{measure.id}.scoring"
    if scoring is None:
        return [f"{where}: is missing"] if measure.status == "contractual" else []
    found = []
    sign = ONE if measure.direction == "increase" else -ONE
    wanted = {"threshold": {"target"}, "linear": {"target", "threshold"}, "ladder": {"steps"}}.get(
        scoring.kind, {"target", "threshold"}
    )
    given = {name for name in ("target", "threshold", "steps") if getattr(scoring, name) not in (None, ())}
    found += [f"{where}.{name}: a {scoring.kind} scoring needs it" for name in sorted(wanted - given)]
    found += [f"{where}.{name}: a {scoring.kind} scoring has no use for it" for name in sorted(given - wanted)]
    if scoring.baseline is not None and scoring.kind != "attainment_or_improvement":
        found.append(f"{where}.baseline: a {scoring.kind} scoring has no use for it")
    if (
        wanted >= {"threshold", "target"}
        and scoring.target is not None
        and scoring.threshold is not None
        and sign * (scoring.target - scoring.threshold) <= 0
    ):
        found.append(f"{where}: target is not better than threshold, given direction '{measure.direction}'")
    found += ladder_problems(f"{where}.steps", [(step.at, step.points) for step in scoring.steps], sign)
    return found


def ladder_problems(where: str, steps: Sequence[tuple[Decimal, Decimal]], sign: Decimal = ONE) -> list[str]:
    """Steps that overlap (same or backward start) or that pay less for better."""
    found = []
    for number, ((at, value), (next_at, next_value)) in enumerate(pairwise(steps), start=2):
        if sign * (next_at - at) <= 0:
            found.append(f"{where}[{number}]: overlaps the step before (steps go from worse to better)")
        if next_value < value:
            found.append(f"{where}[{number}]: pays less than the step before")
    return found
