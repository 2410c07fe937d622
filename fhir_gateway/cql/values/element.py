"""FHIR elements and resources: row numbers into Arrow columns, with properties read lazily.

A ``Source`` is one node of a resource type's column tree (the resource itself, ``Encounter.location``,
``Encounter.period`` ...). An ``ElementVec`` is a source and a row of it for each row of the frame. Moving to a child
reads no data but validity and offsets; values are converted once for each column and then gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from fhir_gateway.cql.values.base import AnyArray, BoolArray, IntArray, NullVec, Vec, gather, offsets_of, ranges
from fhir_gateway.cql.values.scalars import BoolVec, DecVec, IntVec, StrVec
from fhir_gateway.cql.values.structured import ChoiceVec, ListVec
from fhir_gateway.cql.values.temporal import parse_dates, parse_datetimes, parse_times
from fhir_gateway.errors import UnsupportedElm
from fhir_gateway.r4 import spec

Column = Callable[[str], Any]


class Source:
    """One node of the column tree: an Arrow array of a FHIR type, or a resource table that loads columns by name."""

    def __init__(
        self, fhir_type: str, array: Any, offset_ms: int, *, path: str, column: Column | None = None, size: int = 0
    ) -> None:
        self.fhir_type = fhir_type
        self.array = array
        self.offset_ms = offset_ms
        self.path = path
        self._column = column
        self.size = size if array is None else len(array)
        self._children: dict[str, Any] = {}

    @property
    def is_resource(self) -> bool:
        """True for a resource table."""
        return self._column is not None

    @cached_property
    def present(self) -> BoolArray:
        """True where the element has a value."""
        if self.array is None:
            return np.ones(self.size, dtype=bool)
        return np.asarray(self.array.is_valid())

    def _child_array(self, name: str) -> Any:
        if self._column is not None:
            return self._column(name)
        index = self.array.type.get_field_index(name)
        return self.array.field(index) if index >= 0 else None

    def child(self, element: spec.Element) -> tuple[IntArray | None, Source] | None:
        """Offsets (for lists) and source of a child element; None when the columns do not hold it."""
        if element.name not in self._children:
            array = self._child_array(element.name)
            found: tuple[IntArray | None, Source] | None = None
            if array is not None:
                path = f"{self.path}.{element.name}"
                if element.is_list:
                    offsets = np.asarray(array.offsets).astype(np.int64)
                    values = array.values
                    found = (offsets, Source(element.type, values, self.offset_ms, path=path))
                    found[1].list_present = np.asarray(array.is_valid())
                else:
                    found = (None, Source(element.type, array, self.offset_ms, path=path))
            self._children[element.name] = found
        cached: tuple[IntArray | None, Source] | None = self._children[element.name]
        return cached

    list_present: BoolArray

    @cached_property
    def values(self) -> Vec:
        """System values of a primitive source, converted once for the whole column."""
        sql = spec.PRIMITIVE_COLUMNS[self.fhir_type]
        if sql == "BOOLEAN":
            return BoolVec(np.asarray(self.array.fill_null(False)), self.present)
        if sql == "BIGINT":
            return IntVec(np.asarray(self.array.fill_null(0)).astype(np.int64), self.present)
        if sql.startswith("DECIMAL"):
            return DecVec.of_arrow(self.array)
        if self.fhir_type == "date":
            return parse_dates(self.array)
        if self.fhir_type in ("dateTime", "instant"):
            return parse_datetimes(self.array, self.offset_ms)
        if self.fhir_type == "time":
            return parse_times(self.array)
        return StrVec.of_arrow(self.array)


class ElementVec(Vec):
    """Rows of a source; -1 is null."""

    kind = "Element"
    __slots__ = ("_properties", "catalogue", "rows", "source")

    def __init__(self, source: Source, rows: IntArray) -> None:
        self.source, self.rows = source, rows
        self._properties: dict[str, Vec] = {}
        self.catalogue: Any = None  # what codes it holds, kept by those who look for several value sets in it

    @classmethod
    def of(cls, source: Source, rows: IntArray) -> ElementVec:
        """Rows of ``source``, null where it has no value."""
        present = source.present
        if len(present) == 0:
            return cls(source, np.full(len(rows), -1, dtype=np.int64))
        return cls(source, np.where((rows >= 0) & present[rows], rows, -1))

    @property
    def fhir_type(self) -> str:
        """FHIR type name."""
        return self.source.fhir_type

    @property
    def type_name(self) -> str:
        """Discriminator for choices."""
        return f"FHIR.{self.source.fhir_type}"

    def __len__(self) -> int:
        """Rows of the frame."""
        return len(self.rows)

    @property
    def valid(self) -> BoolArray:
        """True where there is an element."""
        return self.rows >= 0

    def take(self, index: IntArray) -> ElementVec:
        """Rows at ``index``; -1 gives null."""
        if len(self.rows) == 0:
            return ElementVec(self.source, np.full(len(index), -1, dtype=np.int64))
        return ElementVec(self.source, np.where(index >= 0, self.rows[index], -1))

    @classmethod
    def concat(cls, parts: Sequence[ElementVec]) -> ElementVec:
        """Rows of all parts; sources of the same type are put behind one another."""
        sources: list[Source] = []
        for part in parts:
            if not any(part.source is s for s in sources):
                sources.append(part.source)
        if len(sources) == 1:
            return cls(sources[0], np.concatenate([p.rows for p in parts]))
        if any(s.is_resource for s in sources):
            raise UnsupportedElm(f"two tables of {sources[0].fhir_type} in one list")
        bases, base = {}, 0
        for source in sources:
            bases[id(source)] = base
            base += source.size
        joined = pa.concat_tables([pa.table({"v": s.array}) for s in sources], promote_options="permissive")
        merged = Source(sources[0].fhir_type, joined["v"].combine_chunks(), sources[0].offset_ms, path=sources[0].path)
        if isinstance(merged.array, pa.ChunkedArray):
            merged.array = pa.concat_arrays(merged.array.chunks)
        return cls(merged, np.concatenate([np.where(p.rows >= 0, p.rows + bases[id(p.source)], -1) for p in parts]))

    def key_columns(self) -> tuple[AnyArray, ...]:
        """Row numbers for resources; for elements the numbers of their distinct contents."""
        if self.source.is_resource:
            return (self.rows,)
        if spec.is_primitive(self.fhir_type):
            return self.primitive().key_columns()
        unique, inverse = np.unique(self.rows, return_inverse=True)
        texts = [repr(self.source.array[int(row)].as_py()) if row >= 0 else "" for row in unique.tolist()]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        return (np.array([numbers[t] for t in texts], dtype=np.int64)[inverse],)

    def primitive(self) -> Vec:
        """System values of a primitive element."""
        return self.source.values.take(self.rows)

    def property(self, name: str) -> Vec:
        """The child element ``name``: an element, a list of elements, or a choice of types."""
        if name not in self._properties:
            self._properties[name] = self._property(name)
        return self._properties[name]

    def _property(self, name: str) -> Vec:
        if spec.is_primitive(self.fhir_type):
            if name == "value":
                return self.primitive()
            raise UnsupportedElm(f"{self.source.path}.{name}: ids and extensions of primitives are not in the columns")
        definition = spec.type_definition(self.fhir_type)
        if name in definition.elements:
            return self._single(definition.elements[name])
        if name in definition.choices:
            options = [self._single(e) for e in definition.choices[name] if self.source.child(e) is not None]
            if not options:
                raise UnsupportedElm(f"{self.source.path}.{name} is not in the columns")
            held = [o for o in options if o.valid.any()]
            return ChoiceVec(held) if held else NullVec(len(self))
        raise UnsupportedElm(f"{self.fhir_type} has no element {name} in FHIR R4")

    def _single(self, element: spec.Element) -> Vec:
        child = self.source.child(element)
        if child is None:
            raise UnsupportedElm(f"{self.source.path}.{element.name} is not in the columns")
        offsets, source = child
        if offsets is None:
            return ElementVec.of(source, self.rows)
        if len(offsets) <= 1:
            return ListVec(np.zeros(len(self) + 1, dtype=np.int64), NullVec(0), np.zeros(len(self), dtype=bool))
        ok = self.rows >= 0
        ok[ok] = source.list_present[self.rows[ok]]
        lengths = np.where(ok, gather(np.diff(offsets), self.rows), 0)
        flat = ranges(gather(offsets[:-1], self.rows), lengths)
        return ListVec(offsets_of(lengths), ElementVec.of(source, flat), ok)

    def pylist(self) -> list[Any]:
        """Plain JSON-like values; resources as ``Type/id``."""
        if self.source.is_resource:
            ids = self.property("id").pylist()
            return [f"{self.fhir_type}/{i}" if i is not None else None for i in ids]
        if spec.is_primitive(self.fhir_type):
            return self.primitive().pylist()
        return [_compact(self.source.array[int(r)].as_py()) if r >= 0 else None for r in self.rows.tolist()]


def _compact(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _compact(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_compact(v) for v in value]
    return value
