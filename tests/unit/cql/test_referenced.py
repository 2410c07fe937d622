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
