"""Statements: every line in every form, the same bytes each time, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
import zlib
from base64 import a85decode
from collections.abc import Callable
from decimal import Decimal

from contract_parts import inputs, measure, shared_savings

from fhir_gateway.contracts import Contract, MeasureScore, Settlement, settle
from fhir_gateway.contracts.charts import bars
from fhir_gateway.contracts.statement_forms import COLUMNS, statement_csv, statement_pdf


def settlement(contract: Contract) -> Settlement:
    return settle(contract, inputs("912345.67", outcomes={"a": MeasureScore(3, 7, Decimal(3) / 7)}))


def contract(load: Callable[..., Contract]) -> Contract:
    quality = {"mode": "multiplicative"}
    return load(
        title="Łódź <b>& Søn</b>",
        measures=[measure("a", "1") | {"name": "=HYPERLINK(1)"}],
        arrangements=[shared_savings(quality=quality)],
    )


def pdf_text(pdf: bytes) -> bytes:
    streams = re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL)
    return b"".join(zlib.decompress(a85decode(s.strip().removesuffix(b"~>"))) for s in streams if b"~>" in s)


def test_csv_has_every_line_with_all_digits(load: Callable[..., Contract]) -> None:
    stated = settlement(contract(load))
    rows = list(csv.DictReader(io.StringIO(statement_csv(stated).decode(), newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert [row["line"] for row in rows] == [line.id for line in stated.lines]
    for row, line in zip(rows, stated.lines, strict=True):
        assert (Decimal(row["value"]) if row["value"] else None) == line.value
        assert (Decimal(row["amount"]) if row["amount"] else None) == line.amount
        assert row["label"] in (line.label, f"'{line.label}")
    assert sum(1 for row in rows if row["label"].startswith("'=")) == 3


def test_pdf_is_the_same_each_time_and_names_the_total(load: Callable[..., Contract]) -> None:
    terms = contract(load)
    first = statement_pdf(settlement(terms), terms, "s1", "final")
    assert first == statement_pdf(settlement(terms), terms, "s1", "final")
    assert first.startswith(b"%PDF-")
    assert first != statement_pdf(settlement(terms), terms, "s1", "review")
    assert len(pdf_text(first)) > 2000


def test_a_chart_shows_gains_and_losses() -> None:
    drawn = bars("A & B", [("gain", Decimal("10.50")), ("loss", Decimal(-5)), ("nothing", Decimal(0))], "USD")
    assert drawn.count("<rect") == 3
    assert "10.50 USD" in drawn
    assert "A &amp; B" in drawn
    assert bars("Nothing", [], "USD").endswith("</svg>\n")
