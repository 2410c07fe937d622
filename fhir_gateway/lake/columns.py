"""From raw JSON to typed nested columns, and from stored columns back to their full layout.

Only the paths that hold a value somewhere in a commit are written (an Observation has 600 leaves, a source fills 30);
reading gives the full layout of :func:`fhir_gateway.r4.spec.column_structure` again, nulls where nothing was written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.errors import InputError
from fhir_gateway.r4 import spec

#: Columns of our own, present in every file, in this order.
OWN_COLUMNS = pa.schema(
    [
        ("_source", pa.string()),
        ("id", pa.string()),
        ("_member", pa.string()),  # person; null when the resource belongs to no patient
        ("_patient", pa.string()),  # the source's id of that patient
        ("_last_updated", pa.timestamp("us", "UTC")),
        ("_version", pa.int64()),  # meta.versionId when numeric
        ("_seq", pa.int64()),  # lake version that wrote the row
        ("_pull", pa.string()),
        ("_deleted", pa.bool_()),  # true: the resource left this bucket
        ("_hash", pa.int64()),  # of the text: unchanged or not is told without reading it
        ("_raw", pa.string()),
    ]
)


@cache
def table_schema(resource_type: str) -> pa.Schema:
    """Full schema of a type's table: our own columns, all elements, and the partition column ``_bucket``."""
    elements = [
        pa.field(name, spec.arrow_type(structure))
        for name, structure in spec.column_structure(resource_type).items()
        if name != "id"
    ]
    return pa.schema([*OWN_COLUMNS, *elements, pa.field("_bucket", pa.int32())])


@lru_cache(maxsize=1024)
def layout(resource_type: str, names: tuple[str, ...]) -> pa.Schema:
    """The columns of :func:`table_schema` that ``names`` ask for, in that order.

    A name may be a part of a column (``code.coding.system``); the column then has only the parts that are named.
    Raises InputError for names that the type does not have.
    """
    own = table_schema(resource_type)
    structure = spec.column_structure(resource_type)
    fields: dict[str, pa.Field] = {}
    unknown = []
    for name in names:
        head = name.partition(".")[0]
        if name in own.names:
            fields[head] = own.field(name)
        elif head not in fields:
            parts = [part for part in names if part == head or part.startswith(f"{head}.")]
            try:
                fields[head] = pa.field(head, spec.arrow_type(spec.narrowed(structure, parts)[head]))
            except KeyError:
                unknown.append(name)
    if unknown:
        raise InputError(f"{resource_type} has no column {', '.join(unknown)}")
    return pa.schema(list(fields.values()))


def widen(shape: dict[str, Any], resources: Sequence[Mapping[str, Any]], structure: Mapping[str, Any]) -> bool:
    """Add to ``shape`` (a part of ``structure``) the paths that these parsed objects fill; says whether any was new.

    Works a level at a time over all objects, so its cost per resource is that of a few dictionary look-ups.
    """
    new = False
    for name in set().union(*resources):
        known = structure.get(name)
        if known is None:
            continue
        is_list = isinstance(known, list)
        inner = known[0] if is_list else known
        if isinstance(inner, str):
            new |= name not in shape
            shape[name] = known
            continue
        children: Iterable[Any] = [resource[name] for resource in resources if name in resource]
        if is_list:
            children = chain.from_iterable(children)
        new |= name not in shape
        below = shape.setdefault(name, [{}] if is_list else {})
        new |= widen(below[0] if is_list else below, [child for child in children if child is not None], inner)
    return new


def pruned(shape: Mapping[str, Any]) -> dict[str, Any]:
    """``shape`` without ``id`` (a column of our own) and without objects that have no column (extensions only)."""

    def kept(part: Any) -> Any:
        if isinstance(part, str):
            return part
        if isinstance(part, list):
            inner = kept(part[0])
            return [inner] if inner else None
        return {name: below for name, inner in part.items() if (below := kept(inner))}

    return {name: inner for name, inner in kept(dict(shape)).items() if name != "id"}


def transform_structure(shape: Mapping[str, Any]) -> str:
    """The ``json_transform`` argument for a pruned shape."""
    return json.dumps(dict(shape))


def instants(texts: pa.Array) -> pa.Array:
    """FHIR instants as timestamps in UTC, to the microsecond; null stays null."""
    # the column type ends at microseconds and knows no leap second
    cut = pc.replace_substring_regex(texts, r"(\.[0-9]{6})[0-9]+", r"\1")
    cut = pc.replace_substring_regex(cut, r":60(\.[0-9]+)?(Z|[+-])", r":59\1\2")
    return cut.cast(pa.timestamp("us", "UTC"))


def version_numbers(texts: pa.Array) -> pa.Array:
    """Numeric version ids as integers, null for any other."""
    numeric = pc.match_substring_regex(texts, r"^[0-9]{1,18}$")
    return pc.if_else(numeric, texts, pa.scalar(None, pa.string())).cast(pa.int64())


def patient_ids(references: pa.Array) -> pa.Array:
    """The source's patient ids in references: ``Patient/x``, absolute or versioned, or ``urn:uuid:x``; else null."""
    pattern = r"^(?:(?:.*/)?Patient/|urn:uuid:)(?P<id>[A-Za-z0-9\-.]{1,64})(?:/_history/[^/]+)?$"
    return pc.struct_field(pc.extract_regex(references, pattern=pattern), "id")


def belongs_to_patients(resource_type: str) -> bool:
    """Whether resources of this type have a member (``Patient``, ``Observation``) or none (``Organization``)."""
    return resource_type == "Patient" or spec.patient_element(resource_type) is not None
