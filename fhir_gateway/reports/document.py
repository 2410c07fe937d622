"""What a report says, whatever it is written as: sections of sentences, key figures, tables and charts.

All figures are texts already, as the report shows them; a chart stands beside the table of its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

Number = Decimal | float | int
#: What stands where a number is hidden because it, or another by subtraction, would tell of few people.
HIDDEN = "hidden"
NONE = "–"


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a head. ``amounts`` are the columns of numbers, ``widths`` how wide columns are to each other.

    The first column names the row.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    amounts: frozenset[int] = frozenset()
    widths: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a chart from ``start`` to its value, as what it is labelled; bounds and a mark (a target) if any."""

    label: str
    value: Number
    shown: str
    bounds: tuple[Number, Number] | None = None
    mark: Number | None = None
    start: Number = 0


@dataclass(frozen=True, slots=True)
class Chart:
    """Horizontal bars over a common zero. ``said`` tells who does not see it what it shows."""

    title: str
    said: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report under a heading."""

    heading: str
    parts: tuple[Text | Table | Chart, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A report. ``facts`` are what it is about, by name; ``author`` is who gives it out."""

    title: str
    author: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    language: str = "en"
    notes: tuple[str, ...] = field(default=())


def money(value: Decimal | None, currency: str) -> str:
    """An amount as it was published, of others to the cent; thousands separated, null as a dash."""
    if value is None:
        return NONE
    exponent = value.as_tuple().exponent
    exact = not isinstance(exponent, int) or exponent < -2
    return f"{value:,.2f} {currency}" if exact else f"{value:,f} {currency}"


def percent(value: Number | None, places: int = 1) -> str:
    """A share of one in percent; null as a dash."""
    return NONE if value is None else f"{Decimal(str(value)) * 100:.{places}f} %"


def plain(value: Number | None, places: int = 2) -> str:
    """A number, at most so many places, without zeros at its end; null as a dash."""
    if value is None:
        return NONE
    text = f"{Decimal(str(value)):,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
