"""Adjustments of a historical benchmark per capita: regional, prior savings, population; the highest one counts."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from fhir_gateway.contracts.benchmarks.blend import ZERO

Kind = Literal["regional", "prior", "population", "none"]


@dataclass(frozen=True, slots=True)
class Adjustment:
    """The adjustment that counts, per capita."""

    kind: Kind
    amount: Decimal


def final_adjustment(
    regional: Decimal | None, prior: Decimal | None, *, new_rules: bool, population: Decimal | None = None
) -> Adjustment:
    """The higher of the regional and the prior savings adjustment, or the population adjustment when it is higher.

    Agreement periods from 2024 (``new_rules``, 42 CFR 425.652(a)): a negative regional adjustment is replaced by none.
    """
    found = Adjustment("regional", regional) if regional is not None else Adjustment("none", ZERO)
    if new_rules and found.amount <= 0:
        found = Adjustment("none", ZERO)
    if prior is not None and prior > max(found.amount, ZERO):
        found = Adjustment("prior", prior)
    if population is not None and population > max(found.amount, ZERO):
        found = Adjustment("population", population)
    return found


def regional_adjustment(
    regional: Decimal,
    own: Decimal,
    weight: Decimal,
    national: Decimal,
    cap: Decimal,
    negative_cap: Decimal,
    offset: Decimal = ZERO,
) -> Decimal:
    """``weight`` x (risk-adjusted region - own), between the caps, which are shares of ``national``; all per capita.

    A negative one is lessened by ``offset``, a part of it.
    """
    value = min(cap * national, max(-negative_cap * national, weight * (regional - own)))
    return value if value >= 0 else value * (1 - offset)


def prior_savings_adjustment(
    net_savings: Decimal, share: Decimal, growth: Decimal, cap: Decimal, national: Decimal
) -> Decimal:
    """``share`` of the mean net savings per capita of the years before, prorated for growth, at most ``cap``.

    ``growth`` is person years then / those of the benchmark, at most 1: savings per head do not multiply with heads.
    Losses on the whole adjust nothing.
    """
    return min(cap * national, max(ZERO, share * net_savings * min(Decimal(1), growth)))


def population_adjustment(
    dual_share: Decimal, minimum: Decimal, cap: Decimal, national: Decimal, others: Decimal
) -> Decimal:
    """(cap - the higher of the others) x share of dual eligible or low-income members, from a minimum share on."""
    if dual_share < minimum:
        return ZERO
    return max(ZERO, (cap * national - max(others, ZERO)) * dual_share)
