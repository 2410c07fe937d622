"""Element definitions of FHIR R4 and the column layout derived from them.

Everything that needs to know what an element is (validation, lake columns, property access in the engine,
search) asks here; nothing reads StructureDefinitions at run time. Source: ``elements.json``, generated from the
published definitions by :mod:`fhir_gateway.r4.generate`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import pyarrow as pa

Structure = Any  # a DuckDB ``json_transform`` structure: "VARCHAR" | [Structure] | {name: Structure}

#: SQL type of each FHIR primitive in a column. Dates and times stay text (their precision is data);
#: decimals have the 28 digits / 8 decimals that CQL defines, the exact text stays in the raw JSON.
PRIMITIVE_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "boolean": "BOOLEAN",
        "integer": "BIGINT",
        "positiveInt": "BIGINT",
        "unsignedInt": "BIGINT",
        "decimal": "DECIMAL(28,8)",
    }
    | dict.fromkeys(
        "string code id uri url canonical oid uuid markdown base64Binary date dateTime instant time xhtml".split(),
        "VARCHAR",
    )
)

_ARROW_TYPES = {
    "BOOLEAN": pa.bool_(),
    "BIGINT": pa.int64(),
    "DECIMAL(28,8)": pa.decimal128(28, 8),
    "VARCHAR": pa.string(),
}

#: Left out of the columns everywhere (they stay in the raw JSON): narrative, contained resources, extensions below
#: the resource root, and primitive siblings such as ``_birthDate``.
_RAW_ONLY = frozenset({"Narrative", "Resource", "Extension"})


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a type; a choice ``value[x]`` appears once for each of its types with ``choice='value'``."""

    name: str
    type: str
    is_list: bool
    required: bool
    choice: str | None
    codes: frozenset[str] | None  # codes of a required binding, None when unbound or not enumerable
    targets: tuple[str, ...]  # resource types a Reference may point to; empty means any


@dataclass(frozen=True, slots=True)
class TypeDefinition:
    """A FHIR type; backbone elements are types named by their path (``Encounter.location``)."""

    name: str
    kind: str  # primitive-type | complex-type | resource | backbone
    abstract: bool
    elements: Mapping[str, Element]
    choices: Mapping[str, tuple[Element, ...]]  # choice name without [x] -> its typed elements


@cache
def _table() -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = json.loads(files(__package__).joinpath("elements.json").read_text(encoding="utf-8"))
    return loaded


@cache
def type_definition(name: str) -> TypeDefinition:
    """Return the definition of ``name``; raises KeyError for a type that R4 does not have."""
    row = _table()["types"][name]
    elements: dict[str, Element] = {}
    choices: dict[str, list[Element]] = {}
    for label, fhir_type, is_list, required, choice, codes, targets in row["elements"]:
        element = Element(
            label, fhir_type, is_list, required, choice, frozenset(codes) if codes else None, tuple(targets or ())
        )
        elements[label] = element
        if choice:
            choices.setdefault(choice, []).append(element)
    return TypeDefinition(
        name,
        row["kind"],
        row["abstract"],
        MappingProxyType(elements),
        MappingProxyType({k: tuple(v) for k, v in choices.items()}),
    )


@cache
def type_names() -> frozenset[str]:
    """Names of all types of R4: primitives, data types, backbone elements and resources."""
    return frozenset(_table()["types"])


@cache
def resource_types() -> tuple[str, ...]:
    """All concrete resource types of R4, sorted."""
    types = _table()["types"]
    return tuple(n for n, row in types.items() if row["kind"] == "resource" and not row["abstract"])


def is_primitive(fhir_type: str) -> bool:
    """True for FHIR primitives (``boolean``, ``code``, ``dateTime`` ...)."""
    return fhir_type in PRIMITIVE_COLUMNS


@cache
def patient_element(resource_type: str) -> str | None:
    """Element whose Reference names the patient the resource belongs to; None for types without one.

    ``Patient`` itself belongs to the member by its own id. Order follows the R4 patient compartment.
    """
    elements = type_definition(resource_type).elements
    for name in ("patient", "subject", "beneficiary", "individual", "for"):
        element = elements.get(name)
        if (
            element
            and element.type == "Reference"
            and (not element.targets or {"Patient", "Resource"} & {*element.targets})
        ):
            return name
    return None


_EXTENSION_VALUES = (
    "valueBoolean valueCanonical valueCode valueDate valueDateTime valueDecimal valueId valueInstant valueInteger "
    "valueString valueUri valueUrl valueCodeableConcept valueCoding valueIdentifier valueMoney valuePeriod "
    "valueQuantity valueReference"
).split()


def _extension_structure(levels: int) -> Structure:
    elements = type_definition("Extension").elements
    structure: dict[str, Structure] = {"url": "VARCHAR"}
    for name in _EXTENSION_VALUES:
        structure[name] = _structure(elements[name].type, ("Extension",))
    if levels > 1:
        structure["extension"] = [_extension_structure(levels - 1)]
    return structure


def _structure(fhir_type: str, above: tuple[str, ...]) -> Structure:
    if fhir_type in PRIMITIVE_COLUMNS:
        return PRIMITIVE_COLUMNS[fhir_type]
    structure: dict[str, Structure] = {}
    for element in type_definition(fhir_type).elements.values():
        if element.type in _RAW_ONLY or element.type in above:
            continue
        if element.name == "id" and above and not is_primitive(fhir_type):
            continue  # ids of inner elements serve only internal references
        inner = _structure(element.type, (*above, fhir_type))
        if inner:
            structure[element.name] = [inner] if element.is_list else inner
    return structure


@cache
def column_structure(resource_type: str) -> Mapping[str, Structure]:
    """Columns of a resource type: element name -> ``json_transform`` structure.

    Recursive types stop at their first repetition (``Identifier.assigner.identifier`` is not a column). Root
    extensions are kept two levels deep with the value types in use. Whatever is not a column is in the raw JSON.
    """
    structure = dict(_structure(resource_type, ()))
    structure["extension"] = [_extension_structure(2)]
    return MappingProxyType(structure)


def narrowed(structure: Mapping[str, Structure], paths: Iterable[str]) -> dict[str, Structure]:
    """The part of a structure that ``paths`` name, in the structure's order; raises KeyError for a path it lacks.

    A path is a column (``code``: all of it) or a part of one (``code.coding.system``); lists are stepped into.
    """
    below: dict[str, list[str]] = {}
    for path in paths:
        name, _, rest = path.partition(".")
        if name not in structure:
            raise KeyError(path)
        below.setdefault(name, []).append(rest)
    kept: dict[str, Structure] = {}
    for name, whole in structure.items():
        if name not in below:
            continue
        inner = whole[0] if isinstance(whole, list) else whole
        if "" in below[name]:
            kept[name] = whole
        elif isinstance(inner, str):
            raise KeyError(f"{name}.{below[name][0]}")
        else:
            part = narrowed(inner, below[name])
            kept[name] = [part] if isinstance(whole, list) else part
    return kept


@cache
def type_structure(fhir_type: str) -> Structure:
    """Structure of a type on its own, whatever columns hold it."""
    if type_definition(fhir_type).kind == "resource":
        return column_structure(fhir_type)
    return _extension_structure(2) if fhir_type == "Extension" else _structure(fhir_type, ())


def arrow_type(structure: Structure) -> pa.DataType:
    """Arrow type of a column structure."""
    if isinstance(structure, str):
        return _ARROW_TYPES[structure]
    if isinstance(structure, list):
        return pa.list_(arrow_type(structure[0]))
    return pa.struct([pa.field(name, arrow_type(inner)) for name, inner in structure.items()])
