"""A risk pool: a fund for the cost of members, stop-loss on it, and a corridor for what is left or lacking."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal, NamedTuple

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.capitation_rows import price
from fhir_gateway.contracts.arrangements.facts import Facts, Needs
from fhir_gateway.contracts.audit import AMOUNT, ZERO, connect, total
from fhir_gateway.contracts.benchmarks.completion import triangle
from fhir_gateway.contracts.calendar import Cut
from fhir_gateway.contracts.cells import CellTerms
from fhir_gateway.contracts.risk_corridor import CarryForward, CorridorTerms, add_carry_forward, add_corridor
from fhir_gateway.contracts.scoring import composite, score_measures
from fhir_gateway.contracts.service_categories import CATEGORY_COLUMNS, ServiceTerms, categorize
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import add_exposure, add_measures, percent
from fhir_gateway.contracts.stop_loss import AggregateStopLoss, IndividualStopLoss, recover_in
from fhir_gateway.contracts.terms import Fraction, MeasureTerms, Money, Terms
from fhir_gateway.errors import ContractError

COMPLETION_SCHEMA = pa.schema(
    [pa.field("lag", pa.int32(), nullable=False), pa.field("completed", AMOUNT, nullable=False)]
)


class Fund(Terms):
    """What there is for the cost: an amount in ``total``, ``pmpm``, or the capitation by rate ``cells``.

    The target is ``ratio`` times the fund: 0.85 for a corridor around a target loss ratio.
    """

    kind: Literal["total", "pmpm", "cells"]
    amount: Annotated[Decimal, Field(gt=0)] | None = None
    ratio: Annotated[Decimal, Field(gt=0)] = Decimal(1)


class CompletionTerms(Terms):
    """What is not paid yet at ``as_of``: by a table of the part completed after ``lag`` months, or by chain ladder."""

    kind: Literal["table", "chain_ladder"]
    as_of: date
    table: str = "completion"
    months: int = Field(default=24, ge=2, description="Months of service in the triangle.")


class PoolCost(NamedTuple):
    """Cost of members in months that count: paid, what is between attachment and limit of individual stop-loss and
    what of it is recovered, what is not paid yet."""

    paid: Decimal
    insured: Decimal
    recovered: Decimal
    recovered_members: int
    ibnr: Decimal


@arrangement("risk_pool")
class RiskPool(ArrangementTerms):
    """Terms of a risk pool, in their order: cost, individual stop-loss, completion, aggregate stop-loss, corridor."""

    kind: Literal["risk_pool"]
    fund: Fund
    cells: CellTerms | None = None
    services: ServiceTerms | None = Field(default=None, description="Capitated services are charged; default all.")
    amount: Literal["paid", "allowed"] = "paid"
    individual: IndividualStopLoss | None = None
    aggregate: AggregateStopLoss | None = None
    completion: CompletionTerms | None = None
    corridor: CorridorTerms
    reference: Literal["target", "fund"] = Field(default="target", description="What the bands are parts of.")
    gate: Fraction | None = Field(default=None, description="Composite below which no surplus is paid.")
    carry_forward: CarryForward | None = None
    surplus_cap: Money | None = None
    deficit_cap: Money | None = None
    missing: Literal["reweight", "zero"] = "reweight"

    metrics = (
        *("eligible-member", "member-months", "med-cost-fund", "med-cost-target", "med-cost", "med-ibnr"),
        *("med-loss-ratio", "med-loss-ratio-target", "quality-gate-percentage"),
        *("shared-saving-deficit", "performance-cap", "earnings-cap"),
    )

    def stream(self) -> str:
        """Total cost of care."""
        return "tcoc"

    def uses_quality(self) -> bool:
        """Where there is a gate."""
        return self.gate is not None

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        where = self.where
        found = self.corridor.problems(f"{where}.corridor")
        found += self.services.problems(f"{where}.services") if self.services else []
        found += self.cells.problems(f"{where}.cells") if self.cells else []
        found += self.individual.problems(f"{where}.individual") if self.individual else []
        found += self.aggregate.problems(f"{where}.aggregate") if self.aggregate else []
        if (self.fund.kind == "cells") != (self.cells is not None):
            found.append(f"{where}.cells: go with fund.kind = 'cells'")
        if (self.fund.kind == "cells") == (self.fund.amount is not None):
            found.append(f"{where}.fund.amount: goes with a fund in total or pmpm")
        if self.individual is not None and self.individual.categories and self.services is None:
            found.append(f"{where}.individual.categories: there are no service categories")
        if self.carry_forward is not None and self.deficit_cap is not None:
            found.append(f"{where}.deficit_cap: deficits are carried forward, none is paid")
        return found

    def carried_on(self) -> Carried:
        """By cost so far, which grows as the fund does, unless amounts of a whole year are set against it."""
        if self.individual or self.aggregate or self.carry_forward or self.surplus_cap or self.deficit_cap:
            raise self.not_carried("stop-loss, caps and deficits are of a whole year, and not of a part of it")
        if self.completion is None:
            raise self.not_carried("its cost so far is not complete, and no completion is agreed")
        return "time"

    def needs(self) -> Needs:
        """Claim lines, and the tables its terms name."""
        tables = self.cells.tables() if self.cells else {}
        tables |= self.services.tables() if self.services else {}
        if self.completion is not None and self.completion.kind == "table":
            tables[self.completion.table] = COMPLETION_SCHEMA
        lines = ("denied", "service_from", "payment_date", "claim_type", "paid", "allowed")
        codes = CATEGORY_COLUMNS if self.services else ()
        return Needs(lines=tuple(dict.fromkeys((*lines, *codes))), tables=tables, people=True)

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Fund, cost, stop-loss, corridor, gate, deficits, limits, payable."""
        _, months = add_exposure(ledger, inputs.exposure)
        facts = inputs.columns()
        fund = self._fund(facts, inputs.part, months, ledger)
        ratio = percent(self.fund.ratio)
        target = ledger.add(
            "target", fund.value * self.fund.ratio, "Target cost", f"{ratio} x fund", f"{self.where}.fund", (fund,),
            metric="med-cost-target",
        )  # fmt: skip
        cost = self._cost(pool_cost(facts, self, inputs.cut), target, months, ledger)
        where = f"{self.where}.fund"
        loss_ratio = cost.value / fund.value if fund.value else None
        ledger.add(
            "loss-ratio",
            loss_ratio,
            "Loss ratio",
            "cost / fund",
            where,
            (cost, fund),
            unit="1",
            metric="med-loss-ratio",
        )
        ledger.add(
            "loss-ratio-target", self.fund.ratio, "Target loss ratio", "as agreed", where, unit="1",
            metric="med-loss-ratio-target",
        )  # fmt: skip
        reference = target if self.reference == "target" else fund
        result = add_corridor(ledger, self.corridor, cost, target, reference, f"{self.where}.corridor")
        result = self._gate(result, inputs, measures, ledger)
        if self.carry_forward is not None:
            year = facts.period[1].year
            result = add_carry_forward(ledger, self.carry_forward, result, year, f"{self.where}.carry_forward")
        for name, cap in (("surplus_cap", self.surplus_cap), ("deficit_cap", self.deficit_cap)):
            sign = 1 if name == "surplus_cap" else -1
            if cap is not None and sign * result.value > cap:
                label = "Most that is paid" if sign > 0 else "Most that is owed"
                result = ledger.add(name, sign * cap, label, "as agreed", f"{self.where}.{name}", (result,))
        ledger.pay(result, "Surplus (deficits are negative)", self.where, "earnings-cap")

    def _fund(self, facts: Facts, part: Decimal, months: Number, ledger: Ledger) -> Number:
        term, amount = f"{self.where}.fund", self.fund.amount or ZERO
        because: tuple[Number, ...] = ()
        if self.cells is not None:
            rows, _ = price(facts.tables, facts.months, facts.people, self.cells, None, None, (), self.where)
            value, formula = total(rows), "sum of the rates of all member months"
        elif self.fund.kind == "pmpm":
            value, formula, because = amount * months.value, f"{amount} x member months", (months,)
        else:
            value = amount * part
            formula = "as agreed" if part == 1 else f"as agreed, {percent(part)} of the period"
        return ledger.add("fund", value, "Fund", formula, term, because, metric="med-cost-fund")

    def _cost(self, found: PoolCost, target: Number, months: Number, ledger: Ledger) -> Number:
        where = self.where
        paid = ledger.add("paid", found.paid, "Cost so far", f"sum of {self.amount} lines", f"{where}.services")
        parts = [paid]
        for name, terms in (("individual", self.individual), ("aggregate", self.aggregate)):
            if terms is not None and terms.premium_pmpm:
                premium, term = terms.premium_pmpm, f"{where}.{name}.premium_pmpm"
                label, formula = f"Premium of {name} stop-loss", f"{premium} x member months"
                parts.append(ledger.add(f"{name}.premium", premium * months.value, label, formula, term, (months,)))
        if self.individual is not None:
            note = f"{found.recovered_members} members above {self.individual.attachment}"
            label, term = "Cost of members within individual stop-loss", f"{where}.individual.attachment"
            insured = ledger.add("insured", found.insured, label, note, term)
            label, note = "Individual stop-loss recovers", f"{percent(self.individual.coinsurance)} of it"
            term = f"{where}.individual.coinsurance"
            parts.append(ledger.add("individual", -found.recovered, label, note, term, (insured,)))
        if self.completion is not None:
            note = "completed - so far, by months since service"
            term = f"{where}.completion"
            parts.append(
                ledger.add("ibnr", found.ibnr, "Incurred, not yet paid", note, term, (paid,), metric="med-ibnr")
            )
        value = sum((part.value for part in parts), ZERO)
        if self.aggregate is not None:
            before = ledger.add("before-aggregate", value, "Cost before aggregate stop-loss", "sum", where, parts)
            back = -self.aggregate.recovered(before.value, target.value)
            note = f"{percent(self.aggregate.coinsurance)} above {percent(self.aggregate.attachment)} of the target"
            label, term = "Aggregate stop-loss recovers", f"{where}.aggregate"
            parts = [before, ledger.add("aggregate", back, label, note, term, (before, target))]
            value = before.value + back
        return ledger.add("cost", value, "Cost", "sum", where, parts, metric="med-cost")

    def _gate(
        self, result: Number, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger
    ) -> Number:
        if self.gate is None:
            return result
        term = f"{self.where}.gate"
        scored = score_measures(measures, inputs.outcomes, self.missing)
        weighted = add_measures(ledger, scored)
        value = composite(scored)
        note = "sum of weighted points" if value is not None else "no measure takes part"
        quality = ledger.add("composite", value, "Composite", note, term, weighted, unit="1", metric="performance-cap")
        gate = ledger.add(
            "gate", self.gate, "Quality gate", "as agreed", term, unit="1", metric="quality-gate-percentage"
        )
        passed = value is not None and value >= self.gate
        if passed or result.value <= 0:
            return result
        note = f"composite below {percent(self.gate)}: no surplus is paid"
        return ledger.add("gated", ZERO, "Surplus after the gate", note, term, (result, quality, gate))


