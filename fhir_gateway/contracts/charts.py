"""Bars of amounts as SVG, for what-if comparisons: no script, no font files, the same bytes each time."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from xml.sax.saxutils import escape

_WIDTH, _BAR, _GAP, _LABEL = 720, 22, 10, 220


def bars(title: str, values: Sequence[tuple[str, Decimal]], unit: str) -> str:
    """Horizontal bars from a common zero; negative amounts to the left, in another colour and with a sign."""
    height = 60 + len(values) * (_BAR + _GAP)
    low = min([Decimal(0), *(value for _, value in values)])
    high = max([Decimal(0), *(value for _, value in values)])
    room = _WIDTH - _LABEL - 140
    scale = room / float(high - low) if high > low else 0.0
    zero = _LABEL + float(-low) * scale
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"'
        f' aria-label="{_attribute(title)}" font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<text x="0" y="20" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(values):
        y = 40 + number * (_BAR + _GAP)
        width = abs(float(value)) * scale
        x = zero if value >= 0 else zero - width
        colour = "#1b6ca8" if value >= 0 else "#b23b3b"
        after = max(x, zero) + (width if value >= 0 else 0) + 6
        parts += [
            f'<text x="0" y="{y + 16}">{escape(name)}</text>',
            f'<rect x="{x:.1f}" y="{y}" width="{max(width, 1):.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<text x="{after:.1f}" y="{y + 16}">{value:,} {escape(unit)}</text>',
        ]
    parts.append(f'<line x1="{zero:.1f}" y1="34" x2="{zero:.1f}" y2="{height - 14}" stroke="#444444"/>')
    return "\n".join([*parts, "</svg>", ""])


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})
