"""Typed Arrow columns from checked JSON text, without Python objects between them."""

from __future__ import annotations

from collections.abc import Mapping
from threading import local
from typing import Any

import numpy as np
import pyarrow as pa

from fhir_gateway.errors import GatewayError
from fhir_gateway.lake.grammar import Grammar, Place
from fhir_gateway.lake.kernel import columns as kernel_columns
from fhir_gateway.lake.kernel import many, tables
from fhir_gateway.lake.texts import Texts
from fhir_gateway.r4 import spec


def assemble(
    grammar: Grammar,
    resource_type: str,
    texts: Texts,
    starts: np.ndarray,
    lengths: np.ndarray,
    odd: np.ndarray,
    text: np.ndarray,
    shape: Mapping[str, Any],
) -> tuple[np.ndarray, pa.StructArray]:
    """Read resources of one type into ``text``, and make columns ``shape`` of those that have passed the walk.

    ``starts`` and ``lengths`` are where they lie in ``texts``; the ``odd`` ones have not passed. ``shape`` is a part of
    the type's column structure. ``text`` has room for all and :data:`kernel.PADDING` more. Answers where in it each
    begins and the last ends, and the columns.
    """
    offsets = np.empty(len(starts) + 1, np.int32)
    size = int(lengths.sum())
    events, ordered = SCRATCH.events(size // 2 + 16)
    levels = np.zeros(grammar.levels, np.int64)
    frames = np.zeros((5, tables.MAX_DEPTH + 1), np.int64)
    state = np.zeros(tables.STATE, np.int64)
    slots = np.zeros((tables.SLOTS, len(starts)), np.int64)
    used = np.empty(0, np.uint8)
    with grammar.lent() as known:
        failed = many.walk_rows(
            known,
            texts.number,
            starts,
            lengths,
            odd,
            text,
            text.ctypes.data,
            offsets,
            slots,
            used,
            levels,
            events,
            frames,
            state,
        )
    if failed >= 0:
        raise GatewayError(f"{resource_type}: a resource was read and checked once, and not again")
    events = events[: int(state[tables.EVENTS])]
    counts = np.zeros(grammar.columns, np.int64)
    kernel_columns.count_events(events, counts)
    ends = np.cumsum(counts)
    kernel_columns.sort_events(events, ends - counts, ordered)
    columns = _Columns(text, ordered, ends - counts, ends, levels)
    rows = len(starts) - int(np.count_nonzero(odd))
    return offsets, columns.struct(grammar.fields(resource_type), shape, rows, None)


class Scratch(local):
    """What the walk reads and notes, a thread's own and used again: fresh memory costs as much as the walk."""

    def __init__(self) -> None:
        self._pair = tuple(_events(0) for _ in range(2))
        self._text = np.empty(0, np.uint8)

    def text(self, most: int) -> np.ndarray:
        """Room for text, the same as the time before."""
        if len(self._text) < most:
            self._text = np.empty(most, np.uint8)
        return self._text

    def events(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Room for events as they come, and by column."""
        if len(self._pair[0]) < most:
            self._pair = tuple(_events(most) for _ in range(2))
        one, other = self._pair
        return one, other


def _events(most: int) -> np.ndarray:
    return np.empty((most, tables.EVENT_FIELDS), np.int32)


SCRATCH = Scratch()


class _Columns:
    """Arrow arrays of one batch of events."""

    def __init__(
        self, text: np.ndarray, events: np.ndarray, begins: np.ndarray, ends: np.ndarray, levels: np.ndarray
    ) -> None:
        self._text = text
        self._events = events
        self._begins = begins
        self._ends = ends
        self._levels = levels

    def struct(
        self, fields: Mapping[str, Place], shape: Mapping[str, Any], rows: int, validity: pa.Buffer | None
    ) -> pa.StructArray:
        """The fields that ``shape`` names, nulls for those not met."""
        arrays = [self._field(fields.get(name), part, rows) for name, part in shape.items()]
        types = [pa.field(name, array.type) for name, array in zip(shape, arrays, strict=True)]
        return pa.Array.from_buffers(pa.struct(types), rows, [validity], children=arrays)

    def _field(self, place: Place | None, part: Any, rows: int) -> pa.Array:
        if place is None:
            return pa.nulls(rows, spec.arrow_type(part))
        if not isinstance(part, list):
            return self._value(place, part, rows, in_list=False)
        found = self._of(place.list_column)
        offsets = np.empty(rows + 1, np.int32)
        kernel_columns.ends(found, offsets)
        inner = self._value(place, part[0], int(self._levels[place.level]), in_list=True)
        buffers = [self._validity(found, rows), pa.py_buffer(offsets)]
        return pa.Array.from_buffers(pa.list_(inner.type), rows, buffers, children=[inner])

    def _value(self, place: Place, part: Any, rows: int, *, in_list: bool) -> pa.Array:
        if not isinstance(part, str):
            validity = None if in_list else self._validity(self._of(place.column), rows)
            return self.struct(place.fields, part, rows, validity)
        found = self._of(place.column)
        if part == "VARCHAR":
            offsets = np.empty(rows + 1, np.int32)
            target = np.empty(kernel_columns.size(found) + 8, np.uint8)
            used = kernel_columns.texts(self._text, found, offsets, target)
            values = [pa.py_buffer(offsets), pa.py_buffer(target[:used])]
        elif part == "BIGINT":
            whole = np.zeros(rows, np.int64)
            kernel_columns.wholes(self._text, found, whole)
            values = [pa.py_buffer(whole)]
        elif part == "BOOLEAN":
            bits = np.zeros((rows + 7) // 8, np.uint8)
            kernel_columns.truths(self._text, found, bits)
            values = [pa.py_buffer(bits)]
        else:
            pairs = np.zeros((rows, 2), np.uint64)
            kernel_columns.decimals(self._text, found, pairs)
            values = [pa.py_buffer(pairs)]
        return pa.Array.from_buffers(spec.arrow_type(part), rows, [self._validity(found, rows), *values])

    def _of(self, column: int) -> np.ndarray:
        """A column's events."""
        if column >= len(self._begins):
            return self._events[:0]
        return self._events[self._begins[column] : self._ends[column]]

    @staticmethod
    def _validity(found: np.ndarray, rows: int) -> pa.Buffer | None:
        if len(found) == rows:
            return None
        bitmap = np.zeros((rows + 7) // 8, np.uint8)
        kernel_columns.mark(found, bitmap)
        return pa.py_buffer(bitmap)


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
