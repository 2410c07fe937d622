"""Typed Arrow columns from checked JSON text, without Python objects between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from sys import getrefcount
from threading import local
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fhir_gateway.errors import GatewayError
from fhir_gateway.lake.grammar import Grammar, Place
from fhir_gateway.lake.kernel import columns as kernel
from fhir_gateway.lake.texts import Texts
from fhir_gateway.r4 import spec

_KINDS = {"VARCHAR": kernel.STRING, "BOOLEAN": kernel.TRUTH, "BIGINT": kernel.WHOLE, "DECIMAL(28,8)": kernel.NUMBER}
#: Bytes after each part of an arena: what a string is copied with may write beyond its end, and parts begin at a line
#: of the processor's cache.
_LINE = 64
#: How often memory is referred to that nobody else has: by its attribute and by who counts.
_OURS = 2

_Numbers = npt.NDArray[np.int64]


class Rows(NamedTuple):
    """Checked rows: where in :class:`Texts` they lie, their bytes, where their events lie, and how many they have.

    The ``odd`` ones have not passed the walk: they have no events.
    """

    starts: _Numbers
    lengths: _Numbers
    told_at: _Numbers
    told: _Numbers
    odd: npt.NDArray[np.bool_]

    @staticmethod
    def of(table: pa.Table) -> Rows:
        """Those of a table with ``TEXT_COLUMNS``."""
        starts, lengths, told_at, told = (
            table[name].to_numpy().astype(np.int64, copy=False) for name in TEXT_COLUMNS[:-1]
        )
        return Rows(starts, lengths, told_at, told, table[TEXT_COLUMNS[-1]].to_numpy())

    def part(self, start: int, end: int) -> Rows:
        """Some of them."""
        part = slice(start, end)
        return Rows(self.starts[part], self.lengths[part], self.told_at[part], self.told[part], self.odd[part])


#: Columns of checked rows by which their text and values are found.
TEXT_COLUMNS = ("_at", "_size", "_told_at", "_told", "_odd")


class _Part(NamedTuple):
    """A column to be made. ``number`` is its place among all, ``inner`` what a list is of, or what an object has.

    Of what no resource has had there is only the type.
    """

    number: int
    kind: int
    type: pa.DataType
    inner: tuple[_Part | pa.DataType, ...]


class _Plan(NamedTuple):
    """Of all columns to be made the kinds, numbers and levels, and the columns whose events are their rows.

    These are -1 where each resource is a row.
    """

    kinds: _Numbers
    columns: _Numbers
    levels: _Numbers
    above: _Numbers


class Assembly:
    """Makes the columns ``shape``, a part of a type's column structure, of resources of that type."""

    def __init__(self, grammar: Grammar, resource_type: str, shape: Mapping[str, Any]) -> None:
        self._resource_type = resource_type
        self._grammar = grammar
        self._root = grammar.level(resource_type)
        self._planned: list[tuple[int, int, int, int]] = []
        self._parts = self._fields(grammar.fields(resource_type), shape, -1)
        self._type = _struct_type(shape, self._parts)
        self._lists = np.array(grammar.lists, np.int64)
        self._plan = _Plan(*np.array(self._planned, np.int64).reshape(-1, 4).T)

    def _fields(
        self, fields: Mapping[str, Place], shape: Mapping[str, Any], above: int
    ) -> tuple[_Part | pa.DataType, ...]:
        """The parts of an object; of what was not met only the type."""
        return tuple(
            self._field(fields[name], part, above) if name in fields else spec.arrow_type(part)
            for name, part in shape.items()
        )

    def _field(self, place: Place, part: Any, above: int) -> _Part:
        if not isinstance(part, list):
            return self._value(place, part, above, 0)
        number = self._add(kernel.LIST, place.list_column, place.outer, above)
        inner = self._value(place, part[0], place.column, kernel.REPEATED)
        return _Part(number, kernel.LIST, pa.list_(inner.type), (inner,))

    def _value(self, place: Place, part: Any, above: int, repeated: int) -> _Part:
        if isinstance(part, str):
            number = self._add(_KINDS[part] + repeated, place.column, place.level, above)
            return _Part(number, _KINDS[part], spec.arrow_type(part), ())
        number = self._add(kernel.STRUCT + repeated, place.column, place.level, above)
        inner = self._fields(place.fields, part, above)
        return _Part(number, kernel.STRUCT, _struct_type(part, inner), inner)

    def _add(self, kind: int, column: int, level: int, above: int) -> int:
        """Plan a column; answers its place among all."""
        self._planned.append((kind, column, level, above))
        return len(self._planned) - 1

    def read(self, texts: Texts, rows: Rows, text: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int32], pa.Array]:
        """Read the text of resources into ``text``, and make columns of those that are not odd.

        ``text`` has room for all and :data:`kernel.PADDING` more. Answers where in it each begins and the last ends,
        and the columns.
        """
        count = len(rows.starts)
        told = int(rows.told.sum())
        events = SCRATCH.events(told)
        if kernel.read_events(texts.number, rows.told_at, rows.told, events.ctypes.data, 8 * told) >= 0:
            raise self._lost()
        columns = np.zeros((self._grammar.columns, kernel.COLUMN_FIELDS), np.int64)
        kernel.count(events, columns)
        columns[self._lists, kernel.KIND] = kernel.SKIPPED_LIST  # but those of the plan, which the arena enters
        arena = _Arena(self._plan, columns, count - int(np.count_nonzero(rows.odd)))
        offsets = np.empty(count + 1, np.int32)
        levels = np.zeros(self._grammar.levels, np.int64)
        pieces = np.empty((2 * kernel.RUN + 4, 2), np.int64)
        failed = kernel.gather(
            texts.number,
            rows.starts,
            rows.lengths,
            rows.told,
            rows.odd,
            text,
            text.ctypes.data,
            offsets,
            events,
            self._root,
            columns,
            levels,
            arena.memory,
            arena.memory.view(np.int32),
            arena.memory.view(np.int64),
            pieces,
            pieces.ctypes.data,
        )
        if failed >= 0:
            raise self._lost()
        arena.finish(columns)
        return offsets, arena.struct(self._parts, self._type)

    def _lost(self) -> GatewayError:
        return GatewayError(f"{self._resource_type}: a resource was read and checked once, and cannot be read again")


