"""A settlement as a statement for a spreadsheet; for a person: :mod:`fhir_gateway.reports.statement`."""

from __future__ import annotations

import csv
import io

from fhir_gateway.contracts.settlement import Settlement

COLUMNS = ("line", "arrangement", "label", "value", "unit", "formula", "because", "term", "metric", "amount")


def statement_csv(settlement: Settlement) -> bytes:
    """A row per line, numbers exact; a text that a spreadsheet would take for a formula gets an apostrophe."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\r\n")
    rows.writerow(COLUMNS)
    for line in settlement.lines:
        texts = (line.id, line.arrangement, line.label)
        about = (line.formula, " ".join(line.because), line.term, line.metric or "")
        value = "" if line.value is None else f"{line.value:f}"
        amount = "" if line.amount is None else f"{line.amount:f}"
        rows.writerow([*map(_harmless, texts), value, line.unit, *map(_harmless, about), amount])
    return out.getvalue().encode()


def _harmless(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
