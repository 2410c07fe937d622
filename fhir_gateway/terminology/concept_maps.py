"""Local codes mapped to standard ones by ConceptMaps, as they are read: the coding that was sent stays as it is.

For each coding that a map knows, the coding it maps to is added behind the codings of the same CodeableConcept, marked
by a ``display`` that names the original and the map. Nothing is written: the lake keeps what was sent, and a
map that is corrected counts from the next evaluation on. Lone Codings (``Encounter.class``) and codes are not mapped:
there is no place beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.terminology.canonical import content_hash

Resource = Mapping[str, Any]
#: Equivalences (http://hl7.org/fhir/concept-map-equivalence) under which what is coded by the source is also an
#: instance of the target.
HOLDING = frozenset({"equal", "equivalent", "wider", "subsumes"})
_MAPPINGS = pa.schema([(name, pa.string()) for name in ("from_system", "from_code", "to_system", "to_code", "display")])


@dataclass(frozen=True)
class CodeMap:
    """The mappings of some ConceptMaps, as columns; ``hash`` is that of the maps' content."""

    table: pa.Table
    hash: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, maps: Iterable[Resource]) -> CodeMap:
        """The mappings of ``maps`` that hold; repeated ones count once."""
        maps = tuple(maps)
        rows: dict[tuple[str, str, str, str], str] = {}
        for one in maps:
            name = f"{one.get('url')}|{one['version']}" if one.get("version") else str(one.get("url"))
            for group in one.get("group", ()):
                for element in group.get("element", ()):
                    for target in element.get("target", ()):
                        if target.get("equivalence") in HOLDING and target.get("code") and element.get("code"):
                            key = (group.get("source"), element["code"], group.get("target"), target["code"])
                            if all(key):
                                rows.setdefault(key, f"mapped from {key[0]}|{key[1]} by {name}")
        columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], []]
        table = pa.table([*columns, list(rows.values())], schema=_MAPPINGS)
        return cls(table, content_hash(maps), tuple(sorted(str(one.get("url")) for one in maps)))

    def __bool__(self) -> bool:
        return bool(self.table.num_rows)

    def apply(self, rows: pa.Table) -> pa.Table:
        """``rows`` (elements in the layout of :mod:`r4.spec`) with mapped codings added."""
        for number, field in enumerate(rows.schema):
            if _has_codings(field.type):
                column = rows.column(number)
                chunks = [self._mapped(chunk, field.type) for chunk in column.chunks]
                rows = rows.set_column(number, field, pa.chunked_array(chunks, field.type))
        return rows

    def with_sources(self, codes: frozenset[str]) -> frozenset[str]:
        """Codes and those that may be mapped to one of them, whatever their systems are."""
        mapped = self.table.filter(pc.is_in(self.table["to_code"], value_set=pa.array(codes, pa.string())))
        return codes | frozenset(mapped["from_code"].to_pylist())

    def reading(self, read: Callable[..., pa.Table]) -> Callable[..., pa.Table]:
        """A reader of tables that maps what ``read`` gives."""

        def mapped(*arguments: Any, **named: Any) -> pa.Table:
            return self.apply(read(*arguments, **named))

        return mapped

    def _mapped(self, array: pa.Array, kind: pa.DataType) -> pa.Array:
        """``array`` with codings added wherever it holds a list of them."""
        if not _has_codings(kind) or not len(array):
            return array
        if pa.types.is_struct(kind):
            parts = [
                self._added(child)
                if field.name == "coding" and _is_codings(field.type)
                else self._mapped(child, field.type)
                for field, child in zip(kind, array.flatten(), strict=True)
            ]
            mask = pc.is_null(array) if array.null_count else None
            return pa.StructArray.from_arrays(parts, fields=list(kind), mask=mask)
        items = self._mapped(array.flatten(), kind.value_type)
        offsets = np.concatenate(([0], np.cumsum(pc.fill_null(pc.list_value_length(array), 0).to_numpy()))).astype(
            np.int64 if pa.types.is_large_list(kind) else np.int32
        )
        return _lists(offsets, items, array, kind)

    def _added(self, lists: pa.Array) -> pa.Array:
        """Lists of codings with the mapped ones at their end."""
        codings = lists.flatten()
        system, code = codings.field("system"), codings.field("code")
        # most columns have no code of a mapped system at all: one look at the systems says so
        if not len(codings) or not pc.any(pc.is_in(system, value_set=self.table["from_system"].unique())).as_py():
            return lists
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        owner = np.repeat(np.arange(len(lists)), lengths)
        found = (
            pa.table({"from_system": system, "from_code": code, "owner": owner, "at": np.arange(len(codings))})
            .join(self.table, ["from_system", "from_code"], join_type="inner")
            .sort_by([("at", "ascending"), ("to_system", "ascending"), ("to_code", "ascending")])
            .combine_chunks()
        )
        if not found.num_rows:
            return lists
        given = {"system": found["to_system"], "code": found["to_code"], "display": found["display"]}
        parts = [
            given[field.name].combine_chunks().cast(field.type)
            if field.name in given
            else pa.nulls(found.num_rows, field.type)
            for field in codings.type
        ]
        both = pa.concat_arrays([codings, pa.StructArray.from_arrays(parts, fields=list(codings.type))])
        owners = np.concatenate((owner, found["owner"].to_numpy()))
        order = np.argsort(owners, kind="stable")
        counts = np.bincount(owners, minlength=len(lists))
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(
            np.int64 if pa.types.is_large_list(lists.type) else np.int32
        )
        return _lists(offsets, both.take(pa.array(order)), lists, lists.type)


def _lists(offsets: np.ndarray, items: pa.Array, like: pa.Array, kind: pa.DataType) -> pa.Array:
    """Lists of ``items`` that are null where ``like`` is."""
    made = pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray
    mask = pc.is_null(like) if like.null_count else None
    return made.from_arrays(pa.array(offsets), items, type=kind, mask=mask)


def _is_codings(kind: pa.DataType) -> bool:
    """Whether a type is a list of Codings."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    return {"system", "code"} <= {field.name for field in kind.value_type}


def _has_codings(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _has_codings(kind.value_type)
    if pa.types.is_struct(kind):
        return any((field.name == "coding" and _is_codings(field.type)) or _has_codings(field.type) for field in kind)
    return False