def _struct_type(names: Iterable[str], parts: Iterable[_Part | pa.DataType]) -> pa.DataType:
    types = (part.type if isinstance(part, _Part) else part for part in parts)
    return pa.struct(list(zip(names, types, strict=True)))


class _Arena:
    """The memory of the columns of some resources, and where in it they are."""

    def __init__(self, plan: _Plan, columns: _Numbers, resources: int) -> None:
        kinds = plan.kinds & (kernel.REPEATED - 1)
        counts, most = columns[plan.columns, kernel.COUNT], columns[plan.columns, kernel.SIZE]
        rows = np.where(plan.above < 0, resources, columns[plan.above, kernel.COUNT])
        every = counts == rows  # has a value: no bits are needed
        bits = (rows + 7) >> 3
        wide = (kinds == kernel.WHOLE) | (kinds == kernel.NUMBER)
        texts = kinds == kernel.STRING
        of_kinds = [kinds == kernel.TRUTH, kinds == kernel.WHOLE, kinds == kernel.NUMBER]
        fixed = np.select(of_kinds, [bits, 8 * rows, 16 * rows])
        self._bounded = texts | (kinds == kernel.LIST)
        bounds = np.where(self._bounded, 4 * rows + 4, 0)
        sizes = np.concatenate([np.where(every, 0, bits), fixed, bounds, np.where(texts, most + _LINE, 0)])
        begins = np.cumsum((sizes + (_LINE - 1)) & -_LINE)
        begins = np.concatenate([[0], begins])
        self.memory = SCRATCH.arena(int(begins[-1]))
        self.memory[: begins[2 * len(kinds)]] = 0  # bits that are not set, values that are not there
        bits_at, fixed_at, bounds_at, texts_at = np.split(begins[:-1], 4)
        values_at = np.where(texts, texts_at, fixed_at)
        for field, values in (
            (kernel.KIND, plan.kinds),
            (kernel.LEVEL, plan.levels),
            (kernel.BITS, np.where(every, -1, bits_at)),
            (kernel.OFFSETS, bounds_at >> 2),
            (kernel.VALUES, np.where(wide, values_at >> 3, values_at)),
            (kernel.SIZE, 0),
        ):
            columns[plan.columns, field] = values
        self._plan, self._rows, self._fixed, self._resources = plan, rows, fixed, resources
        places = (rows, rows - counts, bits_at, bits, bounds_at, bounds, values_at)
        self._places = list(zip(*(array.tolist() for array in places), strict=True))
        self._sizes: list[int] = []

    def finish(self, columns: _Numbers) -> None:
        """All values are there: see to the ends of lists and strings."""
        bounded = self._plan.columns[self._bounded]
        kernel.finish(bounded, self._rows[self._bounded], columns, self.memory.view(np.int32))
        self._sizes = np.where(self._bounded, columns[self._plan.columns, kernel.SIZE], self._fixed).tolist()
        self._buffer = pa.py_buffer(self.memory)

    def struct(self, parts: tuple[_Part | pa.DataType, ...], made: pa.DataType) -> pa.Array:
        """The resources' columns."""
        inner = [self._array(part, self._resources) for part in parts]
        return pa.Array.from_buffers(made, self._resources, [None], 0, children=inner)

    def _array(self, part: _Part | pa.DataType, above: int) -> pa.Array:
        """A column, whose object has so many rows."""
        if not isinstance(part, _Part):
            return pa.nulls(above, part)
        cut = self._buffer.slice
        rows, nulls, bits_at, bits, bounds_at, bounds, values_at = self._places[part.number]
        buffers = [cut(bits_at, bits) if nulls else None]
        if part.kind in (kernel.LIST, kernel.STRING):
            buffers.append(cut(bounds_at, bounds))
        if part.kind not in (kernel.LIST, kernel.STRUCT):
            buffers.append(cut(values_at, self._sizes[part.number]))
        inner = [self._array(one, rows) for one in part.inner]
        return pa.Array.from_buffers(part.type, rows, buffers, nulls, children=inner or None)