def pool_cost(facts: Facts, terms: RiskPool, cut: Cut | None = None) -> PoolCost:
    """Cost of the pool's services of members in months that count, as of the cut where there is one."""
    with connect(claims=facts.lines, months=facts.months) as connection:
        connection.execute(
            f"""
            CREATE TEMP TABLE served AS
            SELECT c.*, coalesce(c.{terms.amount}, 0) AS charged, m.month FROM claims c JOIN months m
              ON c._member = m.member AND m.month = date_trunc('month', c.service_from)
            WHERE NOT c.denied AND m.months > 0 AND c.service_from BETWEEN $start AND $end
            """,  # noqa: S608 paid or allowed
            {"start": facts.period[0], "end": facts.period[1]},
        )
        source, counted = "served", "TRUE"
        if terms.services is not None:
            table = facts.table(terms.services.table) if terms.services.table else None
            categorize(connection, terms.services.all_categories(table), terms.services.otherwise, "served")
            source, counted = "categorized", "covered_by = 'capitation'"
        months = connection.execute(
            f"SELECT month, sum(charged)::DECIMAL(38, 8) FROM {source} WHERE {counted} GROUP BY month ORDER BY month"  # noqa: S608
        ).fetchall()
        insured, recovered, members = ZERO, ZERO, 0
        if terms.individual is not None:
            names = list(terms.individual.categories)
            within = "list_contains($names, category)" if names else "TRUE"
            connection.execute(
                "CREATE TEMP TABLE costs AS SELECT _member AS member, sum(charged)::DECIMAL(28, 8) AS cost"  # noqa: S608
                f" FROM {source} WHERE {counted} AND {within} GROUP BY _member",
                {"names": names} if names else {},
            )
            retained = recover_in(connection, terms.individual)
            limit = "cost" if terms.individual.limit is None else f"least(cost, {terms.individual.limit:f})"
            row = retained.aggregate(
                f"sum(greatest(0, {limit} - {terms.individual.attachment:f}))::DECIMAL(38, 8),"
                " sum(recovered)::DECIMAL(38, 8), count(*) FILTER (recovered > 0)"
            ).fetchall()[0]
            insured, recovered, members = row[0] or ZERO, row[1] or ZERO, row[2]
    paid = sum((amount for _, amount in months), ZERO)
    return PoolCost(paid, insured, recovered, members, _ibnr(facts, terms, months, cut))


