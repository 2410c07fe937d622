"""Numbers of a contract that somebody may try otherwise: where they stand, and how far a slider leads from there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,10})?")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_FINEST = 4  # decimals of a share's steps
#: Rows of a table (bands of a corridor, steps of a ladder) that have sliders; longer ones are price lists.
_MOST_ROWS = 12


@dataclass(frozen=True, slots=True)
class Slider:
    """A term by its path as what-if names it; ``value`` is as agreed and always one of the steps."""

    path: str
    value: Decimal
    low: Decimal
    high: Decimal
    step: Decimal

    @property
    def group(self) -> str:
        """The arrangement or measure that the term is of."""
        return ".".join(self.path.split(".")[:2])

    @property
    def name(self) -> str:
        """What the term is called in it."""
        return ".".join(self.path.split(".")[2:])

    @property
    def field(self) -> str:
        """Id of its field on a page."""
        return self.path.replace(".", "-")


def sliders(document: Mapping[str, Any]) -> list[tuple[str, list[Slider]]]:
    """The numeric terms of arrangements and measures, by arrangement and measure."""
    found = [_slider(path, value) for path, value in numbers(document).items()]
    return [(name, list(those)) for name, those in groupby(found, key=lambda one: one.group)]


def numbers(document: Mapping[str, Any]) -> dict[str, Decimal]:
    """Numeric terms by their path; amounts may be texts.

    Tables are lists of mappings: their rows are named by id or by place, and texts in them are codes. Lists of plain
    values are codes and tax numbers, and years say which rules hold: of these there is nothing to try.
    """
    found: dict[str, Decimal] = {}
    for name in ("arrangements", "measures"):
        for one in document.get(name, ()):
            if isinstance(one, dict) and "id" in one:
                _collect(one, f"{name}.{one['id']}", found, texts=True)
    return found


def _collect(terms: Mapping[str, Any], path: str, found: dict[str, Decimal], *, texts: bool) -> None:
    for key, value in terms.items():
        here = f"{path}.{key}"
        if key == "id" or key == "year" or key.endswith("_year"):
            continue
        if isinstance(value, dict):
            _collect(value, here, found, texts=texts)
        elif isinstance(value, list) and len(value) <= _MOST_ROWS:
            for place, row in enumerate(value, 1):
                if isinstance(row, dict):
                    _collect(row, f"{here}.{_row_name(row, place)}", found, texts=False)
        elif isinstance(value, str):
            if texts and _NUMBER.fullmatch(value):
                found[here] = Decimal(value)
        elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            found[here] = Decimal(str(value))


def _row_name(row: Mapping[str, Any], place: int) -> str:
    """A row's id, or its place."""
    named = str(row.get("id", ""))
    return named if _NAME.fullmatch(named) else str(place)


def _slider(path: str, value: Decimal) -> Slider:
    """A share moves between none and all by hundredths; any other number to nothing and to twice as much, by about
    twenty to two hundred steps. The value itself is a step away from its neighbours, so that keys lead back to it."""
    exponent = value.as_tuple().exponent
    places = -exponent if isinstance(exponent, int) and exponent < 0 else 0
    if 0 <= value <= 1:
        step = Decimal(1).scaleb(-min(max(places, 2), _FINEST))
        return _around(path, value, step, Decimal(0), Decimal(1))
    step = Decimal(1).scaleb(value.adjusted() - 1)
    if not places:
        step = max(step, Decimal(1))
    return _around(path, value, step, min(Decimal(0), 2 * value), max(Decimal(0), 2 * value))


def _around(path: str, value: Decimal, step: Decimal, low: Decimal, high: Decimal) -> Slider:
    """Ends that are whole steps away from the value, within the bounds."""
    below = ((value - low) / step).to_integral_value(rounding="ROUND_FLOOR")
    above = ((high - value) / step).to_integral_value(rounding="ROUND_FLOOR")
    return Slider(path, value, value - below * step, value + above * step, step)
