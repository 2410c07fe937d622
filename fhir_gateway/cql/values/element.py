"""FHIR elements and resources: row numbers into Arrow columns, with properties read lazily.

A ``Source`` is one node of a resource type's column tree (the resource itself, ``Encounter.location``,
``Encounter.period`` ...). An ``ElementVec`` is a source and a row of it for each row of the frame. Moving to a child
reads no data but validity and offsets; values are converted once for each column and then gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa

from fhir_gateway.cql.values.base import (
    AnyArray,
    BoolArray,
    IntArray,
    NullVec,
    Vec,
    dense,
    gather,
    gather_or,
    offsets_of,
    ranges,
)
from fhir_gateway.cql.values.documents import beside, contained, sibling, unread
from fhir_gateway.cql.values.scalars import BoolVec, DecVec, IntVec, StrVec
from fhir_gateway.cql.values.structured import ChoiceVec, ListVec, select
from fhir_gateway.cql.values.temporal import parse_dates, parse_datetimes, parse_times
from fhir_gateway.errors import UnsupportedElm
from fhir_gateway.r4 import spec

#: Rows of a source that are made plain values all at once, rather than one by one.
_SMALL = 20_000
#: Reads a column of a resource table: all of it, or only the parts that expressions name.
Column = Callable[[str, bool], Any]


class Source:
    """One node of the column tree: an Arrow array of a FHIR type, or a resource table that loads columns by name.

    The array may have only the parts that expressions name (``asked``, as :func:`fhir_gateway.r4.spec.narrowed` gives
    them; None: all of them), and of these only those that something fills. ``whole`` reads the same rows with all
    parts, for what turns out to need others.
    """

    #: Whether date-times keep the offset that they were written with.
    zones = False
    #: The source this one is a part of, under which name, and the offsets of a list.
    above: tuple[Source, str, IntArray | None] | None = None
    #: The JSON of each row, once an element was asked for that is not in the columns.
    parsed: list[Any] | None = None
    #: The sources that this one's rows were put together from.
    parts: tuple[Source, ...] = ()

    def __init__(
        self,
        fhir_type: str,
        array: Any,
        offset_ms: int,
        *,
        path: str,
        structure: spec.Structure = None,
        asked: spec.Structure = None,
        whole: Callable[[], Any] | None = None,
        column: Column | None = None,
        size: int = 0,
    ) -> None:
        self.fhir_type = fhir_type
        self.array = array
        self.offset_ms = offset_ms
        self.path = path
        self.structure = structure
        self._asked = asked
        self._whole = whole
        self._column = column
        self.size = size if array is None else len(array)
        self._children: dict[str, tuple[IntArray | None, Source] | None] = {}
        self.unread: dict[str, tuple[IntArray | None, Source]] = {}
        #: what codes it holds, kept by those who look for several value sets in it
        self.catalogue: Any = None

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

    @cached_property
    def complete(self) -> Any:
        """The array with all parts."""
        return self.array if self._whole is None else self._whole()

    def child(self, element: spec.Element) -> tuple[IntArray | None, Source] | None:
        """Offsets (for lists) and source of a child element; None when the columns do not hold it."""
        try:
            return self._children[element.name]
        except KeyError:
            found = self._children[element.name] = self._child(element)
            if found is not None:
                found[1].zones, found[1].above = self.zones, (self, element.name, found[0])
            return found

    def _child(self, element: spec.Element) -> tuple[IntArray | None, Source] | None:
        name = element.name
        if name not in self.structure:
            return None
        structure = self.structure[name]
        asked = structure if self._asked is None else self._asked.get(name)
        array = self._part(name, asked is not None)
        whole: Callable[[], Any] | None = None
        if asked is None or asked == structure:
            asked = None
        else:
            whole = partial(self._part, name, False)
        if array is None:  # nothing fills it
            array, whole = pa.array([], spec.arrow_type(structure)), None
        kept: dict[str, Any] = {"path": f"{self.path}.{name}", "asked": asked}
        if not element.is_list:
            return None, Source(element.type, array, self.offset_ms, structure=structure, whole=whole, **kept)
        offsets = np.asarray(array.offsets).astype(np.int64)
        if whole is not None:
            outer = whole
            whole = lambda: outer().values  # noqa: E731 - a name would say no more
        kept["asked"] = asked[0] if asked else None
        source = Source(element.type, array.values, self.offset_ms, structure=structure[0], whole=whole, **kept)
        source.list_present = np.asarray(array.is_valid())
        return offsets, source

    def _part(self, name: str, asked: bool) -> Any:
        """The array of a child, if anything fills it: the parts that are asked for, or all."""
        if self._column is not None:
            return self._column(name, asked)
        array = self.array if asked else self.complete
        index = array.type.get_field_index(name)
        return array.field(index) if index >= 0 else None

    def raw(self) -> Any:
        """The JSON texts of a resource table; None where there are none."""
        return self._column("_raw", False) if self._column is not None else None

    def python(self, rows: IntArray) -> list[Any]:
        """Plain values of rows (-1 gives None), with all parts in the order of their definition."""
        if len(rows) <= 4 and self.size <= _SMALL:  # asked row by row, as explanations do
            return [None if row < 0 else self._listed[row] for row in rows.tolist()]
        array = self.complete.take(pa.array(rows, mask=rows < 0))
        return list(array.cast(spec.arrow_type(self.structure)).to_pylist())

    @cached_property
    def _listed(self) -> list[Any]:
        """All rows as plain values."""
        return list(self.complete.cast(spec.arrow_type(self.structure)).to_pylist())

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
            return parse_datetimes(self.array, self.offset_ms, self.zones)
        if self.fhir_type == "time":
            return parse_times(self.array)
        return StrVec.of_arrow(self.array)


class ElementVec(Vec):
    """Rows of a source; -1 is null."""

    kind = "Element"
    __slots__ = ("_properties", "rows", "source")

    def __init__(self, source: Source, rows: IntArray) -> None:
        self.source, self.rows = source, rows
        self._properties: dict[str, Vec] = {}

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
        return ElementVec(self.source, gather_or(self.rows, index, -1))

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
        full = spec.arrow_type(sources[0].structure)
        joined = pa.concat_arrays([s.complete.cast(full) for s in sources])
        merged = Source(
            sources[0].fhir_type,
            joined,
            sources[0].offset_ms,
            path=sources[0].path,
            structure=sources[0].structure,
        )
        merged.parts, merged.zones = tuple(sources), sources[0].zones
        return cls(merged, np.concatenate([np.where(p.rows >= 0, p.rows + bases[id(p.source)], -1) for p in parts]))

    def key_columns(self) -> tuple[AnyArray, ...]:
        """Row numbers for resources; for elements the numbers of their distinct contents."""
        if self.source.is_resource:
            return (self.rows,)
        if spec.is_primitive(self.fhir_type):
            return self.primitive().key_columns()
        unique, inverse = np.unique(self.rows, return_inverse=True)
        contents = ElementVec(self.source, unique)
        keys: list[AnyArray] = [np.zeros(len(unique), dtype=np.int64)]
        elements = spec.type_definition(self.fhir_type).elements
        for name in self.source.structure:
            part = contents.property(name) if name in elements else NullVec(len(unique))
            ok = part.valid
            if ok.any():
                keys += [ok.astype(np.int64), *(np.where(ok, key, 0) for key in part.key_columns())]
        return (dense(*keys)[inverse],)

    def primitive(self) -> Vec:
        """System values of a primitive element."""
        return self.source.values.take(self.rows)

    def has_element(self, name: str) -> bool:
        """Whether its type has a child of that name, be it filled or not."""
        definition = spec.type_definition("Element" if spec.is_primitive(self.fhir_type) else self.fhir_type)
        return (
            name in definition.elements
            or name in definition.choices
            or (name == "value" and definition.name == "Element")
        )

    def property(self, name: str) -> Vec:
        """The child element ``name``: an element, a list of elements, or a choice of types."""
        if name not in self._properties:
            self._properties[name] = self._property(name)
        return self._properties[name]

    def _property(self, name: str) -> Vec:
        if spec.is_primitive(self.fhir_type):
            if name == "value":
                return self.primitive()
            if name not in spec.type_definition("Element").elements:
                raise UnsupportedElm(f"{self.fhir_type} has no element {name} in FHIR R4")
            if name not in self.source.unread:
                self.source.unread[name] = beside(self.source, spec.type_definition("Element").elements[name])
            return self._placed(self.source.unread[name])
        definition = spec.type_definition(self.fhir_type)
        if name in definition.elements:
            return self._single(definition.elements[name])
        if name in definition.choices:
            held = [o for o in self._options(definition.choices[name]) if o.valid.any()]
            return ChoiceVec(held) if held else NullVec(len(self))
        raise UnsupportedElm(f"{self.fhir_type} has no element {name} in FHIR R4")

    def _options(self, elements: Sequence[spec.Element]) -> Iterator[Vec]:
        """A choice in each of its types; those that are no columns are looked for where no column has a value."""
        options = [self._single(element) for element in elements if self.source.child(element) is not None]
        yield from options
        if len(options) < len(elements):
            without = self.valid
            for option in options:
                without = without & ~option.valid
            if without.any() and self.fhir_type == "Extension":  # which has a value or extensions
                without &= ~self.property("extension").valid
            if without.any():
                yield from (self._single(element) for element in elements if self.source.child(element) is None)

    def _single(self, element: spec.Element) -> Vec:
        if element.type == "Resource":
            return self._contained(element)
        return self._placed(self.source.child(element) or self._unread(element))

    def _contained(self, element: spec.Element) -> Vec:
        found = [self._placed(one) for one in contained(self.source, element)]
        lists = [items for items in found if isinstance(items, ListVec)]
        if lists:
            return ListVec(lists[0].offsets, ChoiceVec([items.flat for items in lists]), lists[0].valid)
        return ChoiceVec(found) if found else NullVec(len(self))

    def _unread(self, element: spec.Element) -> tuple[IntArray | None, Source]:
        if element.name not in self.source.unread:
            found = self.source.unread[element.name] = unread(self.source, element)
            found[1].above = (self.source, element.name, found[0])
        return self.source.unread[element.name]

    def sibling(self, name: str, part: str) -> Vec | None:
        """``id`` or ``extension`` of a child that is a primitive in some row, where it may have no value.

        None where the child is no single primitive.
        """
        if spec.is_primitive(self.fhir_type):
            return None
        definition = spec.type_definition(self.fhir_type)
        elements = [definition.elements[name]] if name in definition.elements else definition.choices.get(name, ())
        if not any(spec.is_primitive(e.type) and not e.is_list and e.name != "id" for e in elements):
            return None
        branches = []
        for element in elements:
            if spec.is_primitive(element.type):
                key = f"{element.name}.{part}"
                if key not in self.source.unread:
                    self.source.unread[key] = sibling(self.source, element, part)
                vec = self._placed(self.source.unread[key])
            else:
                child = self._single(element)
                vec = child.property(part) if isinstance(child, ElementVec) else NullVec(len(self))
            rows = np.flatnonzero(vec.valid)
            branches.append((rows, vec.take(rows)))
        return select(len(self), branches)

    def _placed(self, child: tuple[IntArray | None, Source]) -> Vec:
        """The rows of a child source that belong to these rows."""
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
        return [_compact(value) for value in self.source.python(self.rows)]


def _compact(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _compact(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_compact(v) for v in value]
    return value
