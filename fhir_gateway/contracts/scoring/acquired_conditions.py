"""Hospital-Acquired Condition Reduction Program: winsorised z-scores, total score, the worst quarter.

42 CFR 412.170-172. Percentiles and the reduction are data (``contracts/programmes/hospital_acquired_conditions.toml``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from fhir_gateway.contracts.programmes import ProgrammeYear, programme_year
from fhir_gateway.contracts.scoring.points import ONE, ZERO, clip
from fhir_gateway.contracts.terms import Fraction
from fhir_gateway.errors import ContractError


class AcquiredConditionsYear(ProgrammeYear):
    """A fiscal year: percentiles to winsorise at, the one above which payment is reduced, and by how much."""

    winsor: tuple[Fraction, Fraction]
    cut_percentile: Fraction
    reduction: Fraction
    measures: tuple[str, ...]

    @classmethod
    def of(cls, year: int) -> AcquiredConditionsYear:
        """The shipped table for a fiscal year."""
        return programme_year("hospital_acquired_conditions", year, cls)


def percentile(values: Sequence[Decimal], at: Decimal) -> Decimal:
    """Empirical distribution with averaging: where n x ``at`` is whole, the mean of that value and the next."""
    if not values:
        raise ContractError("percentile: there is no value")
    ordered = sorted(values)
    place = at * len(ordered)
    index = int(place)
    if place == index and 0 < index < len(ordered):
        return (ordered[index - 1] + ordered[index]) / 2
    return ordered[min(index, len(ordered) - 1)]


def z_scores(results: Mapping[str, Decimal], winsor: tuple[Decimal, Decimal]) -> dict[str, Decimal]:
    """Winsorised z-score of each hospital: positive is worse than the mean. All zero when nobody differs."""
    if not results:
        return {}
    low, high = (percentile(list(results.values()), at) for at in winsor)
    kept = {name: clip(value, low, high) for name, value in results.items()}
    mean = sum(kept.values(), ZERO) / len(kept)
    squares = sum(((value - mean) ** 2 for value in kept.values()), ZERO)
    if not squares:
        return dict.fromkeys(kept, ZERO)
    deviation = (squares / (len(kept) - 1)).sqrt()
    return {name: (value - mean) / deviation for name, value in kept.items()}


def total_score(scores: Sequence[Decimal]) -> Decimal | None:
    """Mean of the z-scores that a hospital has; None without any."""
    return sum(scores, ZERO) / len(scores) if scores else None


def is_reduced(total: Decimal, cut: Decimal) -> bool:
    """Whether a total score is in the worst part: above the cut."""
    return total > cut


def payment_factor(total: Decimal, cut: Decimal, reduction: Decimal) -> Decimal:
    """What all Medicare inpatient payment is multiplied with."""
    return ONE - reduction if is_reduced(total, cut) else ONE
