"""The measures of an arrangement together: who takes part, with which weight, and the composite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from typing import Literal, Protocol

from fhir_gateway.contracts.scoring.points import ONE, ZERO, points
from fhir_gateway.contracts.terms import MeasureTerms, Scoring
from fhir_gateway.errors import ContractError


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


def score_measures(
    measures: Sequence[MeasureTerms],
    outcomes: Mapping[str, MeasureOutcome],
    missing: Literal["reweight", "zero"],
    *,
    heirs: Mapping[str, str] | None = None,
    peers: Mapping[str, Sequence[Decimal]] | None = None,
) -> tuple[Scored, ...]:
    """Points of each contractual measure, with the weight it has after measures that do not take part are taken out.

    A measure below its minimum denominator, or without a score, does not take part. Its weight goes to its heir among
    ``heirs`` (measure id -> measure id) when that one takes part; else ``reweight`` gives it to the others in
    proportion, ``zero`` leaves it there. ``peers`` are the peer sets of measures scored by percentile.
    ContractError when a measure was not evaluated at all.
    """
    scored = [_score(terms, outcomes.get(terms.id), (peers or {}).get(terms.id, ())) for terms in measures]
    scored = _inherit(scored, heirs or {})
    whole = sum((s.weight for s in scored), ZERO)
    left = sum((s.weight for s in scored if s.points is not None), ZERO)
    if missing == "zero" or left in (ZERO, whole):
        return tuple(scored)
    return tuple(replace(s, weight=ZERO if s.points is None else s.weight * whole / left) for s in scored)


def _score(terms: MeasureTerms, outcome: MeasureOutcome | None, peers: Sequence[Decimal]) -> Scored:
    if outcome is None:
        raise ContractError(f"measures.{terms.id}: there is no result for {terms.canonical}")
    if terms.scoring is None:
        raise ContractError(f"measures.{terms.id}.scoring: is missing")
    if outcome.denominator < terms.min_denominator:
        return Scored(terms, outcome, None, terms.weight, "below-minimum-denominator")
    if outcome.score is None:
        return Scored(terms, outcome, None, terms.weight, "no-score")
    if terms.scoring.kind == "percentile" and not peers:
        raise ContractError(f"measures.{terms.id}.scoring: there is no peer set for it")
    return Scored(terms, outcome, points(outcome.score, terms.direction, terms.scoring, peers), terms.weight)


def _inherit(scored: list[Scored], heirs: Mapping[str, str]) -> list[Scored]:
    there = {s.terms.id for s in scored if s.points is not None}
    given = {s.terms.id: s.weight for s in scored if s.points is None and heirs.get(s.terms.id) in there}
    return [
        replace(
            s,
            weight=ZERO
            if s.terms.id in given
            else s.weight + sum((given[name] for name in given if heirs[name] == s.terms.id), ZERO),
        )
        for s in scored
    ]


def composite(scored: Iterable[Scored]) -> Decimal | None:
    """Weighted points; None when no measure takes part."""
    parts = [s.weight * s.points for s in scored if s.points is not None]
    return sum(parts, ZERO) if parts else None


#: Kind of scoring -> terms that it needs, and terms that it may have.
_TERMS: dict[str, tuple[set[str], set[str]]] = {
    "threshold": ({"target"}, set()),
    "linear": ({"target", "threshold"}, set()),
    "ladder": ({"steps"}, set()),
    "attainment_or_improvement": ({"target", "threshold"}, {"baseline"}),
    "improvement": ({"target", "baseline"}, {"threshold", "improvement"}),
    "percentile": (set(), {"target", "threshold", "steps"}),
    "decile": (set(), {"deciles", "cap", "floor"}),
}


def problems(measure: MeasureTerms) -> list[str]:
    """Contradictions in one measure's scoring, as ``term: message``."""
    scoring, where = measure.scoring, f"measures.{measure.id}.scoring"
    if scoring is None:
        return [f"{where}: is missing"] if measure.status == "contractual" else []
    sign = ONE if measure.direction == "increase" else -ONE
    needed, allowed = _TERMS[scoring.kind]
    names = ("target", "threshold", "steps", "baseline", "deciles", "cap", "floor")
    given = {name for name in names if getattr(scoring, name) not in (None, ())}
    if "improvement" in scoring.model_fields_set:
        given.add("improvement")
    found = [f"{where}.{name}: a {scoring.kind} scoring needs it" for name in sorted(needed - given)]
    found += [
        f"{where}.{name}: a {scoring.kind} scoring has no use for it" for name in sorted(given - needed - allowed)
    ]
    found += _order(scoring, where, sign, measure.direction)
    ranks = scoring.kind == "percentile"
    steps = [(step.at, step.points) for step in scoring.steps]
    found += ladder_problems(f"{where}.steps", steps, ONE if ranks else sign)
    deciles = [(decile.at, Decimal(decile.decile)) for decile in scoring.deciles]
    return found + ladder_problems(f"{where}.deciles", deciles, sign)


def _order(scoring: Scoring, where: str, sign: Decimal, direction: str) -> list[str]:
    """Thresholds beyond their targets."""
    threshold, target, baseline = scoring.threshold, scoring.target, scoring.baseline
    if scoring.kind == "percentile":
        if scoring.steps and (threshold is not None or target is not None):
            return [f"{where}.steps: either steps or threshold and target"]
        if (threshold is None) != (target is None):
            return [f"{where}: threshold and target go together"]
        if threshold is not None and target is not None and threshold >= target:
            return [f"{where}: target is not above threshold (both are ranks)"]
        return []
    if scoring.kind == "improvement" and target is not None and baseline is not None:
        if scoring.improvement == "relative":
            if threshold is not None and not ZERO <= threshold <= ONE:
                return [f"{where}.threshold: is a part of the way from baseline to target, between 0 and 1"]
            return []
        found = [] if target > ZERO else [f"{where}.target: is no gain"]
        if threshold is not None and not ZERO <= threshold <= target:
            found.append(f"{where}.threshold: is a gain between 0 and target")
        return found
    if threshold is None or target is None or scoring.kind not in ("linear", "attainment_or_improvement"):
        return []
    if sign * (target - threshold) <= 0:
        return [f"{where}: target is not better than threshold, given direction '{direction}'"]
    return []


def ladder_problems(where: str, steps: Sequence[tuple[Decimal, Decimal]], sign: Decimal = ONE) -> list[str]:
    """Steps that overlap (same or backward start) or that pay less for better."""
    found = []
    for number, ((at, value), (next_at, next_value)) in enumerate(pairwise(steps), start=2):
        if sign * (next_at - at) <= 0:
            found.append(f"{where}[{number}]: overlaps the step before (steps go from worse to better)")
        if next_value < value:
            found.append(f"{where}[{number}]: pays less than the step before")
    return found