def _ibnr(facts: Facts, terms: RiskPool, months: list[tuple[date, Decimal]], cut: Cut | None) -> Decimal:
    """Sum over months of service of cost / completed part - cost."""
    how = terms.completion
    if how is None:
        return ZERO
    as_of = how.as_of if cut is None else min(how.as_of, cut.paid_through)
    if how.kind == "chain_ladder":
        found = triangle(facts.lines, facts.people["member"], as_of, how.months, terms.amount)
        growth = found.to_ultimate()
        parts = {lag: 1 / factor for lag, factor in enumerate(growth)}
    else:
        table = facts.table(how.table)
        parts = dict(zip(table["lag"].to_pylist(), table["completed"].to_pylist(), strict=True))
        if sorted(parts) != list(range(table.num_rows)) or not all(0 < part <= 1 for part in parts.values()):
            rule = "a row for each lag from 0 on, with a part above 0 and at most 1"
            raise ContractError(f"{terms.where}.completion: tables.{how.table}: {rule}")
    return completed_by_lag(months, as_of, parts) - sum((amount for _, amount in months), ZERO)


def completed_by_lag(months: list[tuple[date, Decimal]], as_of: date, parts: dict[int, Decimal]) -> Decimal:
    """Cost by month of service, each over the part that is completed after its lag; beyond the last lag, its part."""
    ultimate = ZERO
    for month, amount in months:
        lag = max(0, (as_of.year - month.year) * 12 + as_of.month - month.month)
        ultimate += amount / parts[min(lag, max(parts))]
    return ultimate
