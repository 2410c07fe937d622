"""The patients of one evaluation and their resources as columns."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.cql.referenced import is_owned, referenced_rows
from fhir_gateway.cql.sought import Coded
from fhir_gateway.cql.values import ElementVec, IntArray, ListVec, Source
from fhir_gateway.cql.values.base import offsets_of
from fhir_gateway.r4 import spec

Read = Callable[..., Any]

#: Members of a batch for which it takes longer to begin reading than to read.
SMALL = 100


class Batch:
    """Members (persons) in a fixed order, and a reader of resource tables for exactly these members.

    ``read(resource_type, columns)`` returns an Arrow table with ``_source``, ``id``, ``_member`` and the columns or
    parts of columns asked for, as :meth:`fhir_gateway.lake.Lake.read` does; what nothing fills may be left out. Rows of
    other members are ignored; resources that belong to no patient (Medication, Organization ...) are every member's
    whose own resources refer to them, or to others of that kind that do.

    A reader that ``narrows`` also takes ``coded`` (paths to codes, and the codes wanted there) and may leave out
    resources that have none of them.
    """

    def __init__(self, members: Any, read: Read, *, narrows: bool = False) -> None:
        self.members = members
        self.narrows = narrows
        self._read = read

    def __len__(self) -> int:
        """Number of members."""
        return len(self.members)

    def table(
        self,
        resource_type: str,
        names: frozenset[str],
        offset_ms: int,
        coded: Coded | None = None,
        whole: set[str] | None = None,
    ) -> ResourceTable:
        """The resources of one type, with the columns behind the property ``names`` that expressions use.

        With ``coded`` those without any of the codes may be missing. ``whole`` are columns that turned out to be
        needed with all parts, in batches before: a small one reads them so at once. What turns out here is added.
        """
        whole = set() if whole is None else whole
        columns = list(element_paths(resource_type, names))
        if len(self) <= SMALL:
            columns += sorted(whole)
        coded = coded if self.narrows else None
        table = self.read(resource_type, columns, coded)
        order, member = self._placed(table)
        if not is_owned(resource_type):
            rows, owners = referenced_rows(self.members, self._read, resource_type, table, names)
            pairs = np.unique(np.stack([np.concatenate([member, owners]), np.concatenate([order, rows])]), axis=1)
            member, order = pairs[0], pairs[1]
        return ResourceTable(self, resource_type, table, columns, offset_ms, order, member, coded, whole)

    def _placed(self, table: Any) -> tuple[IntArray, IntArray]:
        """Rows of the members, in member order, and the position of their member."""
        position = pc.index_in(table["_member"].combine_chunks(), value_set=self.members)
        member = np.asarray(position.fill_null(-1)).astype(np.int64)
        order = np.argsort(member, kind="stable")
        order = order[np.searchsorted(member[order], 0) :]
        return order, member[order]

    def read(self, resource_type: str, columns: Sequence[str], coded: Coded | None = None) -> Any:
        """Read columns of a type's resources, ``coded`` only by a reader that narrows."""
        if coded is None:
            return self._read(resource_type, list(columns))
        return self._read(resource_type, list(columns), coded)


