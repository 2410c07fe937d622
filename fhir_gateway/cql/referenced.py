"""Resources that belong to no patient, as each patient has them: those that the patient's own resources refer to.

A Medication names no patient; it is in a patient's record because a MedicationRequest of that patient refers to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.cql.values.base import IntArray
from fhir_gateway.r4 import spec


@cache
def referring_elements(resource_type: str, names: frozenset[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Types with a patient and the paths of ``names`` to their references that may point to ``resource_type``.

    ``("Encounter", ("location", "location"))`` for Location: lists and backbone elements on the way count.
    """
    owned = [t for t in spec.resource_types() if spec.patient_element(t) is not None or t == "Patient"]
    return tuple((other, path) for other in owned for path in _paths(other, resource_type, names))


def _paths(fhir_type: str, target: str, names: frozenset[str]) -> Iterator[tuple[str, ...]]:
    for element in spec.type_definition(fhir_type).elements.values():
        if element.name not in names and element.choice not in names:
            continue
        if element.type == "Reference":
            if target in element.targets:
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


def referenced_rows(
    members: Any, read: Callable[[str, Sequence[str]], Any], resource_type: str, table: Any, names: frozenset[str]
) -> tuple[IntArray, IntArray]:
    """Rows of ``table`` and the position in ``members`` of who refers to them, in member order; each pair once.

    References are resolved within the source they come from, by the id at their end (``Medication/x``, absolute or
    versioned). Rows that have a member are nobody else's.
    """
    keys = pc.binary_join_element_wise(table["_source"], table["id"], "|").combine_chunks()
    keys = pc.if_else(pc.is_null(table["_member"]).combine_chunks(), keys, None)  # what somebody owns is theirs alone
    owners: list[IntArray] = []
    rows: list[IntArray] = []
    pattern = rf"(?:^|/){resource_type}/(?P<id>[A-Za-z0-9\-.]+)(?:/_history/[^/]+)?$"
    for other, path in referring_elements(resource_type, names):
        referring = read(other, [".".join((*path, "reference"))])
        if referring.num_rows == 0 or path[0] not in referring.column_names:
            continue
        at, reference = _leaves(referring[path[0]], (*path[1:], "reference"))
        target = pc.struct_field(pc.extract_regex(reference, pattern=pattern), "id")
        wanted = pc.binary_join_element_wise(referring["_source"].take(pa.array(at)).combine_chunks(), target, "|")
        found = pc.index_in(wanted, value_set=keys, skip_nulls=True)
        owner = pc.index_in(referring["_member"].take(pa.array(at)).combine_chunks(), value_set=members)
        both = pc.and_(pc.is_valid(found), pc.is_valid(owner))
        rows.append(np.asarray(found.filter(both)).astype(np.int64))
        owners.append(np.asarray(owner.filter(both)).astype(np.int64))
    if not rows:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    pairs = np.unique(np.stack([np.concatenate(owners), np.concatenate(rows)]), axis=1)
    return pairs[1], pairs[0]


__all__ = ["referenced_rows", "referring_elements"]
