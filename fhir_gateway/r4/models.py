"""The pydantic models of FHIR R4, for the edges: bodies of requests, and why one resource is not valid.

The only module that imports ``fhir.resources`` (R4B models, a superset of what R4 instances use). The library takes
seconds to import and milliseconds per resource, so it is loaded on first use, one resource type at a time, and never
on a path that handles populations.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from fhir_gateway.errors import Location, ResourceError
from fhir_gateway.r4.spec import resource_types, type_definition


@cache
def model_class(resource_type: str) -> type[BaseModel]:
    """Return the model of a resource type; raises ResourceError for a type that R4 does not have."""
    if resource_type not in resource_types():
        raise ResourceError("not a resource type of R4", location=Location(path="resourceType"))
    from fhir.resources.R4B import get_fhir_model_class  # here: see above

    found: type[BaseModel] = get_fhir_model_class(resource_type)
    return found


@cache
def summary_elements(resource_type: str) -> frozenset[str]:
    """Elements that the definition of a resource type marks as its summary."""
    model: Any = model_class(resource_type)
    return frozenset(model.summary_elements_sequence())


def parse(resource: Mapping[str, Any], file: str | None = None, line: int | None = None) -> BaseModel:
    """Return the model of a resource; raises ResourceError with the path of the first element that breaks a rule.

    Codes of required bindings are checked too, which the models do not do. The message names rules, never values.
    """
    resource_type = resource.get("resourceType")
    if not isinstance(resource_type, str):
        raise ResourceError("resourceType is missing", location=Location(file, line, "resourceType"))
    try:
        model = model_class(resource_type).model_validate(dict(resource))
    except ValidationError as error:
        found = error.errors(include_input=False, include_context=False, include_url=False)
        first, more = found[0], len(found) - 1
        location = Location(file, line, _path(resource_type, first["loc"]), first["type"])
        suffix = f" (and {more} more)" if more else ""
        raise ResourceError(_rule(first["type"]) + suffix, location=location) from None
    unknown = _unknown_code(resource, resource_type, resource_type)
    if unknown is not None:
        message = "code is not in the value set of its required binding"
        raise ResourceError(message, location=Location(file, line, unknown, "binding"))
    return model


def validate(resource: Mapping[str, Any], file: str | None = None, line: int | None = None) -> None:
    """Raise ResourceError unless the resource is valid; see :func:`parse`."""
    parse(resource, file, line)


def _unknown_code(node: Mapping[str, Any], type_name: str, path: str) -> str | None:
    """Return the path of the first code that its required binding does not have."""
    elements = type_definition(type_name).elements
    for name, value in node.items():
        element = elements.get(name)
        if element is None:
            continue
        for index, one in enumerate(value if isinstance(value, list) else [value]):
            here = f"{path}.{name}[{index}]" if element.is_list else f"{path}.{name}"
            if isinstance(one, str):
                if element.codes is not None and one not in element.codes:
                    return here
            elif isinstance(one, dict):
                inner = one.get("resourceType") if element.type == "Resource" else element.type
                found = _unknown_code(one, inner, here) if isinstance(inner, str) else None
                if found is not None:
                    return found
    return None


def _path(resource_type: str, steps: tuple[int | str, ...]) -> str:
    """Write pydantic's location as FHIRPath: ``('name', 0, 'family')`` is ``Patient.name[0].family``."""
    path = resource_type
    for step in steps:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path


def _rule(kind: str) -> str:
    """Return the rule behind pydantic's error type; its own message could quote the value."""
    rules = {
        "missing": "required element is missing",
        "model.fields_required": "required element is missing",
        "extra_forbidden": "no such element",
        "value_error": "value is not allowed here",
        "string_pattern_mismatch": "value has the wrong form",
    }
    return rules.get(kind, f"breaks the rule {kind.replace('_', ' ')}")
