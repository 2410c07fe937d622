"""What ACO REACH adds to benchmark and cost: regional blend, risk, individual stop-loss, equity adjustment."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from fhir_gateway.contracts.arrangements.base import SettlementInputs
from fhir_gateway.contracts.benchmarks.cost import member_costs
from fhir_gateway.contracts.benchmarks.risk import capped_ratio
from fhir_gateway.contracts.benchmarks.stop_loss import band_costs
from fhir_gateway.contracts.scoring import ZERO
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.social_risk import tenths
from fhir_gateway.contracts.statements import percent
from fhir_gateway.errors import ContractError

if TYPE_CHECKING:
    from fhir_gateway.contracts.arrangements.reach import Equity, ReachBenchmark, StopLoss
    from fhir_gateway.contracts.arrangements.reach_rules import ReachYear


def add_rate(terms: ReachBenchmark, year: ReachYear, where: str, ledger: Ledger) -> Number:
    """The benchmark per member month: historical, blended with the region, adjusted by risk."""
    add = ledger.add
    rate = add("rate-historical", terms.amount, "Benchmark per member month", "as agreed", f"{where}.amount")
    if terms.regional:
        blend, term = terms.regional, f"{where}.regional"
        share = year.regional if blend.share is None else blend.share
        cap = year.regional_cap if blend.cap is None else blend.cap
        floor = year.regional_floor if blend.floor is None else blend.floor
        effect = share * (blend.amount - rate.value)
        value = min(cap * blend.national, max(-floor * blend.national, effect))
        bounds = f"within +{percent(cap)} and -{percent(floor)} of national"
        formula = f"{percent(share)} x (region {blend.amount} - own), {bounds}"
        line = add("rate-regional", value, "Regional part per member month", formula, term, (rate,))
        label = "Benchmark per member month, blended"
        rate = add("rate-blended", rate.value + line.value, label, "own + regional part", term, (rate, line))
    if terms.risk:
        risk, term = terms.risk, f"{where}.risk"
        cap = year.risk_cap if risk.cap is None else risk.cap
        floor = year.risk_cap if risk.floor is None else risk.floor
        formula = f"{risk.year} / {risk.base}, between 1 - {percent(floor)} and 1 + {percent(cap)}"
        factor = add(
            "rate-risk", capped_ratio(risk.year / risk.base, cap, floor), "Risk factor", formula, term, unit="1"
        )
        label = "Benchmark per member month, risk adjusted"
        rate = add("rate-adjusted", rate.value * factor.value, label, "x risk factor", term, (rate, factor))
    return rate


def add_stop_loss(
    terms: StopLoss, inputs: SettlementInputs, months: Number, cost: Number, where: str, ledger: Ledger
) -> Number:
    """Cost net of individual stop-loss: less what it pays, plus what it costs."""
    add = ledger.add
    if terms.notified is not None:
        net = add("stop-loss", terms.notified, "Stop-loss: charge less payout", "as notified", f"{where}.notified")
        because = [cost, net]
        value = cost.value + net.value
    else:
        facts = inputs.columns()
        costs = member_costs(facts.lines, facts.people["member"].combine_chunks(), facts.period)
        inside = band_costs(costs, [band.at for band in terms.bands])
        because, value = [cost], cost.value
        for number, (band, amount) in enumerate(zip(terms.bands, inside, strict=True), 1):
            formula = f"{percent(band.share)} of cost above {band.at} per member: {amount}"
            line = add(
                f"stop-loss-{number}", -band.share * amount, f"Stop-loss band {number}", formula, f"{where}.bands"
            )
            because.append(line)
            value += line.value
        if terms.charge:
            formula, amount = f"{terms.charge} x member months", terms.charge * months.value
            charge = add(
                "stop-loss-charge",
                terms.charge * months.value,
                "Stop-loss charge",
                formula,
                f"{where}.charge",
                (months,),
            )
            because.append(charge)
            value += charge.value
    return add("net-cost", value, "Total cost of care net of stop-loss", "cost + stop-loss", where, because)


def add_equity(
    terms: Equity,
    amounts: Sequence[Decimal],
    poor_points: int,
    inputs: SettlementInputs,
    number: Number,
    where: str,
    ledger: Ledger,
) -> Number:
    """The benchmark after the equity adjustment."""
    up, down, formula = terms.up, terms.down, "as notified"
    if terms.by_tenth:
        facts = inputs.columns()
        if scores := terms.scores:
            points = poor_points if scores.poor_points is None else scores.poor_points
            ranked = tenths(facts.table(scores.table), points, scores.cuts)
        else:
            ranked = facts.table("equity_tenths")
        months = _months_by_tenth(ranked, facts.months)
        parts = [amount * count for amount, count in zip(amounts, months, strict=True)]
        up, down = (sum((part for part in parts if sign * part > 0), ZERO) for sign in (1, -1))
        formula = "sum over tenths of amount x member months"
    raised = ledger.add("equity-up", up, "Equity adjustment, up", formula, where)
    lowered = ledger.add("equity-down", down, "Equity adjustment, down", formula, where)
    value = number.value + raised.value + lowered.value
    label = "Benchmark after the equity adjustment"
    return ledger.add("after-equity", value, label, "benchmark + up + down", where, (number, raised, lowered))


def _months_by_tenth(tenths: pa.Table, months: pa.Table) -> tuple[Decimal, ...]:
    """Member months of each of the ten; members without a score count in none."""
    with duckdb.connect() as connection:
        connection.register("tenths", tenths)
        connection.register("months", months)
        found = connection.sql(
            """
            WITH each AS (SELECT member, any_value(tenth) AS tenth FROM tenths GROUP BY member)
            SELECT tenth, sum(months)::DECIMAL(38, 8) FROM each JOIN months USING (member) GROUP BY tenth
            """
        ).fetchall()
    counts = dict(found)
    if any(tenth not in range(1, 11) for tenth in counts):
        raise ContractError("tables.equity_tenths: tenth is not a number from 1 to 10")
    return tuple(counts.get(tenth, ZERO) for tenth in range(1, 11))