class ResourceTable:
    """Rows of one resource type, ordered by member, with the offsets of each member's rows."""

    def __init__(
        self,
        batch: Batch,
        resource_type: str,
        table: Any,
        columns: Sequence[str],
        offset_ms: int,
        order: IntArray,
        member: IntArray,
        coded: Coded | None = None,
        whole: set[str] | None = None,
    ) -> None:
        #: the codes that the resources were narrowed by
        self.coded = coded
        self.resource_type = resource_type
        in_place = len(order) == table.num_rows and not np.any(np.diff(order) != 1)
        self.member = member
        counts = np.bincount(self.member, minlength=len(batch.members)).astype(np.int64)
        self.offsets: IntArray = offsets_of(counts)
        structure = spec.column_structure(resource_type)
        asked = _asked(resource_type, tuple(columns))
        placed: dict[tuple[str, bool], Any] = {}

        def column(name: str, named: bool) -> Any:
            if (name, named) not in placed:
                rows = table
                if not named:  # parts that no expression named, or one compiled after the table was read
                    rows = batch.read(resource_type, [name], coded)
                    if whole is not None and name in structure:  # JSON texts are long, and seldom needed
                        whole.add(name)
                placed[name, named] = _one_array(rows, name, None if in_place else order)
            return placed[name, named]

        self._column = column
        self.source = Source(
            resource_type,
            None,
            offset_ms,
            path=resource_type,
            structure=structure,
            asked=asked,
            column=column,
            size=len(order),
        )

        #: every resource of the type: what one retrieve reads of it the next one finds
        self.every = ElementVec(self.source, np.arange(len(order), dtype=np.int64))
        self._retrieved: dict[Hashable, ListVec] = {}

    def retrieved(self, key: Hashable, read: Callable[[], ListVec]) -> ListVec:
        """What ``read`` finds in this table, once for each ``key``: several measures retrieve the same."""
        found = self._retrieved.get(key)
        if found is None:
            found = self._retrieved[key] = read()
        return found

    def keys(self, rows: IntArray) -> tuple[Any, Any]:
        """Source and id of rows, as Arrow arrays."""
        at = pa.array(rows)
        return self._column("_source", True).take(at), self._column("id", True).take(at)

    def all(self) -> ListVec:
        """All resources of each member."""
        return ListVec(self.offsets, self.every)

    def where(self, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> ListVec:
        """Of each member the resources where ``mask`` is true."""
        return self.all().keep(mask)

    def first(self) -> ElementVec:
        """The first resource of each member (null without one); rows are ordered by source, then id."""
        has = np.diff(self.offsets) > 0
        return ElementVec(self.source, np.where(has, self.offsets[:-1], -1))


def _one_array(table: Any, name: str, order: IntArray | None) -> Any:
    """A column as one Arrow array, in ``order``; None where nothing fills it."""
    if name not in table.column_names:
        return None
    column = table[name] if order is None else table[name].take(pa.array(order))
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


#: What is looked at in elements of a type although no expression names it.
_ALWAYS: Mapping[str, frozenset[str]] = {
    "CodeableConcept": frozenset({"coding"}),
    "Coding": frozenset({"system", "code"}),
    "Meta": frozenset({"profile"}),
    "Reference": frozenset({"reference"}),
}


@lru_cache(maxsize=1024)
def element_paths(resource_type: str, names: frozenset[str]) -> tuple[str, ...]:
    """Columns of ``resource_type`` behind the property names an expression uses, as paths to the parts it may use."""
    return tuple(_paths(resource_type, spec.column_structure(resource_type), names, frozenset({"id"})))


@lru_cache(maxsize=1024)
def _asked(resource_type: str, columns: tuple[str, ...]) -> Mapping[str, spec.Structure]:
    """The part of a type's structure that columns and paths name."""
    return MappingProxyType(spec.narrowed(spec.column_structure(resource_type), [*columns, "id"]))


def _paths(
    fhir_type: str,
    structure: Mapping[str, spec.Structure],
    names: frozenset[str],
    without: frozenset[str] = frozenset(),
) -> list[str]:
    wanted = names | _ALWAYS.get(fhir_type, frozenset())
    found: list[str] = []
    for element in spec.type_definition(fhir_type).elements.values():
        if element.name not in structure or element.name in without:
            continue
        if element.name not in wanted and element.choice not in wanted:  # choices give one column for each type
            continue
        inner = structure[element.name]
        inner = inner[0] if isinstance(inner, list) else inner
        whole = isinstance(inner, str) or element.type == "Extension"  # what is in an extension is not said by names
        below = [] if whole else _paths(element.type, inner, names)
        found += [f"{element.name}.{path}" for path in below] or [element.name]
    return found
