"""The statement of a settlement to hand over: who owes whom, what pays, and how each number comes about.

Every number stands with its formula, the numbers it comes from and the contract term that asks for it, so that the
statement can be recomputed by hand. It is between the parties of the contract, who hold each member's evidence: nothing
in it is hidden for being small.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from fhir_gateway.contracts.contract import Contract
from fhir_gateway.contracts.settlement import Settlement, SettlementLine
from fhir_gateway.contracts.steps import steps
from fhir_gateway.reports.document import NONE, Bar, Chart, Document, Section, Table, Text, money


def statement(settlement: Settlement, contract: Contract, run_id: str, state: str) -> Document:
    """The statement of a settlement that was made, in the state where it stands."""
    start, end = settlement.period
    return Document(
        title=f"Settlement statement: {contract.title}",
        author=contract.payer.name,
        facts=(
            ("Settlement", f"{run_id}: {state}"),
            ("Contract", f"{contract.id}, version {contract.version}"),
            ("Between", f"{contract.payer.name} and {contract.provider.name}"),
            ("Services", f"{start} to {end}, claims paid through {settlement.paid_through}"),
        ),
        sections=tuple(_sections(settlement, contract)),
    )


def owing(settlement: Settlement, contract: Contract) -> str:
    """Who owes whom how much, as a sentence."""
    owes, owed = contract.payer.name, contract.provider.name
    if settlement.total < 0:
        owes, owed = owed, owes
    return f"{owes} owes {owed} {money(abs(settlement.total), settlement.currency)}"


def shown_value(line: SettlementLine) -> str:
    """The value for reading, at most eight places; the CSV has all of them."""
    if line.value is None:
        return "none"
    shown = line.value if line.amount is None else line.amount
    text = f"{shown:,f}" if shown == shown.quantize(Decimal("1e-8")) else f"{round(shown, 8):,f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text} {'' if line.unit == '1' else line.unit}".rstrip()


def _sections(settlement: Settlement, contract: Contract) -> Iterator[Section]:
    said = owing(settlement, contract)
    payable = tuple(settlement.payable())
    drawn = [*((line.label, line.amount or Decimal(0)) for line in payable), ("Total", settlement.total)]
    chart = Chart(
        f"What is paid, {settlement.currency}",
        f"Bars of what each line pays; the table below has the amounts. {said}.",
        tuple(Bar(name, amount, money(amount, settlement.currency)) for name, amount in drawn),
    )
    yield Section(
        said,
        (
            *([chart] if len(payable) > 1 else []),
            Table(
                "What is paid",
                ("What", "Amount", "By the term"),
                (
                    *((line.label, money(line.amount, settlement.currency), line.term) for line in payable),
                    ("Total", money(settlement.total, settlement.currency), ""),
                ),
                frozenset({1}),
                (3.6, 1.6, 1.9),
            ),
        ),
    )
    shares = [line for line in settlement.lines if line.id.startswith(f"{line.arrangement}.distribution.")]
    if shares:
        rows = tuple((line.label, shown_value(line), line.term) for line in shares)
        table = Table("Shared out", ("To", "Amount", "By the term"), rows, frozenset({1}), (3.6, 1.6, 1.9))
        yield Section("Shared out", (table,))
    for arrangement in dict.fromkeys(line.arrangement for line in settlement.lines):
        yield _computed(settlement, arrangement, [one for one in settlement.lines if one.arrangement == arrangement])
    stamps = Table("Inputs", ("Input", "Value"), tuple(sorted(settlement.stamps.items())), widths=(3.0, 4.1))
    yield Section("What it was computed from", (stamps,) if settlement.stamps else (Text(NONE),))


def _computed(settlement: Settlement, arrangement: str, lines: list[SettlementLine]) -> Section:
    number = {line.id: str(place) for place, line in enumerate(lines, 1)}
    rows = tuple(
        (number[x.id], x.label, shown_value(x), x.formula, ", ".join(number.get(o, o) for o in x.because), x.term)
        for x in lines
    )
    table = Table(
        f"Lines of {arrangement}; From names the lines that a number comes from",
        ("No.", "Number", "Value", "Formula", "From", "Term"),
        rows,
        frozenset({2}),
        (0.35, 1.9, 1.3, 1.9, 0.55, 1.1),
    )
    charts = [_waterfall(settlement, line) for line in lines if line.amount is not None]
    return Section(f"How it was computed: {arrangement}", (*charts, table))


def _waterfall(settlement: Settlement, payable: SettlementLine) -> Chart:
    """From the amount that a payment begins with to what is paid."""
    found = steps(settlement, payable)
    bars = [
        Bar(one.label, one.after, money(one.change, settlement.currency), start=one.before)
        for one in found
        if round(one.change, 2)  # what is left is rounding
    ]
    paid = payable.amount or Decimal(0)
    return Chart(
        f"To {payable.label}",
        f"{len(found)} steps from {found[0].label} to {payable.label}; the table below has the numbers.",
        (*bars, Bar("Paid", paid, money(paid, settlement.currency))),
    )
