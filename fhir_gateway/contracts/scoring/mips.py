"""Merit-based Incentive Payment System: quality score, final score, payment adjustment.

42 CFR 414.1380 and 414.1405. Weights, redistribution, threshold and caps are data (``contracts/programmes/mips.toml``),
by performance year. Points of single measures come from the deciles of their benchmarks
(:func:`~fhir_gateway.contracts.scoring.points.decile_points`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from fhir_gateway.contracts.programmes import ProgrammeYear, programme_year
from fhir_gateway.contracts.scoring.points import ONE, ZERO, clip
from fhir_gateway.contracts.terms import Fraction, Money, Terms

Category = Literal["quality", "cost", "improvement_activities", "promoting_interoperability"]
CATEGORIES: tuple[Category, ...] = ("quality", "cost", "improvement_activities", "promoting_interoperability")
_HUNDRED, _TEN = Decimal(100), Decimal(10)


class Redistribution(Terms):
    """Weights when categories are missing; for small practices only, or for others only."""

    missing: tuple[Category, ...]
    small_practice: bool = False
    weights: Mapping[Category, Fraction]


class Track(Terms):
    """Traditional reporting, or the APM performance pathway of accountable care organizations."""

    required_measures: int
    weights: Mapping[Category, Fraction]
    redistribution: tuple[Redistribution, ...] = ()
    without_benchmark: Literal["zero", "exclude"]


class MipsYear(ProgrammeYear):
    """A performance year."""

    threshold: Money
    highest_rate: Fraction
    highest_scaling: Money
    lowest_quarter: Fraction
    completeness: Fraction
    small_practice_floor: Money
    small_practice_bonus: Money
    improvement_cap: Fraction
    improvement_least_base: Fraction
    complex_patient_cap: Money
    complex_organization_cap: Fraction
    tracks: Mapping[Literal["traditional", "app"], Track]

    @classmethod
    def of(cls, year: int) -> MipsYear:
        """The shipped table for a performance year."""
        return programme_year("mips", year, cls)


@dataclass(frozen=True, slots=True)
class QualityScore:
    """The quality category: points of those measures that count, points there were, bonus points, the score of 1."""

    points: Decimal
    available: Decimal
    bonus: Decimal
    improvement: Decimal

    @property
    def achievement(self) -> Decimal:
        """Points without improvement, as a fraction of what there was."""
        return (self.points + self.bonus) / self.available if self.available else ZERO

    @property
    def score(self) -> Decimal:
        """At most 1."""
        return min(ONE, self.achievement + self.improvement)


def improvement(points: Decimal, available: Decimal, before: Decimal | None, rules: MipsYear) -> Decimal:
    """Gain over last year's achievement (a fraction), relative to it (30% at least), times 10%, at most 10 points."""
    if before is None or not available:
        return ZERO
    base = max(before, rules.improvement_least_base)
    return clip((points / available - base) / base * rules.improvement_cap, ZERO, rules.improvement_cap)


def quality_score(
    points: Sequence[Decimal],
    claims_points: Sequence[Decimal],
    required: int,
    rules: MipsYear,
    *,
    bonus: Decimal = ZERO,
    before: Decimal | None = None,
) -> QualityScore:
    """The quality category. The best ``required`` measures count, missing ones as nothing; claims measures on top.

    ``required`` 0 takes all there are. ``bonus`` points count in the numerator only.
    """
    best = sorted(points, reverse=True)[: required or None]
    earned = sum(best, ZERO) + sum(claims_points, ZERO)
    available = _TEN * (max(required, len(best)) + len(claims_points))
    return QualityScore(earned, available, bonus if available else ZERO, improvement(earned, available, before, rules))


def category_weights(
    missing: Sequence[Category], track: Track, small_practice: bool = False
) -> dict[Category, Decimal]:
    """Weights of the categories there are. A combination without its own row is redistributed in proportion."""
    gone = {name for name in missing if track.weights.get(name)}
    for row in sorted(track.redistribution, key=lambda row: row.small_practice, reverse=small_practice):
        if set(row.missing) == gone and (small_practice or not row.small_practice):
            return dict(row.weights)
    left = {name: weight for name, weight in track.weights.items() if name not in gone and weight}
    whole = sum(left.values(), ZERO)
    return {name: weight / whole for name, weight in left.items()}


def final_score(
    scores: Mapping[Category, Decimal], weights: Mapping[Category, Decimal], complex_patients: Decimal, rules: MipsYear
) -> Decimal:
    """0-100: weighted category scores (fractions), plus the complex patient bonus."""
    weighted = sum((weight * scores[name] for name, weight in weights.items()), ZERO)
    return min(_HUNDRED, _HUNDRED * weighted + min(complex_patients, rules.complex_patient_cap))


def payment_adjustment(score: Decimal, scaling: Decimal, rules: MipsYear) -> Decimal:
    """The adjustment as a fraction of payments for covered services, negative below the threshold.

    Above it: the highest rate x the part of the way to 100 x ``scaling``, which makes the programme budget neutral (at
    most 3). Below: in proportion, and the whole rate in the lowest quarter.
    """
    threshold, rate = rules.threshold, rules.highest_rate
    if score > threshold:
        return rate * (score - threshold) / (_HUNDRED - threshold) * min(scaling, rules.highest_scaling)
    if score == threshold:
        return ZERO
    if score <= threshold * rules.lowest_quarter:
        return -rate
    return -rate * (threshold - score) / threshold


def neutral_scaling(participants: Sequence[tuple[Decimal, Decimal]], rules: MipsYear) -> Decimal:
    """The scaling with which gains are what others lose, over (payments, final score); at most the highest."""
    each = [(payments, payment_adjustment(score, ONE, rules)) for payments, score in participants]
    lost = sum((payments * -rate for payments, rate in each if rate < 0), ZERO)
    gained = sum((payments * rate for payments, rate in each if rate > 0), ZERO)
    return min(rules.highest_scaling, lost / gained) if gained else ZERO
