"""Resources that belong to no patient, as each patient has them: those that the patient's own resources refer to.

A Medication names no patient; it is in a patient's record because a MedicationRequest of that patient refers to it. So
is the Organization that manufactures the Medication: references are followed from one such resource to the next, as
far as they lead through elements that expressions name. Not followed are references inside of data types (the
assigner of an Identifier, the author of an Annotation) and extensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.cql.values.base import IntArray, ranges
from fhir_gateway.r4 import spec

Read = Callable[[str, Sequence[str]], Any]


class Route(NamedTuple):
    """References at ``path`` (``("location", "location")``) of one type that may point to another."""

    source: str
    path: tuple[str, ...]
    target: str


@cache
def routes(resource_type: str, names: frozenset[str]) -> tuple[Route, ...]:
    """The references through elements of ``names`` that lead to ``resource_type``.

    Lists and backbone elements on the way count, and so do, after the routes to a type, those to the types without
    patient that it is reached from.
    """
    found: list[Route] = []
    reached = [resource_type]
    for target in reached:  # grows
        of_target = [Route(o, path, target) for o in spec.resource_types() for path in _paths(o, target, names)]
        reached += dict.fromkeys(r.source for r in of_target if not is_owned(r.source) and r.source not in reached)
        found += of_target
    return tuple(found)


def is_owned(resource_type: str) -> bool:
    """Whether resources of a type name their patient."""
    return resource_type == "Patient" or spec.patient_element(resource_type) is not None


def _paths(fhir_type: str, target: str, names: frozenset[str]) -> Iterator[tuple[str, ...]]:
    for element in spec.type_definition(fhir_type).elements.values():
        if element.name not in names and element.choice not in names:
            continue
        if element.type == "Reference":
            if not element.targets or not {target, "Resource"}.isdisjoint(element.targets):
                yield (element.name,)
        elif element.type.startswith(f"{fhir_type}."):  # a backbone element is a type named by its path
            yield from ((element.name, *rest) for rest in _paths(element.type, target, names))


def _leaves(column: Any, path: Sequence[str]) -> tuple[IntArray, Any]:
    """Row and value of every element at ``path`` below a column; lists on the way are opened."""
    array = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    rows = np.arange(len(array), dtype=np.int64)
    for name in (*path, ""):
        if pa.types.is_list(array.type):
            rows = rows[np.asarray(pc.list_parent_indices(array))]
            array = pc.list_flatten(array)
        if name and array.type.get_field_index(name) < 0:
            return np.zeros(0, dtype=np.int64), pa.array([], pa.string())
        array = pc.struct_field(array, name) if name else array
    return rows, array


@dataclass(frozen=True)
class _Link:
    """References from rows of one table, ascending, to rows of another."""

    source: str
    target: str
    rows: IntArray
    targets: IntArray


def referenced_rows(
    members: Any, read: Read, resource_type: str, table: Any, names: frozenset[str]
) -> tuple[IntArray, IntArray]:
    """Rows of ``table`` and the position in ``members`` of who refers to them, in member order; each pair once.

    References are resolved within the source they come from, by the id at their end (``Medication/x``, absolute or
    versioned). Rows that have a member are nobody else's.
    """
    tables, links = {resource_type: table}, []
    found = {resource_type: [_owned(members, table)]}
    through = routes(resource_type, names)
    paths: dict[str, list[str]] = {}
    for route in through:
        paths.setdefault(route.source, []).append(".".join((*route.path, "reference")))
    read_once = cache(lambda source: read(source, paths[source]))
    for route in through:
        aim = tables.get(route.target)
        if aim is None or aim.num_rows == 0:  # nothing there that a reference could lead to
            continue
        referring = read_once(route.source)
        rows, targets = _resolved(referring, route, aim)
        if is_owned(route.source):
            owner = _positions(members, referring)[rows]
            found[route.target].append(_pairs(owner[owner >= 0], targets[owner >= 0], tables[route.target]))
            continue
        links.append(_Link(route.source, route.target, rows, targets))
        if route.source not in tables:
            tables[route.source], found[route.source] = referring, [_owned(members, referring)]
    pairs = _closed({kind: np.unique(np.concatenate(parts)) for kind, parts in found.items()}, tables, links)
    owners, rows = np.divmod(pairs[resource_type], max(table.num_rows, 1))
    return rows, owners


def _closed(pairs: dict[str, IntArray], tables: dict[str, Any], links: list[_Link]) -> dict[str, IntArray]:
    """The pairs of member and row, and those that links lead to from them, however far."""
    fresh = dict(pairs)
    while fresh:
        new: dict[str, list[IntArray]] = {}
        for link in links:
            if link.source in fresh:
                owners, rows = np.divmod(fresh[link.source], max(tables[link.source].num_rows, 1))
                starts = np.searchsorted(link.rows, rows, "left")
                lengths = np.searchsorted(link.rows, rows, "right") - starts
                targets = link.targets[ranges(starts, lengths)]
                new.setdefault(link.target, []).append(_pairs(np.repeat(owners, lengths), targets, tables[link.target]))
        fresh = {kind: np.setdiff1d(np.concatenate(parts), pairs[kind]) for kind, parts in new.items()}
        fresh = {kind: found for kind, found in fresh.items() if len(found)}
        pairs = pairs | {kind: np.union1d(pairs[kind], found) for kind, found in fresh.items()}
    return pairs


def _keys(table: Any) -> Any:
    """Source and id of rows without a member; null for the others: what somebody owns is theirs alone."""
    keys = pc.binary_join_element_wise(table["_source"], table["id"], "|").combine_chunks()
    return pc.if_else(pc.is_null(table["_member"]).combine_chunks(), keys, None)


def _positions(members: Any, table: Any) -> IntArray:
    """Position of the member of each row, -1 for others'."""
    found = pc.index_in(table["_member"].combine_chunks(), value_set=members).fill_null(-1)
    return np.asarray(found).astype(np.int64)


def _pairs(owners: IntArray, rows: IntArray, table: Any) -> IntArray:
    """A member and a row of a table as one number."""
    size: int = max(table.num_rows, 1)
    return owners * size + rows


def _owned(members: Any, table: Any) -> IntArray:
    """The rows that have a member of their own."""
    owners = _positions(members, table)
    rows = np.flatnonzero(owners >= 0)
    return _pairs(owners[rows], rows, table)


def _resolved(referring: Any, route: Route, table: Any) -> tuple[IntArray, IntArray]:
    """Rows of a table, and the rows of another that their references mean."""
    nothing = np.zeros(0, dtype=np.int64)
    if referring.num_rows == 0 or route.path[0] not in referring.column_names:
        return nothing, nothing
    at, reference = _leaves(referring[route.path[0]], (*route.path[1:], "reference"))
    pattern = rf"(?:^|/){route.target}/(?P<id>[A-Za-z0-9\-.]+)(?:/_history/[^/]+)?$"
    ids = pc.struct_field(pc.extract_regex(reference, pattern=pattern), "id")
    wanted = pc.binary_join_element_wise(referring["_source"].take(pa.array(at)).combine_chunks(), ids, "|")
    rows = np.asarray(pc.index_in(wanted, value_set=_keys(table), skip_nulls=True).fill_null(-1)).astype(np.int64)
    return at[rows >= 0], rows[rows >= 0]


__all__ = ["Route", "is_owned", "referenced_rows", "routes"]
