"""A settlement as a statement to hand over: CSV for a spreadsheet, PDF for a person; the same bytes each time.

Every number stands with its formula, the numbers it comes from and the contract term that asks for it, so that the
statement can be recomputed by hand.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from xml.sax.saxutils import escape

import reportlab
from reportlab.lib import colors
from reportlab.lib.pagesizes import letter
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import inch
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from fhir_gateway.contracts.contract import Contract
from fhir_gateway.contracts.settlement import Settlement, SettlementLine

COLUMNS = ("line", "arrangement", "label", "value", "unit", "formula", "because", "term", "metric", "amount")
_FONTS = {"Statement": "Vera.ttf", "Statement-Bold": "VeraBd.ttf"}
_BODY = ParagraphStyle("body", fontName="Statement", fontSize=8, leading=10)
_SMALL = ParagraphStyle("small", parent=_BODY, fontSize=6.5, leading=8, textColor=colors.HexColor("#444444"))
_HEAD = ParagraphStyle("head", parent=_BODY, fontName="Statement-Bold", fontSize=11, leading=15, spaceBefore=8)
_TITLE = ParagraphStyle("title", parent=_HEAD, fontSize=15, leading=19)
_GRID = TableStyle(
    [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEBELOW", (0, 0), (-1, 0), 0.8, colors.black),
        ("LINEBELOW", (0, 1), (-1, -1), 0.2, colors.HexColor("#bbbbbb")),
        ("LEFTPADDING", (0, 0), (-1, -1), 2),
        ("RIGHTPADDING", (0, 0), (-1, -1), 4),
        ("TOPPADDING", (0, 0), (-1, -1), 1.5),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5),
    ]
)


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


def statement_pdf(settlement: Settlement, contract: Contract, run_id: str, state: str) -> bytes:
    """The statement as PDF: who owes whom, what each arrangement pays, how each number comes about, what it is of."""
    for name, file in _FONTS.items():
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, str(Path(reportlab.__file__).parent / "fonts" / file)))
    out = io.BytesIO()
    document = SimpleDocTemplate(
        out,
        pagesize=letter,
        leftMargin=0.7 * inch,
        rightMargin=0.7 * inch,
        topMargin=0.7 * inch,
        bottomMargin=0.7 * inch,
        title=f"Settlement statement {run_id}",
        author=contract.payer.name,
        invariant=1,
    )
    document.build(list(_story(settlement, contract, run_id, state)))
    return out.getvalue()


def _story(settlement: Settlement, contract: Contract, run_id: str, state: str) -> Iterator[Flowable]:
    yield Paragraph(escape(contract.title), _TITLE)
    owes, owed = contract.payer.name, contract.provider.name
    if settlement.total < 0:
        owes, owed = owed, owes
    start, end = settlement.period
    yield Paragraph(f"Settlement statement {run_id}: {escape(state)}", _BODY)
    yield Paragraph(f"Contract {escape(contract.id)}, version {escape(contract.version)}", _BODY)
    yield Paragraph(f"Services {start} to {end}, claims paid through {settlement.paid_through}", _BODY)
    yield Spacer(1, 6)
    total = f"{abs(settlement.total):,} {settlement.currency}"
    yield Paragraph(f"{escape(owes)} owes {escape(owed)} {total}", _HEAD)
    yield _table(
        ("What", "Amount", "By the term"),
        [(line.label, _money(line, settlement), line.term) for line in settlement.payable()],
        (3.6, 1.6, 1.9),
    )
    shares = [line for line in settlement.lines if line.id.startswith(f"{line.arrangement}.distribution.")]
    if shares:
        yield Paragraph("Shared out", _HEAD)
        yield _table(("To", "Amount", "By the term"), [(x.label, _value(x), x.term) for x in shares], (3.6, 1.6, 1.9))
    for arrangement in dict.fromkeys(line.arrangement for line in settlement.lines):
        yield Paragraph(f"How it was computed: {escape(arrangement)}", _HEAD)
        lines = [line for line in settlement.lines if line.arrangement == arrangement]
        number = {line.id: str(place) for place, line in enumerate(lines, 1)}
        rows = [
            (number[x.id], x.label, _value(x), x.formula, ", ".join(number.get(o, o) for o in x.because), x.term)
            for x in lines
        ]
        yield _table(("", "Number", "Value", "Formula", "From", "Term"), rows, (0.3, 1.9, 1.35, 1.9, 0.55, 1.1))
    yield Paragraph("What it was computed from", _HEAD)
    yield _table(("Input", "Value"), sorted(settlement.stamps.items()), (3.0, 4.1))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], widths: tuple[float, ...]) -> Table:
    cells = [[Paragraph(f"<b>{escape(text)}</b>", _BODY) for text in head]]
    cells += [
        [Paragraph(escape(text), _BODY if column < 3 else _SMALL) for column, text in enumerate(row)] for row in rows
    ]
    return Table(cells, [width * inch for width in widths], style=_GRID, repeatRows=1, hAlign="LEFT")


def _money(line: SettlementLine, settlement: Settlement) -> str:
    return f"{line.amount:,} {settlement.currency}"


def _value(line: SettlementLine) -> str:
    """The value for reading, at most eight places; the CSV has all of them."""
    if line.value is None:
        return "none"
    shown = line.value if line.amount is None else line.amount
    text = f"{shown:,f}" if shown == shown.quantize(Decimal("1e-8")) else f"{round(shown, 8):,f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text} {'' if line.unit == '1' else line.unit}".rstrip()


def _harmless(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
