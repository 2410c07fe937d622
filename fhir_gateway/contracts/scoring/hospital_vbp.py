"""Hospital Value-Based Purchasing: from rates to points, domain scores, Total Performance Score, payment factor.

42 CFR 412.160-167. Which measures and domains there are and what they weigh is data
(``contracts/programmes/hospital_vbp.toml``), by fiscal year.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from fhir_gateway.contracts.programmes import ProgrammeYear, programme_year
from fhir_gateway.contracts.scoring.points import (
    ONE,
    ZERO,
    achievement_points,
    improvement_points,
    round_half_up,
)
from fhir_gateway.contracts.terms import Fraction, Terms
from fhir_gateway.errors import ContractError

_HUNDRED = Decimal(100)
#: Base and consistency points of the survey at their highest; the dimensions are brought to the first.
SURVEY_BASE, CONSISTENCY = 80, 20


class Domain(Terms):
    """A domain: ``survey`` domains score dimensions with consistency, others average their measures."""

    id: str
    titles: tuple[str, ...]
    weight: Fraction
    min_measures: int = 1
    survey: bool = False
    measures: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = {}


class HospitalVbpYear(ProgrammeYear):
    """A fiscal year of the programme."""

    withhold: Fraction
    min_domains: int
    domains: tuple[Domain, ...]

    @classmethod
    def of(cls, year: int) -> HospitalVbpYear:
        """The shipped table for a fiscal year."""
        return programme_year("hospital_vbp", year, cls)


@dataclass(frozen=True, slots=True)
class Rates:
    """A measure of a hospital as published: what it reached, before and now, and the standards. ``floor``: surveys."""

    threshold: Decimal
    benchmark: Decimal
    performance: Decimal
    baseline: Decimal | None = None
    floor: Decimal | None = None


@dataclass(frozen=True, slots=True)
class MeasurePoints:
    """Points of a measure; ``improvement`` is None without a baseline."""

    achievement: int
    improvement: int | None

    @property
    def score(self) -> int:
        """The better of both."""
        return max(self.achievement, self.improvement or 0)


@dataclass(frozen=True, slots=True)
class WeightedDomain:
    """A domain's part in the Total Performance Score; ``weight`` after missing domains gave theirs away."""

    score: Decimal
    weight: Decimal

    @property
    def weighted(self) -> Decimal:
        """Score times weight."""
        return self.score * self.weight


def measure_points(rates: Rates) -> MeasurePoints:
    """Achievement and improvement points."""
    standards = (rates.threshold, rates.benchmark)
    return MeasurePoints(
        achievement_points(rates.performance, *standards),
        None if rates.baseline is None else improvement_points(rates.performance, rates.baseline, *standards),
    )


def consistency_points(dimensions: Sequence[Rates]) -> int | None:
    """0-20 points for the lowest dimension, between floor and achievement threshold; None without floors."""
    reached = []
    for rates in dimensions:
        if rates.floor is None or rates.threshold == rates.floor:
            return None
        reached.append((rates.performance - rates.floor) / (rates.threshold - rates.floor))
    if not reached:
        return None
    lowest = min(reached)
    if lowest >= 1:
        return CONSISTENCY
    return 0 if lowest <= 0 else max(0, round_half_up(CONSISTENCY * lowest - Decimal("0.5")))


def survey_base(scores: Sequence[int]) -> int | None:
    """Sum of the dimension scores, brought to 0-80 when there are more or fewer than eight dimensions."""
    if not scores:
        return None
    return round_half_up(Decimal(SURVEY_BASE * sum(scores)) / (10 * len(scores)))


def combined_score(parts: Sequence[tuple[int, Decimal]]) -> int | None:
    """Score of a measure made of several: weighted by predicted infections (score, weight)."""
    weight = sum((weight for _, weight in parts), ZERO)
    if not weight:
        return None
    return round_half_up(sum((score * weight for score, weight in parts), ZERO) / weight)


def domain_score(scores: Sequence[int], minimum: int = 1) -> Decimal | None:
    """100 x points / (10 x measures scored); None below the minimum of measures."""
    if not scores or len(scores) < minimum:
        return None
    return _HUNDRED * sum(scores) / (10 * len(scores))


def weighted_domains(
    scores: Mapping[str, Decimal | None], weights: Mapping[str, Decimal], minimum: int
) -> dict[str, WeightedDomain] | None:
    """Domains with the weights they have once missing ones gave theirs to the rest; None below ``minimum``."""
    there = {name: score for name, score in scores.items() if score is not None}
    whole = sum(weights.values(), ZERO)
    left = sum((weights[name] for name in there), ZERO)
    if len(there) < minimum or not left:
        return None
    return {name: WeightedDomain(score, weights[name] * whole / left) for name, score in there.items()}


def total_performance_score(domains: Mapping[str, WeightedDomain]) -> Decimal:
    """Sum of the weighted domain scores, 0-100."""
    return sum((domain.weighted for domain in domains.values()), ZERO)


@dataclass(frozen=True, slots=True)
class Exchange:
    """The exchange function of a year: what is withheld from all hospitals is paid to all, by score."""

    withhold: Decimal
    slope: Decimal

    def incentive_rate(self, score: Decimal) -> Decimal:
        """Value-based incentive payment as a fraction of base operating DRG payments."""
        return self.withhold * score / _HUNDRED * self.slope

    def payment_factor(self, score: Decimal) -> Decimal:
        """What base operating DRG payments are multiplied with."""
        return ONE - self.withhold + self.incentive_rate(score)


def exchange(hospitals: Sequence[tuple[Decimal, Decimal]], withhold: Decimal) -> Exchange:
    """The linear exchange function through zero that is budget neutral over (base payments, score) of all hospitals."""
    base = sum((base for base, _ in hospitals), ZERO)
    scored = sum((base * score for base, score in hospitals), ZERO)
    if scored <= 0:
        raise ContractError("exchange: no hospital has both payments and a score, nothing can be paid out")
    return Exchange(withhold, base * _HUNDRED / scored)
