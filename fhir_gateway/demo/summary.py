"""What came of the tour, as values, as JSON and as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from fhir_gateway.errors import LedgerError
from fhir_gateway.jobs.settle import SettlementReport
from fhir_gateway.measures import reports
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.sources.models import LedgerEntry


@dataclass(frozen=True, slots=True)
class PullSummary:
    """The ledger of a source, summed over types."""

    source: str
    lines: int
    stored: int
    replaced: int
    unchanged: int
    quarantined: int

    @classmethod
    def of(cls, source: str, entries: Iterable[LedgerEntry]) -> Self:
        """Sum a ledger; LedgerError when it does not balance."""
        found = list(entries)
        if not all(entry.balanced for entry in found):
            raise LedgerError(f"the ledger of {source} does not balance")
        return cls(
            source,
            sum(entry.lines_read for entry in found),
            sum(entry.rows_stored for entry in found),
            sum(entry.rows_replaced for entry in found),
            sum(entry.rows_unchanged for entry in found),
            sum(entry.rows_quarantined for entry in found),
        )


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """One rate: counts and codes by population id (a ratio may have two of one code), and the score as reported."""

    id: str
    populations: Mapping[str, int]
    codes: Mapping[str, str]
    score: float | int | None
    unit: str | None

    def count(self, code: str) -> int | None:
        """Count of the first population of that code."""
        return next((self.populations[one] for one, of in self.codes.items() if of == code), None)


@dataclass(frozen=True, slots=True)
class MeasureSummary:
    """A measure's run: its id is that of the summary MeasureReport; ``reports`` counts individual ones."""

    run: str
    name: str
    measure: str
    groups: tuple[GroupSummary, ...]
    reports: int
    failed: int

    @classmethod
    def of(cls, run: str, result: MeasureResult) -> Self:
        """What a result says, in the words of its summary report."""
        report = reports.summary(result, {})
        groups = []
        for entry in report["group"]:
            score = entry.get("measureScore", {})
            counts = {p["id"]: p["count"] for p in entry["population"]}
            codes = {p["id"]: p["code"]["coding"][0]["code"] for p in entry["population"]}
            groups.append(GroupSummary(entry["id"], counts, codes, score.get("value"), score.get("unit")))
        inside = np.zeros(len(result.members), np.bool_)
        for group in result.groups:
            for population in group.populations:
                if population.code == "initial-population":
                    inside |= population.counts > 0
        failed = len(result.failed)
        return cls(run, result.title, result.canonical, tuple(groups), int(inside.sum()) + failed, failed)


@dataclass(frozen=True, slots=True)
class PaymentSummary:
    """A line that pays: its id is that of the group in the performance report. Amounts are decimal text."""

    line: str
    label: str
    amount: str


@dataclass(frozen=True, slots=True)
class SettlementSummary:
    """A settled contract: its roster and what the payer owes the provider (negative: is owed), per line and in all."""

    contract: str
    title: str
    provider: str
    group: str
    members: int
    report: str
    currency: str
    total: str
    payments: tuple[PaymentSummary, ...]

    @classmethod
    def of(cls, report: SettlementReport) -> Self:
        """What a settlement came to."""
        contract, settlement = report.contract, report.settlement
        return cls(
            contract=contract.id,
            title=contract.title,
            provider=contract.provider.name,
            group=report.attribution.group["id"],
            members=len(report.attribution.members),
            report=report.report,
            currency=settlement.currency,
            total=str(settlement.total),
            payments=tuple(PaymentSummary(x.id, x.label, str(x.amount)) for x in settlement.payable()),
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """The tour's outcome. Only ``seconds`` differs between two runs over the same population."""

    patients: int
    year: int
    resources: Mapping[str, int]
    pulls: tuple[PullSummary, ...]
    persons: int
    persons_in_both: int
    measures: tuple[MeasureSummary, ...]
    settlements: tuple[SettlementSummary, ...]
    served: Mapping[str, int]
    seconds: float = field(compare=False)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_bytes(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

    def show(self, console: Console) -> None:
        """Print it as tables."""
        console.print(_pulls(self.pulls))
        console.print(_measures(self.measures))
        console.print(_settlements(self.settlements))
        console.print(
            f"{self.persons:,} persons ({self.persons_in_both:,} in both sources), "
            f"{sum(self.served.values()):,} resources served, {self.seconds:.1f} s"
        )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def _pulls(pulls: Iterable[PullSummary]) -> Table:
    table = _table("Ledger", "source", "lines", "stored", "replaced", "unchanged", "quarantined")
    for pull in pulls:
        numbers = (pull.lines, pull.stored, pull.replaced, pull.unchanged, pull.quarantined)
        table.add_row(pull.source, *(f"{number:,}" for number in numbers))
    return table


def _measures(measures: Iterable[MeasureSummary]) -> Table:
    table = _table("Measures", "measure", "initial population", "denominator", "numerator", "score")
    for measure in measures:
        for group in measure.groups:
            counts = [group.count(code) for code in ("initial-population", "denominator", "numerator")]
            table.add_row(measure.name, *("" if n is None else f"{n:,}" for n in counts), _score(group))
    return table


def _settlements(settlements: Iterable[SettlementSummary]) -> Table:
    table = _table("Settlements: the payer owes", "contract", "members", "line", "amount")
    for settlement in settlements:
        members = f"{settlement.members:,}"
        for payment in settlement.payments:
            amount = f"{Decimal(payment.amount):,} {settlement.currency}"
            table.add_row(settlement.title, members, payment.label, amount)
    return table


def _score(group: GroupSummary) -> str:
    if group.score is None:
        return ""
    shown: Any = f"{group.score:,.4g}" if isinstance(group.score, float) else f"{group.score:,}"
    return f"{shown} {group.unit or ''}".strip()
