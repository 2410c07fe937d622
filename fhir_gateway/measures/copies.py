"""Copies of one visit or stay that several sources have: one Encounter stands for them where a population is read.

Which Encounters are copies, and which of them stands for the others, is the rule of
:mod:`fhir_gateway.identity.encounters`. The others are left out of what is read. The one that stays gets their codes
(:data:`CODES`, joined) and what it lacks itself of :data:`FILLED` and :data:`FILLED_PARTS`; references to the others
then name it. The lake keeps what was sent, and so does the JSON of each Encounter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fhir_gateway.cql import Batch
from fhir_gateway.cql.sought import Coded
from fhir_gateway.identity.encounters import PATHS, same_events
from fhir_gateway.lake.claims import DIRECTORY_SCHEMA
from fhir_gateway.r4 import spec

#: ``once``: copies of one visit count once; ``all``: everything that was sent counts.
Copies = Literal["once", "all"]
Read = Callable[..., pa.Table]

#: Elements of Encounter whose codes are joined: what a visit was may be known to one source in words of its own only.
CODES = ("type", "reasonCode")
#: Elements that are taken from a copy where the one that stays has none; of :data:`FILLED_PARTS` each part. References
#: are not: they hold within their source.
FILLED = ("serviceType", "priority", "length")
FILLED_PARTS = ("hospitalization",)
_REFERENCE = r"(?:^|/)Encounter/(?P<id>[A-Za-z0-9\-.]+)(?:/_history/[^/]+)?$"


class EncounterCopies:
    """What is left out of one batch, found when the first table is read that it concerns."""

    def __init__(self, read: Read, directory: Callable[[], pa.Table]) -> None:
        """``read`` gives rows of the batch as they are, ``directory`` the organizations of the lake."""
        self._read = read
        self._directory = directory
        self._known: tuple[pa.Array, pa.Array] | None = None

    @property
    def count(self) -> int:
        """How many Encounters are left out."""
        return len(self._found()[0])

    def read(self, resource_type: str, columns: Sequence[str], coded: Coded | None = None) -> pa.Table:
        """Rows of a type without copies, or with references to the Encounters that stand for them."""
        narrowed = () if coded is None else (coded,)
        if resource_type == "Encounter" and coded is not None:
            if self._known is None:
                self._known = _of_one_source(self._read(resource_type, ()))
            if self._known is None or self.count:
                narrowed = ()  # the one that stands for its copies has their codes
        if resource_type == "Encounter" and self._known is None:
            rows = self._read(resource_type, [*columns, *PATHS])  # reading twice takes longer than reading more
            self._found(rows)
            wanted = {name.partition(".")[0] for name in columns}
            unasked = {path.partition(".")[0] for path in PATHS} - wanted
            rows = rows.drop_columns([name for name in unasked if name in rows.column_names])
        else:
            rows = self._read(resource_type, columns, *narrowed)
        pointing = [name for name in _to_encounters(resource_type) if name in rows.column_names]
        if (resource_type != "Encounter" and not pointing) or not self.count:
            return rows
        if resource_type == "Encounter":
            rows = self._without(rows)
        for name in pointing:
            at = rows.schema.get_field_index(name)
            rows = rows.set_column(at, name, self._pointed(rows["_source"], rows[name]))
        return rows

    def _found(self, rows: pa.Table | None = None) -> tuple[pa.Array, pa.Array]:
        """Keys (``source|id``) of the Encounters that are left out, and of those that stand for them."""
        if self._known is None:
            self._known = self._find(self._read("Encounter", PATHS) if rows is None else rows)
        return self._known

    def _find(self, rows: pa.Table) -> tuple[pa.Array, pa.Array]:
        nothing = _of_one_source(rows)
        if nothing is not None:
            return nothing
        sources = rows.select(["_member", "_source"]).group_by("_member").aggregate([("_source", "count_distinct")])
        members = sources.filter(pc.greater(sources["_source_count_distinct"], 1))["_member"].combine_chunks()
        rows = _looked_at(rows.filter(pc.is_in(rows["_member"], value_set=members)))
        named = rows["serviceProvider"].combine_chunks().field("reference").null_count < rows.num_rows
        events = same_events(rows, self._directory() if named else DIRECTORY_SCHEMA.empty_table())
        events = events.filter(pc.greater(events["copies"], 1))
        keys, kept = _keys(events), _whole(events["stands"])
        number = _whole(events["event"])
        place = pc.index_in(number, value_set=number.filter(kept))
        others = pc.invert(kept)
        return keys.filter(others), keys.filter(kept).take(place.filter(others))

    def _without(self, rows: pa.Table) -> pa.Table:
        """The rows without copies, those that stay completed from them."""
        others, kept = self._found()
        keys = _keys(rows)
        copy = np.asarray(pc.index_in(others, value_set=keys).fill_null(-1)).astype(np.int64)
        stays = np.asarray(pc.index_in(kept, value_set=keys).fill_null(-1)).astype(np.int64)
        here = (copy >= 0) & (stays >= 0)
        copy, stays = copy[here], stays[here]
        order = np.lexsort((copy, stays))
        copy, stays = copy[order], stays[order]
        first = np.searchsorted(stays, stays)
        nth = np.arange(len(stays)) - first
        for number in range(int(nth.max(initial=-1)) + 1):  # a copy of each at a time: rounds are sources, not rows
            rows = _completed(rows, stays[nth == number], copy[nth == number])
        staying = np.ones(rows.num_rows, np.bool_)
        staying[copy] = False
        return rows.filter(pa.array(staying))

    def _pointed(self, sources: pa.ChunkedArray, column: pa.ChunkedArray) -> pa.Array:
        """A column of references, those to copies turned to what stands for them."""
        array = _whole(column)
        place = array.type.get_field_index("reference")
        if place < 0:
            return array
        others, kept = self._found()
        reference = pc.struct_field(array, place)
        target = pc.struct_field(pc.extract_regex(reference, pattern=_REFERENCE), "id")
        at = pc.index_in(pc.binary_join_element_wise(_whole(sources), target, "|"), value_set=others, skip_nulls=True)
        if at.null_count == len(at):
            return array
        turned = pc.replace_substring_regex(kept.take(at), r"^.*\|", "Encounter/")
        fields = [array.type.field(number) for number in range(array.type.num_fields)]
        children = [pc.struct_field(array, number) for number in range(len(fields))]
        children[place] = pc.coalesce(turned, reference)
        return pa.StructArray.from_arrays(children, fields=fields, mask=array.is_null())


class WithoutCopies(Batch):
    """A batch in which one Encounter stands for its copies."""

    def __init__(self, members: pa.Array, copies: EncounterCopies, *, narrows: bool = True) -> None:
        """The members, and what their rows are read through."""
        super().__init__(members, copies.read, narrows=narrows)
        self.copies = copies


def _of_one_source(rows: pa.Table) -> tuple[pa.Array, pa.Array] | None:
    """No copies, if all rows are of one source; None when it has to be looked."""
    none = pa.array([], pa.string())
    return (none, none) if pc.count_distinct(rows["_source"]).as_py() < 2 else None


def left_out(count: int) -> tuple[str, ...]:
    """What is said in reports of Encounters that were left out."""
    one = "1 Encounter was" if count == 1 else f"{count} Encounters were"
    return (f"{one} set aside as copies of the same visits by other sources",) if count else ()


def _to_encounters(resource_type: str) -> list[str]:
    """Elements of a type that hold one reference, maybe to an Encounter."""
    elements = spec.type_definition(resource_type).elements.values()
    return [e.name for e in elements if e.type == "Reference" and "Encounter" in e.targets and not e.is_list]


def _looked_at(rows: pa.Table) -> pa.Table:
    """The keys of Encounters and what :func:`same_events` looks at, null where nothing fills it."""
    made: dict[str, pa.Array] = {name: _whole(rows[name]) for name in ("_source", "id", "_member")}
    parts: dict[str, dict[str, pa.Array]] = {}
    for path in PATHS:
        name, _, part = path.partition(".")
        column = _whole(rows[name]) if name in rows.column_names else pa.nulls(rows.num_rows, pa.string())
        if not part:
            made[name] = column
        elif pa.types.is_struct(column.type) and column.type.get_field_index(part) >= 0:
            parts.setdefault(name, {})[part] = pc.struct_field(column, part)
        else:
            parts.setdefault(name, {})[part] = pa.nulls(rows.num_rows, pa.string())
    for name, children in parts.items():
        made[name] = pa.StructArray.from_arrays(list(children.values()), names=list(children))
    return pa.table(made)


def _keys(rows: pa.Table) -> pa.Array:
    return pc.binary_join_element_wise(_whole(rows["_source"]), _whole(rows["id"]), "|")


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _completed(rows: pa.Table, stays: NDArray[np.int64], copy: NDArray[np.int64]) -> pa.Table:
    """``rows`` with what those at ``stays`` get from those at ``copy``, in the same order of rows."""
    ways = dict.fromkeys(CODES, _joined) | dict.fromkeys(FILLED, _filled) | dict.fromkeys(FILLED_PARTS, _filled_parts)
    for name, way in ways.items():
        if name in rows.column_names:
            column = _whole(rows[name])
            made = way(column.take(pa.array(stays)), column.take(pa.array(copy)))
            places = np.arange(len(column))
            places[stays] = len(column) + np.arange(len(stays))
            rows = rows.set_column(
                rows.schema.get_field_index(name), name, pa.concat_arrays([column, made]).take(pa.array(places))
            )
    return rows


def _joined(mine: pa.Array, theirs: pa.Array) -> pa.Array:
    """Lists that hold those of ``mine`` and then those of ``theirs``; null where both are."""
    rows = np.concatenate([np.asarray(pc.list_parent_indices(one)).astype(np.int64) for one in (mine, theirs)])
    order = np.argsort(rows, kind="stable")
    values = pa.concat_arrays([pc.list_flatten(mine), pc.list_flatten(theirs)]).take(pa.array(order))
    ends = np.cumsum(np.bincount(rows, minlength=len(mine)))
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    both = pc.and_(mine.is_null(), theirs.is_null())
    return pa.ListArray.from_arrays(offsets, values, type=mine.type, mask=both)


def _filled(mine: pa.Array, theirs: pa.Array) -> pa.Array:
    """``mine``, and where it is null ``theirs``."""
    places = np.arange(len(mine)) + np.where(mine.is_null(), len(mine), 0)
    return pa.concat_arrays([mine, theirs]).take(pa.array(places))


def _filled_parts(mine: pa.Array, theirs: pa.Array) -> pa.Array:
    """``mine`` with the parts of ``theirs`` that it lacks, but for references."""
    fields = [mine.type.field(number) for number in range(mine.type.num_fields)]
    children = []
    for number, field in enumerate(fields):
        one = pc.struct_field(mine, number)
        refers = pa.types.is_struct(field.type) and field.type.get_field_index("reference") >= 0
        children.append(one if refers else _filled(one, pc.struct_field(theirs, number)))
    return pa.StructArray.from_arrays(children, fields=fields, mask=pc.and_(mine.is_null(), theirs.is_null()))
