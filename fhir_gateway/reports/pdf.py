"""A report as PDF: its text can be searched and copied, the same report gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib import colors
from reportlab.lib.pagesizes import letter
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import inch
from reportlab.platypus import Flowable, KeepTogether, LongTable, Paragraph, SimpleDocTemplate, Spacer, TableStyle

from fhir_gateway.reports.charts import BOLD, PLAIN, drawing, lettered, use_fonts
from fhir_gateway.reports.document import Chart, Document, Table, Text

_MARGIN = 0.7 * inch
_WIDTH = letter[0] - 2 * _MARGIN - 12
_BODY = ParagraphStyle("body", fontName=PLAIN, fontSize=8, leading=10.5)
_AMOUNT = ParagraphStyle("amount", parent=_BODY, alignment=2)
_SMALL = ParagraphStyle("small", parent=_BODY, fontSize=6.5, leading=8, textColor=colors.HexColor("#444444"))
_HEAD = ParagraphStyle("head", parent=_BODY, fontName=BOLD, fontSize=11, leading=15, spaceBefore=8)
_TITLE = ParagraphStyle("title", parent=_HEAD, fontSize=15, leading=19)
_COLUMN = ParagraphStyle("column", parent=_BODY, fontName=BOLD)
_COLUMN_AMOUNT = ParagraphStyle("column-amount", parent=_COLUMN, alignment=2)
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


def write(report: Document) -> bytes:
    """The report as PDF, US letter."""
    use_fonts()
    out = io.BytesIO()
    document = SimpleDocTemplate(
        out,
        pagesize=letter,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=_MARGIN,
        bottomMargin=_MARGIN,
        title=report.title,
        author=report.author,
        lang=report.language,
        invariant=1,
    )
    document.build(list(_story(report)), onFirstPage=_numbered, onLaterPages=_numbered)
    return out.getvalue()


def _numbered(canvas: Any, document: Any) -> None:
    canvas.setFont(PLAIN, 6.5)
    canvas.drawRightString(letter[0] - _MARGIN, _MARGIN / 2, f"page {document.page}")


def _story(report: Document) -> Iterator[Flowable]:
    yield Paragraph(_said(report.title), _TITLE)
    for name, value in report.facts:
        yield Paragraph(f"{_said(name)}: {_said(value)}", _BODY)
    yield Spacer(1, 4)
    for section in report.sections:
        heading = Paragraph(_said(section.heading), _HEAD)
        parts = [flowable for part in section.parts for flowable in _part(part)]
        yield KeepTogether([heading, *parts[:1]]) if parts and not isinstance(parts[0], LongTable) else heading
        yield from parts[1:] if parts and not isinstance(parts[0], LongTable) else parts
    if report.notes:
        yield Paragraph("Notes", _HEAD)
        for note in report.notes:
            yield Paragraph(_said(note), _SMALL)


def _part(part: Text | Table | Chart) -> Iterator[Flowable]:
    if isinstance(part, Text):
        yield Paragraph(_said(part.text), _BODY)
    elif isinstance(part, Chart):
        yield Spacer(1, 4)
        yield drawing(part, _WIDTH)
    else:
        yield _table(part)
        yield Spacer(1, 4)


def _table(table: Table) -> LongTable:
    shares = table.widths or (1.0,) * len(table.head)
    widths = [_WIDTH * share / sum(shares) for share in shares]
    style = _BODY if len(table.head) < 6 else _SMALL
    right = ParagraphStyle("right", parent=style, alignment=2)
    cells = [
        [Paragraph(_said(text), _COLUMN_AMOUNT if place in table.amounts else _COLUMN) for place, text in _cells(row)]
        if number == 0
        else [Paragraph(_said(text), right if place in table.amounts else style) for place, text in _cells(row)]
        for number, row in enumerate((table.head, *table.rows))
    ]
    return LongTable(cells, widths, style=_GRID, repeatRows=1, hAlign="LEFT")


def _said(text: str) -> str:
    return escape(lettered(text))


def _cells(row: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    return iter(enumerate(row))
