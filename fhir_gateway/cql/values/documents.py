"""Elements that are not in the columns, read from the resources' JSON: narrative, contained resources, extensions
below the root, ids and extensions of primitives, and what a recursive type leaves out.

Measures seldom ask for these, so they cost nothing until one does; then the JSON of the whole table is parsed once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fhir_gateway.cql.values.base import IntArray, offsets_of
from fhir_gateway.errors import Location, ResourceError, UnsupportedElm
from fhir_gateway.r4 import spec

if TYPE_CHECKING:
    from fhir_gateway.cql.values.element import Source

_STEP = Decimal("0.00000001")


def documents(source: Source) -> list[Any]:
    """The JSON of each row of a source; UnsupportedElm for elements that no resource holds."""
    if source.parsed is None:
        if source.parts:
            source.parsed = [document for part in source.parts for document in documents(part)]
        else:
            source.parsed = _of_table(source) if source.is_resource else _of_parent(source)
    return source.parsed


def _of_table(source: Source) -> list[Any]:
    raw = source.raw()
    if raw is None:
        raise UnsupportedElm(f"{source.path}: the JSON of the resources is not at hand")
    return [json.loads(text, parse_float=Decimal) for text in raw.to_pylist()]


def _of_parent(source: Source) -> list[Any]:
    if source.above is None:
        raise UnsupportedElm(f"{source.path}: elements that are not in the columns, of a value that was put together")
    parent, name, offsets = source.above
    return _in_place([document.get(name) if document else None for document in documents(parent)], offsets, source.size)


def _in_place(held: list[Any], offsets: IntArray | None, size: int) -> list[Any]:
    """What each parent holds, at the rows of its child: its list from where the parent's offsets say."""
    if offsets is None:
        return held
    found: list[Any] = [None] * size
    if len(offsets) > 1:  # something fills it
        for items, start, end in zip(held, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            if end > start and items:
                found[start : start + len(items)] = items
    return found


def unread(source: Source, element: spec.Element) -> tuple[IntArray | None, Source]:
    """Offsets (for lists) and source of an element that the columns do not hold."""
    return _made(source, element, [d.get(element.name) if d else None for d in documents(source)])


def contained(source: Source, element: spec.Element) -> list[tuple[IntArray | None, Source]]:
    """Resources within resources: offsets of lists, and a source for each type, null in others' places."""
    values = [d.get(element.name) if d else None for d in documents(source)]
    offsets, flat = _opened(values) if element.is_list else (None, values)
    types = sorted({item.get("resourceType") for item in flat if item} & {*spec.resource_types()})
    found = []
    for resource_type in types:
        of_type = [item if item and item.get("resourceType") == resource_type else None for item in flat]
        structure = spec.column_structure(resource_type)
        path = f"{source.path}.{element.name}"
        array = pa.array([_conformed(item, structure, path) for item in of_type], spec.arrow_type(structure))
        made = type(source)(resource_type, array, source.offset_ms, path=path, structure=structure)
        made.parsed, made.zones = of_type, source.zones
        if element.is_list:
            made.list_present = np.array([v is not None for v in values], dtype=bool)
        found.append((offsets, made))
    return found


def sibling(owner: Source, element: spec.Element, name: str) -> tuple[IntArray | None, Source]:
    """Offsets and source of ``id`` or ``extension`` of the primitive ``element`` in each row of its owner."""
    parts = [d.get(f"_{element.name}") if d else None for d in documents(owner)]
    part = spec.type_definition("Element").elements[name]
    return _made(owner, part, [b.get(name) if isinstance(b, dict) else None for b in parts], f"{element.name}.{name}")


def beside(source: Source, part: spec.Element) -> tuple[IntArray | None, Source]:
    """Offsets and source of ``id`` or ``extension`` of each value of a source of primitives."""
    return _made(source, part, [b.get(part.name) if isinstance(b, dict) else None for b in _beside(source)])


def _beside(source: Source) -> list[Any]:
    """What the JSON has next to each value of a source of primitives."""
    if source.parts:
        return [found for part in source.parts for found in _beside(part)]
    if source.above is None:
        raise UnsupportedElm(f"{source.path}: ids and extensions of a primitive that was put together")
    parent, name, offsets = source.above
    return _in_place([d.get(f"_{name}") if d else None for d in documents(parent)], offsets, source.size)


def _made(
    source: Source, element: spec.Element, values: list[Any], name: str | None = None
) -> tuple[IntArray | None, Source]:
    structure = spec.type_structure(element.type)
    offsets, flat = None, values
    if element.is_list:
        offsets, flat = _opened(values)
    path = f"{source.path}.{name or element.name}"
    array = pa.array([_conformed(v, structure, path) for v in flat], spec.arrow_type(structure))
    made = type(source)(element.type, array, source.offset_ms, path=path, structure=structure)
    made.parsed, made.zones = flat, source.zones
    if element.is_list:
        made.list_present = np.array([v is not None for v in values], dtype=bool)
    return offsets, made


def _opened(values: list[Any]) -> tuple[IntArray, list[Any]]:
    """Offsets and elements of lists, None being an empty one."""
    offsets = offsets_of(np.array([len(items) if items else 0 for items in values], dtype=np.int64))
    return offsets, [item for items in values for item in items or ()]


def _conformed(value: Any, structure: spec.Structure, path: str) -> Any:
    """A JSON value as Arrow takes it: only the parts of the structure, decimals with 8 places.

    ResourceError for a number that no decimal holds: the lake refuses such resources, others may not have been checked.
    """
    if value is None:
        return None
    if isinstance(structure, list):
        return [_conformed(item, structure[0], path) for item in value] if isinstance(value, Sequence) else None
    if not isinstance(structure, str):
        if not isinstance(value, dict):
            return None
        return {k: _conformed(value.get(k), s, f"{path}.{k}") for k, s in structure.items()}
    if structure.startswith("DECIMAL"):
        try:
            return Decimal(value).quantize(_STEP)
        except (InvalidOperation, TypeError, ValueError):
            where = Location(path=path, rule="decimal")
            raise ResourceError("is no decimal of 28 digits, 8 of them after the point", location=where) from None
    return value
