"""Resources that belong to no patient, as each patient has them: those that the patient's own resources refer to.

A Medication names no patient; it is in a patient's record because a MedicationRequest of that patient refers to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from fhir_gateway.cql.values.base import IntArray
from fhir_gateway.r4 import spec


def referring_elements(resource_type: str, names: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Types with a patient and their single Reference elements among ``names`` that may point to ``resource_type``."""
    for other in spec.resource_types():
        if spec.patient_element(other) is None:
            continue
        for element in spec.type_definition(other).elements.values():
            named = element.name in names or element.choice in names
            if named and element.type == "Reference" and resource_type in element.targets and not element.is_list:
                yield other, element.name


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
    for other, element in referring_elements(resource_type, names):
        referring = read(other, [f"{element}.reference"])
        if referring.num_rows == 0 or element not in referring.column_names:
            continue
        reference = pc.struct_field(referring[element], "reference")
        target = pc.struct_field(pc.extract_regex(reference, pattern=pattern), "id")
        wanted = pc.binary_join_element_wise(referring["_source"], target, "|")
        found = pc.index_in(wanted, value_set=keys, skip_nulls=True)
        owner = pc.index_in(referring["_member"], value_set=members)
        both = pc.and_(pc.is_valid(found), pc.is_valid(owner))
        rows.append(np.asarray(found.filter(both)).astype(np.int64))
        owners.append(np.asarray(owner.filter(both)).astype(np.int64))
    if not rows:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    pairs = np.unique(np.stack([np.concatenate(owners), np.concatenate(rows)]), axis=1)
    return pairs[1], pairs[0]


__all__ = ["referenced_rows", "referring_elements"]
