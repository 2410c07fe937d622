"""Type specifiers of ELM and which vectors are of which type."""

from __future__ import annotations

from functools import cache
from typing import Any

from fhir_gateway.cql.values import ChoiceVec, ElementVec, IntervalVec, ListVec, NullVec, TupleVec, ValueSetVec, Vec
from fhir_gateway.r4 import spec

SYSTEM = "{urn:hl7-org:elm-types:r1}"
FHIR = "{http://hl7.org/fhir}"

#: FHIR R4 types whose values are also of another type.
_PARENTS = {
    "Age": "Quantity",
    "Duration": "Quantity",
    "Count": "Quantity",
    "Distance": "Quantity",
    "SimpleQuantity": "Quantity",
    "MoneyQuantity": "Quantity",
    "code": "string",
    "id": "string",
    "markdown": "string",
    "url": "uri",
    "canonical": "uri",
    "uuid": "uri",
    "oid": "uri",
    "positiveInt": "integer",
    "unsignedInt": "integer",
}


def named(name: str) -> dict[str, Any]:
    """A NamedTypeSpecifier."""
    return {"type": "NamedTypeSpecifier", "name": name}


def specifier_of(elm: dict[str, Any], attribute: str) -> dict[str, Any]:
    """The specifier of an ``As`` or ``Is`` (``asType`` or ``asTypeSpecifier``)."""
    found = elm.get(f"{attribute}TypeSpecifier")
    return found if found is not None else named(elm[f"{attribute}Type"])


def local_name(name: str) -> str:
    """Type name without its namespace."""
    return name.rsplit("}", 1)[-1]


def _is_fhir(vec: ElementVec, wanted: str) -> bool:
    own = vec.fhir_type
    if wanted in ("Element", "BackboneElement"):
        return not vec.source.is_resource
    if wanted in ("Resource", "DomainResource"):
        return vec.source.is_resource
    if wanted.lower() == own.lower():
        return True
    parent = _PARENTS.get(own)
    while parent:
        if parent == wanted:
            return True
        parent = _PARENTS.get(parent)
    # model infos name the codes of each required binding a type of its own (EncounterStatus): in data they are codes
    return own == "code" and wanted.lower() not in _known_types()


@cache
def _known_types() -> frozenset[str]:
    return frozenset(name.lower() for name in spec.type_names())


def matches(vec: Vec, specifier: dict[str, Any]) -> bool:
    """Whether a vector (not a choice) holds values of the type; an untyped null matches every type."""
    if isinstance(vec, NullVec):
        return True
    kind = specifier["type"]
    if kind == "ChoiceTypeSpecifier":
        return any(matches(vec, choice) for choice in specifier.get("choice", specifier.get("type_", [])))
    if kind == "IntervalTypeSpecifier":
        if not isinstance(vec, IntervalVec):
            return False
        point = specifier["pointType"]
        return all(isinstance(v, NullVec) or any_matches(v, point) for v in (vec.low, vec.high))
    if kind == "ListTypeSpecifier":
        return isinstance(vec, ListVec) and (len(vec.flat) == 0 or any_matches(vec.flat, specifier["elementType"]))
    if kind == "TupleTypeSpecifier":
        return isinstance(vec, TupleVec) and vec.kind == "Tuple"
    name = specifier["name"]
    local = local_name(name)
    if name.startswith(FHIR) or not name.startswith(SYSTEM):
        return isinstance(vec, ElementVec) and _is_fhir(vec, local)
    if local == "Any":
        return True
    if local == "Vocabulary":
        return isinstance(vec, ValueSetVec)  # value sets and code systems
    return vec.kind == local


def any_matches(vec: Vec, specifier: dict[str, Any]) -> bool:
    """Whether the vector, or any option of a choice, is of the type."""
    options = vec.options if isinstance(vec, ChoiceVec) else (vec,)
    return any(matches(option, specifier) for option in options)
