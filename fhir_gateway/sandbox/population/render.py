"""Templates rendered by the column: a resource type is written once as nested dicts with slots, never row by row.

A template is JSON made of dicts, lists and constants, whose leaves may be slots:

* ``Text("id")`` - a quoted string from the column ``id`` (values must need no JSON escaping);
* ``Raw("amount")`` - the column's text as it stands: numbers and ready JSON fragments;
* ``Maybe("deceased", template)`` - a member of an object or entry of a list that is there only where the column
  ``deceased`` is not null (Column) or is true (boolean array); so no null and no empty list is ever written;
* ``Each("items", template)`` - a list with one entry per row of the nested table ``items``.

Compiling turns a template into an alternation of constant texts and column texts; rendering joins them element-wise
in Arrow. A null in a slot that is not ``Maybe`` raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.sandbox.population.columns import STRING, Bools, Column, Ints, TextArray

Template = Any  # nested dict | list | str | int | bool | slot


@dataclass(frozen=True, slots=True)
class Text:
    """A quoted string from a column, with constant text around it."""

    column: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Raw:
    """A column's text as it stands."""

    column: str


@dataclass(frozen=True, slots=True)
class Maybe:
    """A member of an object, or an entry of a list, that is present only in some rows; never the first."""

    column: str
    template: Template


@dataclass(frozen=True, slots=True)
class Each:
    """A list with one entry per nested row; use it inside ``Maybe`` when it can be empty."""

    table: str
    template: Template


@dataclass(frozen=True, slots=True)
class Nested:
    """Rows of a nested table: those of parent row i are ``offsets[i]`` to ``offsets[i + 1]``."""

    offsets: Ints
    columns: Mapping[str, Field]


Field: TypeAlias = "Column | Nested | Bools"
Fields = Mapping[str, Field]
_Part: TypeAlias = "str | Raw | Each | _Optional"


@dataclass(frozen=True, slots=True)
class _Optional:
    column: str
    parts: tuple[_Part, ...]


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _walk(template: Template) -> Iterator[_Part]:
    match template:
        case Text(column, prefix):
            yield '"' + prefix
            yield Raw(column)
            yield '"'
        case Raw() | Each():
            yield template
        case dict():
            yield "{"
            for position, (key, value) in enumerate(template.items()):
                separator = "," if position else ""
                if isinstance(value, Maybe):
                    if not position:
                        raise ValueError(f"the first member of an object cannot be optional: {key}")
                    yield _Optional(value.column, _parts([f",{_dumps(key)}:"], value.template))
                else:
                    yield f"{separator}{_dumps(key)}:"
                    yield from _walk(value)
            yield "}"
        case list():
            yield "["
            for position, value in enumerate(template):
                if isinstance(value, Maybe):
                    if not position:
                        raise ValueError("the first entry of a list cannot be optional")
                    yield _Optional(value.column, _parts([","], value.template))
                    continue
                if position:
                    yield ","
                yield from _walk(value)
            yield "]"
        case _:
            yield _dumps(template)


def _parts(start: list[_Part], template: Template) -> tuple[_Part, ...]:
    merged: list[_Part] = []
    for part in (*start, *_walk(template)):
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] = merged[-1] + part
        else:
            merged.append(part)
    return tuple(merged)


def _join(parts: tuple[_Part, ...], fields: Fields, start: int, stop: int) -> TextArray:
    texts = [_text(part, fields, start, stop) for part in parts]
    if all(isinstance(text, pa.Scalar) for text in texts):
        return pa.array(["".join(text.as_py() for text in texts)] * (stop - start), STRING)
    return pc.binary_join_element_wise(*texts, pa.scalar("", STRING))


