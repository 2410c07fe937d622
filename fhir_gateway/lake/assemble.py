"""Typed Arrow columns from checked JSON text, without Python objects between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from fhir_gateway.errors import GatewayError
from fhir_gateway.lake.grammar import Grammar, Place
from fhir_gateway.lake.kernel import columns as kernel_columns
from fhir_gateway.lake.kernel import many, tables
from fhir_gateway.r4 import spec


def assemble(
    grammar: Grammar,
    resource_type: str,
    text: np.ndarray,
    starts: np.ndarray,
    size: int,
    shape: Mapping[str, Any],
) -> pa.StructArray:
    """Columns ``shape`` (a part of the type's column structure) of resources of one type that have passed the walk.

    ``text`` holds ``size`` bytes of JSON and :data:`kernel.PADDING` more; ``starts`` is where each resource begins.
    """
    events = tables.Events(*(np.empty(size // 2 + 16, np.int32) for _ in tables.Events._fields))
    levels = np.zeros(grammar.levels, np.int64)
    frames = np.zeros((5, tables.MAX_DEPTH + 1), np.int64)
    state = np.zeros(tables.STATE, np.int64)
    slots = np.zeros((tables.SLOTS, len(starts)), np.int64)
    used = np.empty(0, np.uint8)
    failed = many.walk_rows(grammar.tables, text, starts, -1, slots, used, levels, events, frames, state)
    if failed >= 0:
        raise GatewayError(f"{resource_type}: a resource passed the check once and not again")
    count = int(state[tables.EVENTS])
    counts = np.bincount(events.column[:count], minlength=grammar.columns)
    ends = np.cumsum(counts)
    ordered = tables.Events(*(np.empty(count, np.int32) for _ in tables.Events._fields))
    kernel_columns.sort_events(tables.Events(*(array[:count] for array in events)), ends - counts, ordered)
    columns = _Columns(text, ordered, ends - counts, ends, levels)
    return columns.struct(grammar.fields(resource_type), shape, len(starts), None)


class _Columns:
    """Arrow arrays of one batch of events."""

    def __init__(
        self, text: np.ndarray, events: tables.Events, begins: np.ndarray, ends: np.ndarray, levels: np.ndarray
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
        there, _, lengths = self._of(place.list_column)
        counts = np.zeros(rows + 1, np.int32)
        counts[there + 1] = lengths
        inner = self._value(place, part[0], int(self._levels[place.level]), in_list=True)
        offsets = pa.py_buffer(np.cumsum(counts, dtype=np.int32))
        validity = self._validity(there, rows)
        return pa.Array.from_buffers(pa.list_(inner.type), rows, [validity, offsets], children=[inner])

    def _value(self, place: Place, part: Any, rows: int, *, in_list: bool) -> pa.Array:
        if not isinstance(part, str):
            validity = None if in_list else self._validity(self._of(place.column)[0], rows)
            return self.struct(place.fields, part, rows, validity)
        there, starts, lengths = self._of(place.column)
        validity = self._validity(there, rows)
        arrow_type = spec.arrow_type(part)
        if part == "VARCHAR":
            offsets = np.empty(rows + 1, np.int32)
            target = np.empty(int(np.abs(lengths).sum()) + 8, np.uint8)
            used = kernel_columns.texts(self._text, there, starts, lengths, offsets, target)
            values = [pa.py_buffer(offsets), pa.py_buffer(target[:used])]
        elif part == "BIGINT":
            whole = np.zeros(rows, np.int64)
            kernel_columns.wholes(self._text, there, starts, lengths, whole)
            values = [pa.py_buffer(whole)]
        elif part == "BOOLEAN":
            bits = np.zeros((rows + 7) // 8, np.uint8)
            kernel_columns.truths(self._text, there, starts, bits)
            values = [pa.py_buffer(bits)]
        else:
            pairs = np.zeros((rows, 2), np.uint64)
            kernel_columns.decimals(self._text, there, starts, lengths, pairs)
            values = [pa.py_buffer(pairs)]
        return pa.Array.from_buffers(arrow_type, rows, [validity, *values])

    def _of(self, column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, starts and lengths of a column's events."""
        if column >= len(self._begins):
            empty = np.empty(0, np.int32)
            return empty, empty, empty
        part = slice(self._begins[column], self._ends[column])
        return self._events.row[part], self._events.start[part], self._events.length[part]

    @staticmethod
    def _validity(there: np.ndarray, rows: int) -> pa.Buffer | None:
        if len(there) == rows:
            return None
        bitmap = np.zeros((rows + 7) // 8, np.uint8)
        kernel_columns.mark(there, bitmap)
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
