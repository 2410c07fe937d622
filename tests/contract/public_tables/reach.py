"""Results of ACO REACH (before 2023: Global and Professional Direct Contracting), one record an ACO and year.

Each record becomes an arrangement ``aco_reach`` with the published final benchmark, cost, stop-loss and equity amounts
as its terms; corridors, discount and sequestration are those of the shipped rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Context, Decimal, localcontext
from pathlib import Path
from typing import Any

from fhir_gateway.contracts import Exposure, SettlementInputs
from fhir_gateway.contracts.arrangements.reach import AcoReach
from fhir_gateway.contracts.arrangements.reach_rules import Risk, reach_year
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.errors import ContractError
from tests.contract.public_tables import tables
from tests.contract.public_tables.mssp_file import half_a_unit
from tests.contract.public_tables.report import NotSuchATable, Report
from tests.contract.public_tables.tables import Table, cell, number

D = Decimal
Row = Mapping[str, str]
BENCHMARK = ("final_benchmark", "final_bnchmk", "benchmark_final")
COST = ("tot_cost_care", "total_cost_of_care", "tcoc")
NET_COST = ("tot_cost_care_net", "total_cost_of_care_net", "tcoc_net")
GROSS = ("gross_savings", "gross_savings_losses")
SHARED = ("shared_savings", "shared_savings_losses", "net_savings")
SEQUESTERED = ("shared_savings_seq", "shared_savings_sequestered", "shared_savings_after_seq")
UP, DOWN = ("heba_up_amt", "heba_up_amount"), ("heba_down_amt", "heba_dn_amt", "heba_down_amount")
RISK = ("risk_arrangement", "risk_option", "risk_arrangement_option")
YEAR = ("perf_year", "performance_year", "py", "year")

QUANTITIES = {
    "gross savings within $1": GROSS,
    "savings rate": ("sav_rate", "savings_rate"),
    "risk corridors (shared savings) within $1": SHARED,
    "after sequestration within $1": SEQUESTERED,
    "discount": ("discount",),
    "benchmark used = final + equity adjustments within $1": UP,
}


def check(paths: Sequence[Path]) -> Iterator[Report]:
    """One report a file."""
    for path in paths:
        yield Results(tables.read(path)).report()


class Results:
    """A file of results."""

    def __init__(self, table: Table) -> None:
        self.table = table
        needed = {"final benchmark": BENCHMARK, "cost of care": (*NET_COST, *COST), "risk arrangement": RISK}
        lacks = [what for what, names in needed.items() if not any(table.has(name) for name in names)]
        if lacks:
            raise NotSuchATable(f"{table.path}: not results of ACO REACH: no column of {', '.join(lacks)}")
        self.out = Report(f"{table.path.name} ({len(table.rows)} records)")
        rates = [abs(rate) for row in table.rows if (rate := number(row, "sav_rate", "savings_rate")) is not None]
        self.rates_are_fractions = bool(rates) and max(rates) <= 1

    def report(self) -> Report:
        """All quantities."""
        for quantity, columns in QUANTITIES.items():
            stated = any(cell(row, *columns) is not None for row in self.table.rows)
            if stated:
                self.out.tally(quantity)
            else:
                there = any(self.table.has(column) for column in columns)
                self.out.lacks(quantity, f"{'no value in' if there else 'no'} column {' or '.join(columns)}")
        for position, row in enumerate(self.table.rows, 1):
            name = f"{cell(row, 'aco_id', 'dce_id', 'entity_id', 'aco_name') or f'record {position}'}"
            try:
                year = self._year(row)
                self._count(f"{name} {year}", row, year)
            except ContractError as error:
                self.out.skip(name, error.message)
        return self.out

    def _year(self, row: Row) -> int:
        stated = cell(row, *YEAR) or self.table.path.stem
        found = re.search(r"20\d\d", stated)
        if found is None:
            raise ContractError("performance year: neither the record nor the file's name tells it")
        return int(found[0])

    def _count(self, name: str, row: Row, year: int) -> None:
        risk = _risk(cell(row, *RISK) or "")
        benchmark, net, cost = number(row, *BENCHMARK), number(row, *NET_COST), number(row, *COST)
        net = cost if net is None else net
        cost = net if cost is None else cost
        if benchmark is None or net is None or cost is None:
            raise ContractError("final benchmark or cost of care: no number")
        lines = settled(year, risk, benchmark, cost, net, number(row, *UP) or D(0), number(row, *DOWN) or D(0))
        self._agree("gross savings within $1", name, lines["gross"], number(row, *GROSS))
        self._agree("risk corridors (shared savings) within $1", name, lines["shared"], number(row, *SHARED))
        paid = lines.get("sequestered", lines["shared"])
        self._agree("after sequestration within $1", name, paid, number(row, *SEQUESTERED))
        text, rate = cell(row, "sav_rate", "savings_rate"), number(row, "sav_rate", "savings_rate")
        if text is not None and rate is not None:
            wanted = lines["rate"] if "%" in text or self.rates_are_fractions else lines["rate"] * 100
            agrees = abs(wanted - rate) <= D("0.0001") + half_a_unit(text, percent=False)
            self.out.tally("savings rate").add(name, agrees, f"{wanted:.4f}", text)
        discount = number(row, "discount")
        if discount is not None:
            rule = reach_year(year).option(risk).discount
            tally = self.out.tally("discount")
            tally.add(name, discount in (rule, rule * 100), rule * 100, discount)
        gross = number(row, *GROSS)
        if gross is not None and (cell(row, *UP) or cell(row, *DOWN)):
            quantity = "benchmark used = final + equity adjustments within $1"
            self._agree(quantity, name, lines["final"], gross + net)

    def _agree(self, quantity: str, name: str, computed: Decimal, published: Decimal | None) -> None:
        if published is not None:
            agrees = abs(computed - published) <= 1
            self.out.tally(quantity).add(name, agrees, f"{computed:.4f}", published)


def _risk(text: str) -> Risk:
    if text.lower().startswith("global"):
        return "global"
    if text.lower().startswith("professional"):
        return "professional"
    raise ContractError("risk arrangement: neither Global nor Professional")


def settled(
    year: int, risk: Risk, benchmark: Decimal, cost: Decimal, net: Decimal, up: Decimal, down: Decimal
) -> dict[str, Decimal]:
    """Values by line of a record."""
    stated: dict[str, Any] = {
        "kind": "aco_reach",
        "id": "aco",
        "pool": "reach",
        "performance_year": year,
        "risk": risk,
        "benchmark": {"amount": benchmark, "final": True},
        "stop_loss": {"notified": net - cost},
        "equity": {"up": abs(up), "down": -abs(down)} if up or down else None,
    }
    terms = AcoReach.model_validate(stated)
    if problems := terms.problems():
        raise ContractError("; ".join(problems))
    ledger = Ledger(terms.id, "USD", "cent", None)
    with localcontext(Context(prec=60)):
        terms.settle(SettlementInputs(Exposure(0, D(0), cost, cost, cost, 0), {}), (), ledger)
    return {line.id.removeprefix("aco."): line.value for line in ledger.lines if line.value is not None}
