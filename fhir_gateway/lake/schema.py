"""The fast check: a JSON Schema per resource type, generated from the R4 element table and run by ``jsonschema-rs``.

It never accepts what :mod:`fhir_gateway.lake.explain` refuses, except the three things JSON Schema sees too late or
too slowly: duplicate keys, NUL characters and the inside of contained resources, which
:mod:`fhir_gateway.lake.validate` checks beside it. It may refuse what is right but rare (null members with a ``_x``
sibling, an Extension with an ``id``); what it refuses goes to the explanation, which decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema_rs

from fhir_gateway.lake.primitives import DECIMAL_BOUND, INTEGER_BOUNDS, PATTERNS, REFERENCE_PATTERN
from fhir_gateway.r4 import spec

Schema = dict[str, Any]

#: Choices with more types than this (``Extension.value[x]`` has 50) are not spelled out pair by pair.
_WIDE_CHOICE = 15


def _name(fhir_type: str) -> str:
    return fhir_type.replace(".", "-")


def _primitive(fhir_type: str, codes: frozenset[str] | None) -> Schema:
    if fhir_type == "boolean":
        return {"type": "boolean"}
    if fhir_type == "decimal":
        return {"type": "number", "exclusiveMinimum": -DECIMAL_BOUND, "exclusiveMaximum": DECIMAL_BOUND}
    if fhir_type in INTEGER_BOUNDS:
        low, high = INTEGER_BOUNDS[fhir_type]
        return {"type": "integer", "minimum": low, "maximum": high}
    if codes:
        return {"enum": sorted(codes)}
    if fhir_type in PATTERNS:
        return {"type": "string", "pattern": f"^(?:{PATTERNS[fhir_type]})$"}
    return {"type": "string", "minLength": 1}


def _reference(fhir_type: str) -> Schema:
    if fhir_type == "Resource":  # its own type's schema is applied beside this one
        return {"type": "object", "required": ["resourceType"]}
    return {"$ref": f"#/$defs/{_name(fhir_type)}"}


def _names(element: spec.Element) -> tuple[str, ...]:
    """Keys that carry an element: a primitive also has its ``_x`` sibling."""
    return (element.name, f"_{element.name}") if spec.is_primitive(element.type) else (element.name,)


def _choice_rules(definition: spec.TypeDefinition, schema: Schema) -> None:
    """At most one type of each choice."""
    for variants in definition.choices.values():
        if len(variants) > _WIDE_CHOICE:
            plain = [e for e in definition.elements.values() if not e.choice and e.required]
            if len(plain) == 1 and len(definition.choices) == 1:
                # such a type (Extension, Parameters.parameter, Task.input) is its name and one value
                schema["maxProperties"] = 2
            else:
                schema["properties"].update({name: False for e in variants for name in _names(e)})
            continue
        for element in variants:
            others: Schema = {name: False for other in variants if other is not element for name in _names(other)}
            if others:
                for name in _names(element):
                    schema.setdefault("dependentSchemas", {})[name] = {"properties": others}


def _object(fhir_type: str) -> tuple[Schema, set[str]]:
    """Schema of a complex type and the types it refers to."""
    definition = spec.type_definition(fhir_type)
    properties: Schema = {}
    required: list[str] = []
    alternatives: list[Schema] = []
    used: set[str] = set()
    for element in definition.elements.values():
        if spec.is_primitive(element.type):
            inner = _primitive(element.type, element.codes)
            sibling: Schema = {"$ref": "#/$defs/sibling"}
            if element.is_list:
                sibling = {"type": "array", "minItems": 1, "items": {"anyOf": [sibling, {"type": "null"}]}}
            properties[f"_{element.name}"] = sibling
        else:
            inner = _reference(element.type)
            used.add(element.type)
        if fhir_type == "Reference" and element.name == "reference":
            inner = {"type": "string", "pattern": f"^{REFERENCE_PATTERN}$"}
        properties[element.name] = {"type": "array", "minItems": 1, "items": inner} if element.is_list else inner
        if element.required and not element.choice:
            names = _names(element)
            if len(names) == 1 or (fhir_type, element.name) == ("Extension", "url"):
                required.append(element.name)
            else:
                alternatives.append({"anyOf": [{"required": [name]} for name in names]})
    for variants in definition.choices.values():
        if variants[0].required:
            names = tuple(name for element in variants for name in _names(element))
            alternatives.append({"anyOf": [{"required": [name]} for name in names]})
    schema: Schema = {"type": "object", "minProperties": 1, "properties": properties, "additionalProperties": False}
    if definition.kind == "resource":
        properties["resourceType"] = {"const": fhir_type}
        properties["id"] = _primitive("id", None)  # the published definitions call it a string
        required.append("resourceType")
    if required:
        schema["required"] = required
    if alternatives:
        schema["allOf"] = alternatives
    _choice_rules(definition, schema)
    return schema, used


@cache
def resource_schema(resource_type: str) -> Schema:
    """JSON Schema (2020-12) of a resource of this type, all data types it uses included."""
    extension: Schema = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Extension"}}
    sibling = {
        "type": "object",
        "minProperties": 1,
        "properties": {"id": {"type": "string", "minLength": 1}, "extension": extension},
        "additionalProperties": False,
    }
    definitions: Schema = {"sibling": sibling}
    waiting = deque([resource_type, "Extension"])
    while waiting:
        fhir_type = waiting.popleft()
        if _name(fhir_type) in definitions or fhir_type == "Resource":
            continue
        definitions[_name(fhir_type)], used = _object(fhir_type)
        waiting.extend(sorted(used))
    return {"$ref": f"#/$defs/{_name(resource_type)}", "$defs": definitions}


def _compiled(items: Schema, definitions: Schema) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        {"type": "array", "items": items, "$defs": definitions}, pattern_options=jsonschema_rs.RegexOptions()
    )


@cache
def list_validator(resource_type: str) -> jsonschema_rs.Draft202012Validator:
    """Compiled check of a list of resources of this type, each with an ``id``; thread-safe, made once."""
    schema = resource_schema(resource_type)
    return _compiled({"$ref": schema["$ref"], "required": ["id"]}, schema["$defs"])


@cache
def contained_validator(resource_type: str) -> jsonschema_rs.Draft202012Validator:
    """Compiled check of a list of contained resources of this type."""
    schema = resource_schema(resource_type)
    return _compiled({"$ref": schema["$ref"]}, schema["$defs"])


def shape_validator(resource_type: str, shape: Mapping[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """As :func:`list_validator`, but refusing columns that are not in ``shape`` (a part of the column structure).

    What passes is valid and fills no other columns, which saves looking for new ones in every resource.
    """
    schema = resource_schema(resource_type)
    narrow = _narrowed(resource_type, shape, spec.column_structure(resource_type))
    return _compiled({**narrow, "required": [*narrow.get("required", ()), "id"]}, schema["$defs"])


def _narrowed(fhir_type: str, shape: Mapping[str, Any], structure: Mapping[str, Any]) -> Schema:
    """Schema of a type with the columns of ``shape`` only; elements that never are columns stay as they are."""
    schema, _ = _object(fhir_type)
    properties = {name: inner for name, inner in schema["properties"].items() if name not in structure}
    elements = spec.type_definition(fhir_type).elements
    for name, part in shape.items():
        whole = schema["properties"][name]
        inner = part[0] if isinstance(part, list) else part
        if not isinstance(inner, str):
            known = structure[name]
            below = _narrowed(elements[name].type, inner, known[0] if isinstance(known, list) else known)
            whole = {**whole, "items": below} if isinstance(part, list) else below
        properties[name] = whole
    return {**schema, "properties": properties}