def _text(part: _Part, fields: Fields, start: int, stop: int) -> Any:
    match part:
        case str():
            return pa.scalar(part, STRING)
        case Raw(name):
            column = fields[name]
            if isinstance(column, np.ndarray | Nested):
                raise TypeError(f"{name} is not a text column")
            text = column.text(start, stop)
            if text.null_count:
                raise ValueError(f"column {name} has nulls but its slot is not optional")
            return text
        case Each(table, template):
            nested = fields[table]
            if not isinstance(nested, Nested):
                raise TypeError(f"{table} is not a nested table")
            return _each(nested, template, start, stop)
        case _Optional(name, inner):
            return _optional(name, inner, fields, start, stop)


def _each(nested: Nested, template: Template, start: int, stop: int) -> TextArray:
    offsets = nested.offsets[start : stop + 1]
    entries = _join(_parts([], template), nested.columns, int(offsets[0]), int(offsets[-1]))
    lists = pa.LargeListArray.from_arrays(pa.array(offsets - offsets[0]), entries)
    joined = pc.binary_join(lists, pa.scalar(",", STRING))
    return pc.binary_join_element_wise(pa.scalar("[", STRING), joined, pa.scalar("]", STRING), pa.scalar("", STRING))


def _optional(name: str, inner: tuple[_Part, ...], fields: Fields, start: int, stop: int) -> TextArray:
    """Render ``inner`` for the rows that have it and leave the others empty."""
    column = fields[name]
    if isinstance(column, np.ndarray):
        present = column[start:stop]
        if not present.any():
            return pa.array([""] * (stop - start), STRING)
        rows = np.flatnonzero(present) + start
        rendered = _join(inner, {k: _take(v, rows) for k, v in fields.items() if k in _names(inner)}, 0, len(rows))
        slots = np.cumsum(present) - 1
        return rendered.take(pa.array(np.where(present, slots, 0), mask=~present)).fill_null("")
    if isinstance(column, Nested):
        raise TypeError(f"{name} cannot decide about presence")
    text = column.text(start, stop)
    parts = [
        pa.scalar(part, STRING)
        if isinstance(part, str)
        else text
        if part == Raw(name)
        else _text(part, fields, start, stop)
        for part in inner
    ]
    return pc.binary_join_element_wise(*parts, pa.scalar("", STRING)).fill_null("")


@dataclass(frozen=True, slots=True)
class _Taken:
    """Rows of a column out of order; only for the few rows of an optional member."""

    column: Column
    rows: Ints

    def text(self, start: int, stop: int) -> TextArray:
        rows = self.rows[start:stop]
        low = int(rows[0])
        return self.column.text(low, int(rows[-1]) + 1).take(pa.array(rows - low))


def _take(field: Field, rows: Ints) -> Field:
    if isinstance(field, np.ndarray):
        return field[rows]
    if isinstance(field, Nested):
        raise TypeError("a nested table cannot be optional")
    return _Taken(field, rows)


def _names(parts: tuple[_Part, ...]) -> frozenset[str]:
    names: set[str] = set()
    for part in parts:
        match part:
            case Raw(name):
                names.add(name)
            case _Optional(name, inner):
                names.add(name)
                names |= _names(inner)
            case Each(table, _):
                names.add(table)
    return frozenset(names)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A template with the columns that fill it: ``rows`` resources of one type."""

    template: Template
    rows: int
    fields: Fields

    def lines(self, chunk: int = 10_000) -> Iterator[bytes]:
        """NDJSON, some thousand lines at a time."""
        parts = _parts([], self.template)
        newline = pa.scalar("\n", STRING)
        for start in range(0, self.rows, chunk):
            stop = min(start + chunk, self.rows)
            texts = _join(parts, self.fields, start, stop)
            lines = pc.binary_join_element_wise(texts, newline, pa.scalar("", STRING))
            if lines.null_count:
                raise ValueError("a resource rendered to null")
            _, offsets, content = lines.buffers()
            bounds = np.frombuffer(offsets, np.int64)
            yield content.slice(int(bounds[0]), int(bounds[stop - start] - bounds[0])).to_pybytes()
