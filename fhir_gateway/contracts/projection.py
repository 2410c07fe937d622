"""Where a contract will end: cost so far completed for what is not yet paid (IBNR), and carried on to the period's end.

Months still to come cost what a completed month of this year costs on average; the band says how far off the total
would be if they varied as the past ones did. Payments that rest on something else than cost are carried on each in its
way (:data:`~fhir_gateway.contracts.arrangements.base.Carried`) or refused with the reason. An estimate for people who
act on it, never a settlement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from math import sqrt
from statistics import NormalDist, stdev

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.contracts.arrangements import SettlementInputs
from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried
from fhir_gateway.contracts.benchmarks.completion import triangle
from fhir_gateway.contracts.contract import Contract
from fhir_gateway.contracts.service import settle
from fhir_gateway.contracts.settlement import publish
from fhir_gateway.errors import ContractError

ZERO = Decimal(0)
_LEARNED_MONTHS = 24


@dataclass(frozen=True, slots=True)
class ProjectedPayment:
    """What an arrangement will come to, and how it was carried on; beside cost, the band's ends are the same."""

    arrangement: str
    carried: Carried
    total: Decimal


@dataclass(frozen=True, slots=True)
class ProjectedMonth:
    """Cost from the first month of the period up to the end of one, completed; months to come have no ``paid``."""

    month: date  # its first day
    paid: Decimal | None
    cost: Decimal
    low: Decimal
    high: Decimal


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
    payments: tuple[ProjectedPayment, ...] = ()
    path: tuple[ProjectedMonth, ...] = ()  # month by month; the last one says what cost and band say


def project(
    contract: Contract,
    inputs: SettlementInputs,
    members: pa.Array,
    lines: pa.Table,
    as_of: date,
    level: float = 0.8,
    so_far: SettlementInputs | None = None,
) -> Projection:
    """Project a settlement's inputs to the end of the period; ``as_of`` is the last day of a month of known claims.

    ``inputs`` are of the whole period, ``so_far`` those of the part up to ``as_of``, which arrangements need that are
    carried on by time. ContractError when ``as_of`` lies outside of the period, and of an arrangement that has no
    projection the reason.
    """
    start, end = contract.dates
    if not start <= as_of < end:
        raise ContractError("projection: its day lies in the period, before the last day")
    how = {terms.id: terms.carried_on() for terms in contract.arrangements}
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
    path = _path(start, tuple(row[-1] for row in known.amounts[mine]), completed, left, level)
    cost, low, high = path[-1].cost, path[-1].low, path[-1].high
    grown = Decimal(whole) / elapsed
    completion = ultimate / paid if paid > 0 else Decimal(1)
    fixed = {
        terms.id: _carried(contract, terms, how[terms.id], inputs, so_far, grown, completion)
        for terms in contract.arrangements
        if how[terms.id] != "cost"
    }
    by_cost = [
        {t.id: _total(contract, t, inputs, value) for t in contract.arrangements if how[t.id] == "cost"}
        for value in (cost, low, high)
    ]
    totals = [sum((*fixed.values(), *found.values()), ZERO) for found in by_cost]
    expected = fixed | by_cost[0]
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
        payments=tuple(ProjectedPayment(name, way, expected[name]) for name, way in how.items()),
        path=path,
    )


def _path(
    start: date, paid: Sequence[Decimal], completed: tuple[Decimal, ...], left: int, level: float
) -> tuple[ProjectedMonth, ...]:
    """Month by month: what is known and its completion, then what the months to come add, with the band around it."""
    found = []
    known = cost = ZERO
    for number, (amount, whole) in enumerate(zip(paid, completed, strict=True)):
        known, cost = known + amount, cost + whole
        found.append(ProjectedMonth(_month(start, number), known, cost, cost, cost))
    elapsed = len(completed)
    for ahead in range(1, left + 1):
        expected, spread = cost + cost / elapsed * ahead, _spread(completed, ahead, level)
        month = _month(start, elapsed + ahead - 1)
        found.append(ProjectedMonth(month, None, expected, max(cost, expected - spread), expected + spread))
    return tuple(found)


def _month(start: date, number: int) -> date:
    """The first day of a month so many after that of a day."""
    whole = start.year * 12 + start.month - 1 + number
    return date(whole // 12, whole % 12 + 1, 1)


def _spread(months: tuple[Decimal, ...], left: int, level: float) -> Decimal:
    """Half the width of the band: months to come vary as those so far did, and their mean is an estimate itself."""
    if len(months) < 2 or not left:
        return ZERO
    z = NormalDist().inv_cdf(0.5 + level / 2)
    deviation = stdev(float(month) for month in months)
    return Decimal(str(round(z * deviation * sqrt(left + left * left / len(months)), 2)))


def _carried(
    contract: Contract,
    terms: ArrangementTerms,
    how: Carried,
    inputs: SettlementInputs,
    so_far: SettlementInputs | None,
    grown: Decimal,
    completion: Decimal,
) -> Decimal:
    """What an arrangement comes to that does not rest on cost; ``grown`` is the whole period by its part."""
    if how in ("months", "scores"):
        return _alone(contract, terms, replace(inputs, cut=None, part=Decimal(1)))
    if so_far is None:
        raise terms.not_carried("needs what the period came to so far")
    factor = grown * completion if how == "services" else grown
    return publish(_alone(contract, terms, so_far) * factor, contract.rounding)


def _alone(contract: Contract, terms: ArrangementTerms, inputs: SettlementInputs) -> Decimal:
    """The total of one arrangement."""
    return settle(contract.model_copy(update={"arrangements": (terms,), "distributions": ()}), inputs).total


def _total(contract: Contract, terms: ArrangementTerms, inputs: SettlementInputs, cost: Decimal) -> Decimal:
    carried = replace(
        inputs.exposure,
        cost=cost,
        cost_before_completion=cost,
        cost_before_truncation=cost,
        truncated_members=0,
    )
    return _alone(contract, terms, replace(inputs, exposure=carried, cut=None, part=Decimal(1)))


def _months(start: date, end: date) -> int:
    return (end.year - start.year) * 12 + end.month - start.month + 1
