"""Where a contract will end: cost so far completed for what is not yet paid (IBNR), and carried on to the period's end.

Months still to come cost what a completed month of this year costs on average; the band says how far off the total
would be if they varied as the past ones did. An estimate for people who act on it, never a settlement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from math import sqrt
from statistics import NormalDist, stdev

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.contracts.arrangements import SettlementInputs
from fhir_gateway.contracts.benchmarks.completion import triangle
from fhir_gateway.contracts.contract import Contract
from fhir_gateway.contracts.service import settle
from fhir_gateway.errors import ContractError

ZERO = Decimal(0)
_LEARNED_MONTHS = 24


@dataclass(frozen=True, slots=True)
class Projection:
    """Cost and total at the period's end, in the contract's currency: expected, and at both ends of the band."""

    through: date
    paid: Decimal  # cost of the period so far
    ibnr: Decimal  # incurred in it and not yet paid
    to_come: Decimal  # of the months that are left
    months_left: int
    level: float  # share of outcomes that the band is to hold
    cost: Decimal
    total: Decimal
    cost_low: Decimal
    total_at_low_cost: Decimal
    cost_high: Decimal
    total_at_high_cost: Decimal


def project(
    contract: Contract, inputs: SettlementInputs, members: pa.Array, lines: pa.Table, as_of: date, level: float = 0.8
) -> Projection:
    """Project a settlement's inputs to the end of the period; ``as_of`` is the last day of a month of known claims.

    ContractError when ``as_of`` lies outside of the period, or an arrangement does not rest on total cost alone.
    """
    start, end = contract.dates
    if not start <= as_of < end:
        raise ContractError("projection: its day lies in the period, before the last day")
    if columns := [terms.id for terms in contract.arrangements if terms.needs()]:
        raise ContractError(f"projection: {', '.join(columns)} rest on more than total cost and cannot be carried on")
    types = sorted(set(pc.unique(lines["claim_type"]).to_pylist()) - set(contract.claims.types))
    counting = lines.filter(lines["counts"]) if "counts" in lines.column_names else lines
    known = triangle(counting, members, as_of, _LEARNED_MONTHS, contract.claims.amount, [t for t in types if t])
    elapsed, whole = _months(start, as_of), _months(start, end)
    mine = slice(_LEARNED_MONTHS - elapsed, _LEARNED_MONTHS)
    completed = known.ultimate()[mine]
    paid = sum((row[-1] for row in known.amounts[mine]), ZERO)
    ultimate = sum(completed, ZERO)
    left = whole - elapsed
    to_come = ultimate / elapsed * left
    spread = _spread(completed, left, level)
    cost = ultimate + to_come
    low, high = max(ultimate, cost - spread), cost + spread
    totals = [_total(contract, inputs, value) for value in (cost, low, high)]
    return Projection(
        through=as_of,
        paid=paid,
        ibnr=ultimate - paid,
        to_come=to_come,
        months_left=left,
        level=level,
        cost=cost,
        total=totals[0],
        cost_low=low,
        total_at_low_cost=totals[1],
        cost_high=high,
        total_at_high_cost=totals[2],
    )


def _spread(months: tuple[Decimal, ...], left: int, level: float) -> Decimal:
    """Half the width of the band: months to come vary as those so far did, and their mean is an estimate itself."""
    if len(months) < 2 or not left:
        return ZERO
    z = NormalDist().inv_cdf(0.5 + level / 2)
    deviation = stdev(float(month) for month in months)
    return Decimal(str(round(z * deviation * sqrt(left + left * left / len(months)), 2)))


def _total(contract: Contract, inputs: SettlementInputs, cost: Decimal) -> Decimal:
    carried = replace(
        inputs.exposure,
        cost=cost,
        cost_before_completion=cost,
        cost_before_truncation=cost,
        truncated_members=0,
    )
    return settle(contract, replace(inputs, exposure=carried, cut=None, part=Decimal(1))).total


def _months(start: date, end: date) -> int:
    return (end.year - start.year) * 12 + end.month - start.month + 1
