"""Charts, drawn once by ReportLab's graphics: into a PDF as shapes, into a page as SVG. The same bytes each time."""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

import reportlab
from reportlab.graphics import renderSVG
from reportlab.graphics.shapes import Drawing, Line, Rect, String
from reportlab.lib import colors
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

from fhir_gateway.reports.document import Chart

#: Fonts of all reports; they are part of the PDF, so that names of people and places are written as they are.
PLAIN, BOLD = "Statement", "Statement-Bold"
_FILES = {PLAIN: "Vera.ttf", BOLD: "VeraBd.ttf"}
#: In a page it is the reader's own font; those here only tell how wide texts are.
_READERS_FONTS = {"Helvetica": {"family": "sans-serif"}, "Helvetica-Bold": {"family": "sans-serif", "weight": "bold"}}
_ABOVE, _BELOW, _MARK, _LINE = (colors.HexColor(one) for one in ("#1b6ca8", "#b23b3b", "#111111", "#444444"))
_SIZE, _BAR, _STEP, _HEAD = 8.0, 11.0, 17.0, 22.0
_LABELS, _VALUES = 0.42, 0.2  # of the width: names to the left, figures to the right


@cache
def use_fonts() -> None:
    """Make the fonts known to ReportLab, once."""
    for name, file in _FILES.items():
        pdfmetrics.registerFont(TTFont(name, str(Path(reportlab.__file__).parent / "fonts" / file)))


def lettered(text: str) -> str:
    """The text in letters that the font of a PDF has: others lose their marks (ż is z), what is no letter becomes ?."""
    use_fonts()
    known = pdfmetrics.getFont(PLAIN).face.charToGlyph  # type: ignore[attr-defined]  # of a TTFont
    if all(ord(one) in known for one in text):
        return text
    found = (one if ord(one) in known else unicodedata.normalize("NFKD", one)[0] for one in text)
    return "".join(one if ord(one) in known else "?" for one in found)


def drawing(chart: Chart, width: float = 500.0, font: str = PLAIN, bold: str = BOLD) -> Drawing:
    """The chart as shapes; intervals are thin lines through the end of a bar, marks upright strokes."""
    use_fonts()
    spelled = lettered if font == PLAIN else str
    height = _HEAD + _STEP * len(chart.bars) + 6
    drawn = Drawing(width, height)
    drawn.add(String(0, height - 11, spelled(chart.title), fontName=bold, fontSize=_SIZE + 1))
    ends = [
        float(one)
        for bar in chart.bars
        for one in (bar.start, bar.value, *(bar.bounds or ()), bar.mark)
        if one is not None
    ]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    left, room = width * _LABELS, width * (1 - _LABELS - _VALUES)
    scale = room / (high - low) if high > low else 0.0

    def at(value: float) -> float:
        return left + (value - low) * scale

    for place, bar in enumerate(chart.bars):
        y = height - _HEAD - _STEP * (place + 1) + 4
        begun, value = float(bar.start), float(bar.value)
        drawn.add(String(0, y + 2, _fitting(spelled(bar.label), left - 6, font), fontName=font, fontSize=_SIZE))
        start, end = sorted((at(begun), at(value)))
        colour = _ABOVE if value >= begun else _BELOW
        bar_drawn = Rect(start, y, max(end - start, 0.6), _BAR)
        bar_drawn.fillColor, bar_drawn.strokeColor = colour, None
        drawn.add(bar_drawn)
        if bar.bounds is not None:
            middle = y + _BAR / 2
            for x0, y0, x1, y1 in (
                (at(float(bar.bounds[0])), middle, at(float(bar.bounds[1])), middle),
                *((at(float(x)), middle - 3, at(float(x)), middle + 3) for x in bar.bounds),
            ):
                drawn.add(Line(x0, y0, x1, y1, strokeColor=_MARK, strokeWidth=0.9))
        if bar.mark is not None:
            x = at(float(bar.mark))
            drawn.add(Line(x, y - 2, x, y + _BAR + 2, strokeColor=_BELOW, strokeWidth=1.6))
        drawn.add(String(left + room + 6, y + 2, spelled(bar.shown), fontName=font, fontSize=_SIZE))
    drawn.add(Line(at(0), 3, at(0), height - _HEAD + 2, strokeColor=_LINE, strokeWidth=0.6))
    return drawn


def svg(chart: Chart, width: float = 500.0) -> str:
    """The chart as SVG with its title and what it shows, for a page or a file; no script, no font files."""
    drawn = drawing(chart, width, "Helvetica", "Helvetica-Bold")
    text: str = renderSVG.drawToString(drawn, fontHacks=_READERS_FONTS)
    for name, said in (("title", chart.title), ("desc", chart.said)):  # ReportLab leaves a place for them
        text = text.replace(f"<{name}>...</{name}>", f"<{name}>{escape(said)}</{name}>", 1)
    return text


def _fitting(text: str, width: float, font: str) -> str:
    """The text, cut where it is wider than there is room."""
    if pdfmetrics.stringWidth(text, font, _SIZE) <= width:
        return text
    while text and pdfmetrics.stringWidth(f"{text}...", font, _SIZE) > width:
        text = text[:-1]
    return f"{text.rstrip()}..."
