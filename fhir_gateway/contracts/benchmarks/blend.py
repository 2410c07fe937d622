"""Blends: credibility of own experience, and weighted means of several sources or years."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from fhir_gateway.errors import ContractError

ZERO, ONE = Decimal(0), Decimal(1)


def credibility(exposure: Decimal, full: Decimal) -> Decimal:
    """Limited fluctuation credibility: the root of the part of full credibility that is reached, at most 1."""
    return ONE if exposure >= full else (exposure / full).sqrt()


def blended(own: Decimal, other: Decimal, weight_of_own: Decimal) -> Decimal:
    """``own`` and ``other`` by the weight of ``own``."""
    return weight_of_own * own + (ONE - weight_of_own) * other


def weighted(values: Sequence[Decimal], weights: Sequence[Decimal]) -> Decimal:
    """Weighted mean; the weights need not sum to 1. ContractError when they sum to nothing."""
    whole = sum(weights, ZERO)
    if not whole:
        raise ContractError("weights: sum to nothing")
    return sum((value * weight for value, weight in zip(values, weights, strict=True)), ZERO) / whole
