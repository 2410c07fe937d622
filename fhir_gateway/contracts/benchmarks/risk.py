"""Risk ratios and their caps."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from fhir_gateway.contracts.benchmarks.blend import ONE, weighted


def capped_ratio(ratio: Decimal, cap: Decimal | None, floor: Decimal | None = None) -> Decimal:
    """A ratio that rises at most ``cap`` above 1 and falls at most ``floor`` below it."""
    if cap is not None:
        ratio = min(ratio, ONE + cap)
    if floor is not None:
        ratio = max(ratio, ONE - floor)
    return ratio


def capped_in_aggregate(
    ratios: Mapping[str, Decimal],
    demographic: Mapping[str, Decimal],
    weights: Mapping[str, Decimal],
    allowance: Decimal,
) -> tuple[dict[str, Decimal], Decimal, Decimal]:
    """Ratios of enrolment types, capped only when all together grow more than their demographics and an allowance.

    42 CFR 425.605(a)(1)(ii), agreement periods from 2024: the cap of every type is then the aggregate demographic ratio
    plus the allowance. Returns the ratios, their aggregate before the cap, and the cap.
    """
    order = sorted(ratios)
    shares = [weights[name] for name in order]
    aggregate = weighted([ratios[name] for name in order], shares)
    cap = weighted([demographic[name] for name in order], shares) + allowance
    if aggregate <= cap:
        return dict(ratios), aggregate, cap
    return {name: min(ratio, cap) for name, ratio in ratios.items()}, aggregate, cap
