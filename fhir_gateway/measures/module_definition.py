"""The module definition of a measure: its data requirements, parameters and what it depends on, as a FHIR Library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from fhir_gateway.measures.elm_references import references, section
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.requirements import Requirement, expressions_of, requirements
from fhir_gateway.r4 import spec

Resource = dict[str, Any]
_LIBRARY_TYPES = "http://terminology.hl7.org/CodeSystem/library-type"
_DIRECT_CODE = "http://hl7.org/fhir/StructureDefinition/cqf-directReferenceCode"
#: FHIR types of CQL's own.
_TYPES = {
    "Boolean": "boolean",
    "Code": "Coding",
    "Concept": "CodeableConcept",
    "Date": "date",
    "DateTime": "dateTime",
    "Decimal": "decimal",
    "Integer": "integer",
    "Quantity": "Quantity",
    "Ratio": "Ratio",
    "String": "string",
    "Time": "time",
}
_INTERVALS = {"Date": "Period", "DateTime": "Period", "Quantity": "Range", "Decimal": "Range", "Integer": "Range"}


def module_definition(package: MeasurePackage, period: tuple[date, date] | None = None) -> Resource:
    """The Library of type ``module-definition``; requirements by date name the days of ``period`` where it is known."""
    expressions = list(dict.fromkeys(expressions_of(package)))
    needed = requirements(package, expressions)
    codes = dict.fromkeys(code for one in needed if one.code_filter for code in one.code_filter.codes)
    found: Resource = {
        "resourceType": "Library",
        "extension": [{"url": _DIRECT_CODE, "valueCoding": dict(code)} for code in codes],
        "name": "EffectiveDataRequirements",
        "title": f"Data requirements of {package.title}",
        "status": "active",
        "type": {"coding": [{"system": _LIBRARY_TYPES, "code": "module-definition"}]},
        "relatedArtifact": [
            {"type": "depends-on", "display": display, "resource": canonical}
            for canonical, display in _depends_on(package, expressions)
        ],
        "parameter": [*_inputs(package), *_outputs(package, expressions)],
        "dataRequirement": [data_requirement(one, period) for one in needed],
    }
    return {name: value for name, value in found.items() if value}


def data_requirement(one: Requirement, period: tuple[date, date] | None = None) -> Resource:
    """A requirement as a FHIR DataRequirement."""
    found: Resource = {"type": one.resource_type}
    if one.profile:
        found["profile"] = [one.profile]
    if one.must_support:
        found["mustSupport"] = list(one.must_support)
    if one.code_filter:
        found["codeFilter"] = [one.code_filter.to_json()]
    if one.date and period:
        days = {"start": period[0].isoformat(), "end": period[1].isoformat()}
        found["dateFilter"] = [{"path": one.date, "valuePeriod": days}]
    return found


def _depends_on(package: MeasurePackage, expressions: list[str]) -> Iterator[tuple[str, str]]:
    """Canonicals with what they are: libraries, value sets and code systems that the definitions reach."""
    reached = references(package.libraries, package.primary, expressions)
    names = {name for name, _ in reached.definitions}
    for resource in package.resources:
        if resource["resourceType"] == "Library" and resource.get("name") in names and "url" in resource:
            version = f"|{resource['version']}" if resource.get("version") else ""
            yield f"{resource['url']}{version}", f"Library {resource['name']}"
    titles = {r.get("url"): r.get("title") or r.get("name") for r in package.resources}
    for kind, canonicals in (("Code system", reached.code_systems), ("Value set", reached.value_sets)):
        for canonical in sorted(canonicals):
            yield canonical, f"{kind} {titles.get(canonical.partition('|')[0]) or ''}".strip()


def _inputs(package: MeasurePackage) -> Iterator[Resource]:
    for parameter in section(package.libraries[0], "parameters"):
        specifier = parameter.get("parameterTypeSpecifier") or {"name": parameter.get("parameterType", "")}
        fhir_type, highest = _type(specifier)
        yield {"name": parameter["name"], "use": "in", "min": 0, "max": highest, "type": fhir_type}


def _outputs(package: MeasurePackage, expressions: list[str]) -> Iterator[Resource]:
    """What the definitions give, as far as the translator wrote down their types."""
    for statement in section(package.libraries[0], "statements"):
        if statement["name"] in expressions and statement.get("type") != "FunctionDef":
            specifier = statement.get("resultTypeSpecifier") or {"name": statement.get("resultTypeName", "")}
            fhir_type, highest = _type(specifier)
            yield {"name": statement["name"], "use": "out", "min": 0, "max": highest, "type": fhir_type}


def _type(specifier: Mapping[str, Any]) -> tuple[str, str]:
    """FHIR type and highest cardinality of an ELM type; ``Any`` where FHIR has no such type."""
    if "elementType" in specifier:
        return _type(specifier["elementType"])[0], "*"
    if "pointType" in specifier:
        return _INTERVALS.get(_type_name(specifier["pointType"]), "Any"), "1"
    name = _type_name(specifier)
    return _TYPES.get(name, name if name in spec.type_names() else "Any"), "1"


def _type_name(specifier: Mapping[str, Any]) -> str:
    return str(specifier.get("name", "")).rpartition("}")[2]
