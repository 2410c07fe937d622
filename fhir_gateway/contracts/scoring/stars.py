"""Medicare Advantage star ratings, as far as a provider needs them: stars of a measure, what is missing to the next.

Cut points are published per year and measure, and given by whoever asks; nothing here knows any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from itertools import pairwise

from fhir_gateway.contracts.scoring.points import ONE, ZERO, Direction
from fhir_gateway.errors import ContractError


@dataclass(frozen=True, slots=True)
class StarGap:
    """A measure's stars and how many more members must comply (or, of an inverse measure, fewer) for the next.

    ``needed`` is None at five stars. ``reachable``: the denominator has as many members that do not yet comply.
    """

    stars: int
    next_cut: Decimal | None
    needed: int | None
    reachable: bool


def stars(score: Decimal, cuts: Sequence[Decimal], direction: Direction = "increase") -> int:
    """1-5 stars by the cut points of two to five stars, in that order; a score at a cut point has its stars."""
    sign = ONE if direction == "increase" else -ONE
    if len(cuts) != 4 or any(sign * (b - a) <= 0 for a, b in pairwise(cuts)):
        raise ContractError("stars: four cut points are needed, from worse to better")
    return 1 + sum(1 for cut in cuts if sign * (score - cut) >= 0)


def gap_to_next(
    numerator: int, denominator: int, cuts: Sequence[Decimal], direction: Direction = "increase"
) -> StarGap:
    """ceil(cut x denominator - numerator) members to the next cut point; cut points are fractions."""
    if denominator <= 0:
        raise ContractError("stars: the denominator is empty")
    found = stars(Decimal(numerator) / denominator, cuts, direction)
    if found == 5:
        return StarGap(5, None, None, True)
    cut = cuts[found - 1]
    needed = members_to(cut, numerator, denominator, direction)
    room = denominator - numerator if direction == "increase" else numerator
    return StarGap(found, cut, needed, needed <= room)


def members_to(cut: Decimal, numerator: int, denominator: int, direction: Direction = "increase") -> int:
    """How many more members must comply (of an inverse measure, fewer) for a rate to reach ``cut``, a fraction."""
    distance = cut * denominator - numerator
    return max(0, int((distance if direction == "increase" else -distance).to_integral_value(ROUND_CEILING)))


def weighted_average(measures: Sequence[tuple[int, Decimal]]) -> Decimal:
    """Summary rating before rewards: mean of (stars, weight)."""
    weight = sum((weight for _, weight in measures), ZERO)
    if not weight:
        raise ContractError("stars: no measure has a weight")
    return sum((stars * weight for stars, weight in measures), ZERO) / weight


def half_stars(rating: Decimal) -> Decimal:
    """To half stars: 3.749 is 3.5, 3.750 is 4.0."""
    return (rating * 2).to_integral_value(ROUND_HALF_UP) / 2
