"""The exact check: walks one resource along the R4 element table and says which rule is broken where.

Slow (a walk in Python) and therefore only for resources that the fast check refused. Messages name elements, types and
rules, never values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from fhir_gateway.lake.primitives import DECIMAL_BOUND, INTEGER_BOUNDS, pattern
from fhir_gateway.r4 import spec


@dataclass(frozen=True, slots=True)
class Issue:
    """One broken rule. ``path`` is FHIRPath-like: ``Patient.name[0].family``."""

    path: str
    rule: str
    message: str


def issues(resource: Any, expected_type: str | None = None, *, contained: bool = False) -> Iterator[Issue]:
    """Yield the broken rules of a parsed resource, in document order; nothing when it is valid.

    ``expected_type`` is what the sender promised. A resource that is not contained needs an ``id``.
    """
    if not isinstance(resource, dict):
        yield Issue("$this", "type", "a resource must be a JSON object")
        return
    resource_type = resource.get("resourceType")
    if not isinstance(resource_type, str) or resource_type not in spec.resource_types():
        yield Issue("resourceType", "resource-type", "not the name of an R4 resource type")
        return
    if expected_type is not None and resource_type != expected_type:
        yield Issue(resource_type, "resource-type", f"the sender promised {expected_type}")
        return
    if not contained and "id" not in resource:
        yield Issue(f"{resource_type}.id", "required", "a resource needs an id to be stored")
    yield from _object(resource, resource_type, resource_type, is_resource=True)


def _object(value: Any, fhir_type: str, path: str, *, is_resource: bool = False) -> Iterator[Issue]:
    if not isinstance(value, dict):
        yield Issue(path, "type", f"must be an object ({fhir_type})")
        return
    if not value:
        yield Issue(path, "cardinality", "must not be empty")
        return
    definition = spec.type_definition(fhir_type)
    yield from _presence(value, definition, path)
    for key, child in value.items():
        if is_resource and key == "resourceType":
            continue
        element = definition.elements.get(key)
        if is_resource and key == "id" and element is not None:
            element = replace(element, type="id")  # the published definitions call it a string
        if element is not None:
            yield from _element(child, element, fhir_type, f"{path}.{key}", value.get(f"_{key}"))
            continue
        element = definition.elements.get(key[1:]) if key.startswith("_") else None
        if element is not None and spec.is_primitive(element.type):
            yield from _sibling(child, element, f"{path}.{key}")
        else:
            yield Issue(path, "unknown-element", "has an element that R4 does not define" + _shown(key))


def _shown(key: str) -> str:
    """The name of an unknown element, only when it looks like a name (a key may carry anything)."""
    return f": {key}" if key.isascii() and key.replace("_", "").isalpha() and len(key) <= 64 else ""


def _presence(value: dict[str, Any], definition: spec.TypeDefinition, path: str) -> Iterator[Issue]:
    for element in definition.elements.values():
        if element.required and not element.choice and element.name not in value and f"_{element.name}" not in value:
            yield Issue(f"{path}.{element.name}", "required", f"{definition.name} needs it")
    for choice, variants in definition.choices.items():
        given = [e.name for e in variants if e.name in value or f"_{e.name}" in value]
        if len(given) > 1:
            yield Issue(f"{path}.{choice}[x]", "choice", f"only one of {', '.join(given)} is allowed")
        elif not given and variants[0].required:
            yield Issue(f"{path}.{choice}[x]", "required", f"{definition.name} needs it")


def _element(value: Any, element: spec.Element, owner: str, path: str, sibling: Any) -> Iterator[Issue]:
    if not element.is_list:
        yield from _single(value, element, owner, path)
        return
    if not isinstance(value, list):
        yield Issue(path, "cardinality", "must be an array")
        return
    if not value:
        yield Issue(path, "cardinality", "must not be an empty array")
    for index, member in enumerate(value):
        if member is None and isinstance(sibling, list) and index < len(sibling) and sibling[index] is not None:
            continue  # the value is absent, its sibling says why
        yield from _single(member, element, owner, f"{path}[{index}]")


def _single(value: Any, element: spec.Element, owner: str, path: str) -> Iterator[Issue]:
    if isinstance(value, list):
        yield Issue(path, "cardinality", "must not be an array")
    elif value is None:
        yield Issue(path, "type", "must not be null")
    elif element.type == "Resource":
        for issue in issues(value, contained=True):
            yield Issue(f"{path}.{issue.path}", issue.rule, issue.message)
    elif spec.is_primitive(element.type):
        yield from _primitive(value, element, owner, path)
    else:
        yield from _object(value, element.type, path)


def _primitive(value: Any, element: spec.Element, owner: str, path: str) -> Iterator[Issue]:
    fhir_type = element.type
    if fhir_type == "boolean":
        if not isinstance(value, bool):
            yield Issue(path, "type", "must be true or false")
    elif fhir_type == "decimal" or fhir_type in INTEGER_BOUNDS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield Issue(path, "type", f"must be a number ({fhir_type})")
        elif fhir_type == "decimal":
            if not -DECIMAL_BOUND < value < DECIMAL_BOUND:
                yield Issue(path, "format", "has more than 20 digits before the decimal point")
        elif isinstance(value, float) and not value.is_integer():
            yield Issue(path, "type", f"must be a whole number ({fhir_type})")
        elif not INTEGER_BOUNDS[fhir_type][0] <= value <= INTEGER_BOUNDS[fhir_type][1]:
            yield Issue(path, "format", f"is out of range for {fhir_type}")
    elif not isinstance(value, str):
        yield Issue(path, "type", f"must be a string ({fhir_type})")
    elif not value:
        yield Issue(path, "format", "must not be an empty string")
    elif "\x00" in value:
        yield Issue(path, "format", "must not contain a NUL character")
    elif element.codes:
        if value not in element.codes:
            yield Issue(path, "binding", "is not a code of the required value set")
    else:
        name = "Reference.reference" if (owner, element.name) == ("Reference", "reference") else fhir_type
        expected = pattern(name)
        if expected is not None and not expected.fullmatch(value):
            yield Issue(path, "format", f"is not a valid {name}")


def _sibling(value: Any, element: spec.Element, path: str) -> Iterator[Issue]:
    """``_x`` beside a primitive ``x``: id and extensions; in lists an array with nulls."""
    members = value if element.is_list and isinstance(value, list) else [value]
    if element.is_list and (not isinstance(value, list) or not value):
        yield Issue(path, "cardinality", "must be a non-empty array")
        return
    for index, member in enumerate(members):
        where = f"{path}[{index}]" if element.is_list else path
        if member is None and element.is_list:
            continue
        if isinstance(member, dict) and member.keys() - {"id", "extension"}:
            yield Issue(where, "unknown-element", "only id and extension are allowed beside a primitive")
        else:
            yield from _object(member, "Element", where)
