"""Statements in CSV: every line with all digits, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from decimal import Decimal

from contract_parts import inputs, measure, shared_savings

from fhir_gateway.contracts import Contract, MeasureScore, Settlement, settle
from fhir_gateway.contracts.statement_forms import COLUMNS, statement_csv


def settlement(contract: Contract) -> Settlement:
    return settle(contract, inputs("912345.67", outcomes={"a": MeasureScore(3, 7, Decimal(3) / 7)}))


def contract(load: Callable[..., Contract]) -> Contract:
    quality = {"mode": "multiplicative"}
    return load(
        title="Łódź <b>& Søn</b>",
        measures=[measure("a", "1") | {"name": "=HYPERLINK(1)"}],
        arrangements=[shared_savings(quality=quality)],
    )


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