class Scratch(local):
    """What is read and noted, a thread's own and used again: fresh memory costs as much as the walk."""

    def __init__(self) -> None:
        self.rest()

    def rest(self) -> None:
        """Give back what this thread has: it reads nothing for a while."""
        self._events = np.empty(0, np.int64)
        self._text = np.empty(0, np.uint8)
        self._arena = np.empty(0, np.uint8)

    def text(self, most: int) -> npt.NDArray[np.uint8]:
        """Room for text, the same as the time before."""
        if len(self._text) < most:
            self._text = np.empty(most, np.uint8)
        return self._text

    def events(self, count: int) -> _Numbers:
        """Room for events, the same as the time before."""
        if len(self._events) < count:
            self._events = np.empty(2 * count, np.int64)
        return self._events[:count]

    def arena(self, size: int) -> npt.NDArray[np.uint8]:
        """Memory for columns: that of the time before, when nobody has any of these columns any more."""
        if len(self._arena) < size or getrefcount(self._arena) > _OURS:
            self._arena = np.empty(size + (size >> 2), np.uint8)
        return self._arena[:size]


SCRATCH = Scratch()


def used_shape(grammar: Grammar, resource_type: str, used: np.ndarray) -> dict[str, Any]:
    """The part of the type's column structure whose leaves are marked in ``used``."""

    def kept(fields: Mapping[str, Place], structure: Mapping[str, Any]) -> dict[str, Any]:
        shape: dict[str, Any] = {}
        for name, part in structure.items():
            place = fields.get(name)
            if place is None:
                continue
            inner = part[0] if isinstance(part, list) else part
            if isinstance(inner, str):
                found: Any = inner if place.column < len(used) and used[place.column] else None
            else:
                found = kept(place.fields, inner)
            if found:
                shape[name] = [found] if isinstance(part, list) else found
        return shape

    return kept(grammar.fields(resource_type), spec.column_structure(resource_type))
