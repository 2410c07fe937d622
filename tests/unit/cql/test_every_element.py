"""Every element of R4 that a resource has is seen, column or not: property access held against the JSON itself."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest

from fhir_gateway.cql.batch import ResourceTable
from fhir_gateway.cql.forms.properties import step, walk
from fhir_gateway.cql.values import ChoiceVec, ElementVec, ListVec, NullVec, Vec
from fhir_gateway.measures.population import MemoryPopulation
from fhir_gateway.r4 import spec

TYPES = (
    "Patient Encounter Observation Condition Procedure MedicationRequest Medication DiagnosticReport Immunization "
    "Claim ExplanationOfBenefit DeviceRequest Task Goal Location Questionnaire QuestionnaireResponse ValueSet Bundle "
    "Parameters"
).split()
PRIMITIVES: dict[str, Any] = {
    "boolean": True,
    "integer": 7,
    "positiveInt": 8,
    "unsignedInt": 9,
    "decimal": 1.25,
    "date": "2024-02-03",
    "dateTime": "2024-02-03T04:05:06.000Z",
    "instant": "2024-02-03T04:05:06.000Z",
    "time": "04:05:06",
    "base64Binary": "aGk=",
    "oid": "urn:oid:1.2.3",
    "uuid": "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0",
    "xhtml": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>',
}
#: Levels below the resource that are filled; deeper ones only where R4 wants a value.
DEPTH = 3


class Maker:
    """Instances with every element; of a choice another type each time."""

    def __init__(self) -> None:
        self._turn = count()

    def resource(self, resource_type: str, number: int, depth: int = DEPTH) -> dict[str, Any]:
        made = {"resourceType": resource_type, **self.element(resource_type, depth)}
        made["id"] = f"{resource_type}-{number}"
        subject = spec.patient_element(resource_type)
        if subject:
            made[subject] = {**made[subject], "reference": "Patient/Patient-0"}
        if depth == DEPTH:
            made["extension"] = [
                {"url": f"http://example.org/{e.name}", e.name: self.value(e, 1)}
                for e in spec.type_definition("Extension").choices["value"]
                if number == 0
            ]
        return made

    def element(self, fhir_type: str, depth: int) -> dict[str, Any]:
        definition = spec.type_definition(fhir_type)
        found: dict[str, Any] = {}
        for elements in definition.choices.values():
            chosen = elements[next(self._turn) % len(elements)]
            found |= self.filled(chosen, depth)
        for element in definition.elements.values():
            if element.choice is None and (fhir_type != "Extension" or element.name != "extension"):
                found |= self.filled(element, depth)
        return found

    def filled(self, element: spec.Element, depth: int) -> dict[str, Any]:
        if not element.required and (depth <= 0 or (element.type == "Resource" and depth < 2)):
            return {}
        value = self.value(element, depth - 1)
        if not spec.is_primitive(element.type):
            return {element.name: [value, value] if element.is_list else value}
        beside = {"id": "b", "extension": [{"url": "http://example.org/b", "valueString": element.name}]}
        found = {element.name: [value, value] if element.is_list else value}
        if depth > 1 and element.name not in ("id", "div", "url") and element.type != "xhtml":
            found[f"_{element.name}"] = [None, beside] if element.is_list else beside
        return found

    def value(self, element: spec.Element, depth: int) -> Any:
        if element.type == "Resource":
            return self.resource("Basic" if next(self._turn) % 2 else "Organization", next(self._turn), 1)
        if not spec.is_primitive(element.type):
            return self.element(element.type, depth)
        if element.codes:
            return min(element.codes)
        return PRIMITIVES.get(element.type, f"t{next(self._turn) % 5}")


@pytest.mark.parametrize("resource_type", TYPES)
def test_nothing_is_silently_null(resource_type: str) -> None:
    _all_is_seen(resource_type, frozenset())


@pytest.mark.parametrize("resource_type", ["Patient", "Encounter"])
def test_what_no_expression_named_is_seen_as_well(resource_type: str) -> None:
    _all_is_seen(resource_type, frozenset({"extension", "value", "code"}))


def _all_is_seen(resource_type: str, named: frozenset[str]) -> None:
    maker = Maker()
    patient = {"resourceType": "Patient", "id": "Patient-0"}
    resources = [maker.resource(resource_type, number) for number in range(3)]
    group = resources if resource_type == "Patient" else [patient, *resources]
    people = [("Patient-0", group)]
    if resource_type == "Patient":
        people = [(resource["id"], [resource]) for resource in resources]
    table: ResourceTable = next(iter(MemoryPopulation(people).batches())).table(resource_type, named, 0)
    order = table.every.property("id").pylist()
    by_id = {resource["id"]: resource for resource in resources}
    assert sorted(order) == sorted(by_id)
    wrong = list(dict.fromkeys(differences(table.every, [by_id[key] for key in order], resource_type)))
    assert not wrong, f"{len(wrong)}: {wrong[:20]}"


def differences(vec: Vec, expected: list[Any], path: str) -> list[str]:
    """Where a vector of elements and the JSON of its rows do not say the same."""
    if isinstance(vec, ElementVec) and any(row is not None for row in expected):
        return [line for name in _names(vec.fhir_type) for line in _of_child(vec, name, expected, f"{path}.{name}")]
    return []


def _names(fhir_type: str) -> list[str]:
    definition = spec.type_definition(fhir_type)
    return [*definition.elements, *definition.choices]


def _of_child(owner: ElementVec, name: str, rows: list[Any], path: str) -> list[str]:
    definition = spec.type_definition(owner.fhir_type)
    held = [
        next(((e.name, row[e.name]) for e in definition.choices.get(name, ()) if row and e.name in row), None)
        if name not in definition.elements
        else ((name, row[name]) if row and name in row else None)
        for row in rows
    ]
    vec = step(owner, name)
    found: list[str] = []
    if isinstance(vec, ListVec):
        sizes = [len(h[1]) if h else 0 for h in held]
        if vec.lengths.tolist() != sizes:
            return [f"{path}: {vec.lengths.tolist()} elements, not {sizes}"]
        items = [item for h in held if h for item in h[1]]
        beside = [b for row, h in zip(rows, held, strict=True) if h for b in row.get(f"_{name}") or [None] * len(h[1])]
        return _compared(vec.flat, items, path) + _beside(vec.flat, beside, path)
    if vec.valid.tolist() != [h is not None for h in held]:
        return [f"{path}: {vec.valid.tolist()} not {[h is not None for h in held]}"]
    siblings = [
        (h[1] if isinstance(h[1], dict) else row.get(f"_{h[0]}")) if h else None
        for row, h in zip(rows, held, strict=True)
    ]
    if any(f"_{h[0]}" in row for row, h in zip(rows, held, strict=True) if h):
        found += _equal_parts(walk(owner, f"{name}.extension"), siblings, f"{path}.extension")
        found += _beside(vec, siblings, path)
    return found + _compared(vec, [h[1] if h else None for h in held], path)


def _beside(vec: Vec, siblings: list[Any], path: str) -> list[str]:
    return _equal_parts(step(vec, "extension"), siblings, f"{path} (a value)") if any(siblings) else []


def _equal_parts(extensions: Vec, siblings: list[Any], path: str) -> list[str]:
    wanted = [[e.get("valueString") for e in s["extension"]] if s and "extension" in s else None for s in siblings]
    if not isinstance(extensions, ListVec):
        return [f"{path}: {extensions.kind}"]
    texts = ListVec(extensions.offsets, walk(extensions.flat, "valueString.value"), extensions.valid).pylist()
    return [] if [t or None for t in texts] == wanted else [f"{path}: {texts} not {wanted}"]


def _compared(vec: Vec, rows: list[Any], path: str) -> list[str]:
    if isinstance(vec, ChoiceVec):
        found = []
        held = np.zeros(len(vec), dtype=bool)
        for option in vec.options:
            at = np.flatnonzero(option.valid)
            held[at] = True
            found += _compared(option.take(at), [rows[i] for i in at.tolist()], path)
        return found + ([] if held.tolist() == [r is not None for r in rows] else [f"{path}: rows"])
    if isinstance(vec, NullVec):
        return [f"{path}: null"] if any(r is not None for r in rows) else []
    if vec.valid.tolist() != [r is not None for r in rows]:
        return [f"{path}: validity"]
    if isinstance(vec, ElementVec) and spec.is_primitive(vec.fhir_type):
        values = vec.primitive().pylist()
        if vec.fhir_type in ("date", "dateTime", "instant", "time"):
            return []  # how they are read is tested with their vectors
        return [] if values == rows else [f"{path}: {values} not {rows}"]
    return differences(vec, rows, path)
