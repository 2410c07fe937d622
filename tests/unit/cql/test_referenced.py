"""Resources without a patient belong to whoever refers to them, and to nobody else."""

from __future__ import annotations

from typing import Any

from fhir_gateway.cql import compile_library
from fhir_gateway.measures.population import MemoryPopulation
from fhir_gateway.terminology import ValueSets
from tests.unit.cql.conftest import FHIR, NOW, library

MEDICATIONS = {"type": "Retrieve", "dataType": FHIR + "Medication"}
REFERENCES = {
    "type": "Query",
    "source": [{"alias": "R", "expression": {"type": "Retrieve", "dataType": FHIR + "MedicationRequest"}}],
    "return": {
        "expression": {
            "type": "Property",
            "path": "reference.value",
            "source": {
                "type": "As",
                "asType": FHIR + "Reference",
                "operand": {"type": "Property", "path": "medication", "scope": "R"},
            },
        }
    },
}


def request(key: str, patient: str, medication: str) -> dict[str, Any]:
    return {
        "resourceType": "MedicationRequest",
        "id": key,
        "status": "active",
        "intent": "order",
        "subject": {"reference": f"Patient/{patient}"},
        "medicationReference": {"reference": medication},
    }


def test_medications_of_each_patient() -> None:
    resources = [
        *({"resourceType": "Patient", "id": key} for key in "abc"),
        *({"resourceType": "Medication", "id": key} for key in ("m1", "m2", "stray")),
        request("r1", "a", "Medication/m1"),
        request("r2", "a", "http://ehr.example/fhir/Medication/m2"),
        request("r3", "a", "Medication/m1"),
        request("r4", "b", "Medication/m1/_history/2"),
        request("r5", "b", "Medication/absent"),
    ]
    compiled = compile_library([library({"M": MEDICATIONS, "R": REFERENCES})], ("Test", "1"), ValueSets([]))
    found: dict[str, Any] = {}
    for size in (1, 3):
        for batch in MemoryPopulation.from_resources(resources, batch_size=size).batches():
            run = compiled.evaluate(batch, {}, NOW)
            found |= dict(zip(batch.members.to_pylist(), run.values("M"), strict=True))
        assert found == {"a": ["Medication/m1", "Medication/m2"], "b": ["Medication/m1"], "c": []}


def test_what_a_member_owns_is_nobody_elses() -> None:
    def own(patient: str, *more: dict[str, Any]) -> list[dict[str, Any]]:
        medication = {"resourceType": "Medication", "id": "m1"}
        return [{"resourceType": "Patient", "id": patient}, medication, *more]

    without_reference = {key: value for key, value in request("r2", "b", "").items() if key != "medicationReference"}
    groups = [("a", own("a", request("r1", "a", "Medication/m1"))), ("b", own("b", without_reference))]
    compiled = compile_library([library({"M": MEDICATIONS, "R": REFERENCES})], ("Test", "1"), ValueSets([]))
    for batch in MemoryPopulation(groups).batches():
        assert compiled.evaluate(batch, {}, NOW).values("M") == [["Medication/m1"], ["Medication/m1"]]


def prop(name: str, source: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "Property", "path": name, **({"source": source} if source else {"scope": "X"})}


def each(resource_type: str, path: str) -> dict[str, Any]:
    source = [{"alias": "X", "expression": {"type": "Retrieve", "dataType": FHIR + resource_type}}]
    return {"type": "Query", "source": source, "return": {"expression": prop(path)}}


def test_references_are_followed_through_resources_without_patient() -> None:
    def organization(key: str, **more: Any) -> dict[str, Any]:
        return {"resourceType": "Organization", "id": key, **more}

    def encounter(key: str, patient: str, location: str) -> dict[str, Any]:
        place = [{"location": {"reference": f"Location/{location}"}}]
        made = {"resourceType": "Encounter", "id": key, "status": "finished", "class": {"code": "AMB"}}
        return {**made, "subject": {"reference": f"Patient/{patient}"}, "location": place}

    resources = [
        *({"resourceType": "Patient", "id": key} for key in "abc"),
        encounter("e1", "a", "ward"),
        encounter("e2", "b", "elsewhere"),
        {"resourceType": "Location", "id": "ward", "managingOrganization": {"reference": "Organization/clinic"}},
        {"resourceType": "Location", "id": "elsewhere"},
        organization("clinic", partOf={"reference": "Organization/trust"}),
        organization("trust", partOf={"reference": "Organization/state"}),
        organization("state", partOf={"reference": "Organization/clinic"}),  # in a circle
        organization("stray"),
        {"resourceType": "Practitioner", "id": "x"},
    ]
    asked = {
        "O": {"type": "Retrieve", "dataType": FHIR + "Organization"},
        "E": each("Encounter", "location.location"),
        "L": each("Location", "managingOrganization"),
    }
    chain = asked | {"P": each("Organization", "partOf")}
    for definitions, expected in ((asked, ["clinic"]), (chain, ["clinic", "state", "trust"])):
        compiled = compile_library([library(definitions)], ("Test", "1"), ValueSets([]))
        found: dict[str, Any] = {}
        for size in (1, 3):
            for batch in MemoryPopulation.from_resources(resources, batch_size=size).batches():
                run = compiled.evaluate(batch, {}, NOW)
                found |= dict(zip(batch.members.to_pylist(), run.values("O"), strict=True))
            assert found == {"a": [f"Organization/{key}" for key in expected], "b": [], "c": []}
