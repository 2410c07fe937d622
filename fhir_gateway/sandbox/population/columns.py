"""Columns that know how to become text: the leaves of a rendered resource.

A column answers ``text(start, stop)`` with an Arrow ``large_string`` array of that slice. Nulls mean "absent" and are
allowed only where a template says :class:`~fhir_gateway.sandbox.population.render.Maybe`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
TextArray = Any  # pa.LargeStringArray: pyarrow has no type stubs

STRING = pa.large_string()

#: Text of the time zone of everything: Arizona keeps UTC-7 all year, so local times need no daylight saving rules.
OFFSET = "-07:00"


class Column(Protocol):
    """Anything that renders a slice of itself as text."""

    def text(self, start: int, stop: int) -> TextArray:
        """Texts of rows ``start`` to ``stop``."""


def words(values: Iterable[str]) -> TextArray:
    """A table of texts."""
    return pa.array(list(values), STRING)


def _scalar(value: str) -> Any:
    return pa.scalar(value, STRING)


class Coded:
    """Each row picks a word of a table; -1 is absent."""

    def __init__(self, table: TextArray, index: npt.NDArray[np.integer[Any]]) -> None:
        """Rows are ``table[index]``."""
        self.table, self.index = table, index

    def text(self, start: int, stop: int) -> TextArray:
        """Words of the slice."""
        part = self.index[start:stop]
        absent = part < 0
        if absent.any():
            return self.table.take(pa.array(np.where(absent, 0, part), mask=absent))
        return self.table.take(pa.array(part))


class Numbered:
    """A prefix and a zero-padded number; used for ids."""

    def __init__(self, prefix: str, numbers: Ints, width: int = 0) -> None:
        """Numbers must fit ``width`` digits when a width is given."""
        self.prefix, self.numbers, self.width = prefix, numbers, width

    def text(self, start: int, stop: int) -> TextArray:
        """Ids of the slice; negative numbers are absent."""
        part = self.numbers[start:stop]
        absent = part < 0
        digits = pa.array(part, mask=absent if absent.any() else None).cast(STRING)
        if self.width:
            digits = pc.ascii_lpad(digits, self.width, "0")
        if not self.prefix:
            return digits
        return pc.binary_join_element_wise(_scalar(self.prefix), digits, _scalar(""))


class Decimals:
    """Integers with an implied decimal point: cents as dollars, tenths as HbA1c percent."""

    def __init__(self, values: Ints, places: int = 2) -> None:
        """``values`` in units of 10 to the power of minus ``places``."""
        self.values, self.places = values, places

    def text(self, start: int, stop: int) -> TextArray:
        """JSON numbers with exactly ``places`` decimals."""
        part = self.values[start:stop]
        scale = 10**self.places
        whole = pa.array(np.abs(part) // scale).cast(STRING)
        rest = pc.ascii_lpad(pa.array(np.abs(part) % scale).cast(STRING), self.places, "0")
        sign = words(("", "-")).take(pa.array((part < 0).astype(np.int8)))
        joined = pc.binary_join_element_wise(whole, rest, _scalar("."))
        return pc.binary_join_element_wise(sign, joined, _scalar(""))


class Dates:
    """Days since 1970-01-01 as ``YYYY-MM-DD``; :data:`~fhir_gateway.sandbox.population.calendar.NEVER` is absent."""

    def __init__(self, days: Ints, never: int | None = None) -> None:
        """Days equal to ``never`` are absent."""
        self.days, self.never = days, never

    def text(self, start: int, stop: int) -> TextArray:
        """Dates of the slice."""
        part = self.days[start:stop]
        absent = part == self.never if self.never is not None else None
        shown = part if absent is None else np.where(absent, 0, part)
        mask = absent if absent is not None and absent.any() else None
        return pa.array(shown.astype(np.int32), pa.int32(), mask=mask).cast(pa.date32()).cast(STRING)


class Instants:
    """Local minutes since 1970-01-01T00:00 as an instant with seconds and offset."""

    def __init__(self, minutes: Ints) -> None:
        """``minutes`` are local, see :data:`OFFSET`."""
        self.minutes = minutes

    _clock = words(f"T{m // 60:02}:{m % 60:02}:00{OFFSET}" for m in range(24 * 60))

    def text(self, start: int, stop: int) -> TextArray:
        """Instants of the slice."""
        part = self.minutes[start:stop]
        date = Dates(part // 1440).text(0, stop - start)
        return pc.binary_join_element_wise(date, self._clock.take(pa.array(part % 1440)), _scalar(""))


class Joined:
    """Two columns with a space between."""

    def __init__(self, first: Column, second: Column) -> None:
        """Neither may have nulls."""
        self.first, self.second = first, second

    def text(self, start: int, stop: int) -> TextArray:
        """Both texts of the slice."""
        return pc.binary_join_element_wise(self.first.text(start, stop), self.second.text(start, stop), _scalar(" "))
