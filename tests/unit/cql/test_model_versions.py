"""Libraries of FHIR 4.0.1 and QI-Core 4.1.1 as their translator writes them: choices, slices, negation, vital signs.

``tests/data/models`` has the CQL and its ELM (translator 5.3.0); FHIRHelpers is the one of our own measures.
"""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.cql import Evaluation, compile_library
from fhir_gateway.measures.population import MemoryPopulation
from fhir_gateway.r4 import spec
from fhir_gateway.terminology import ValueSets
from tests.support.measures import MEASURES
from tests.unit.cql.conftest import NOW

MODELS = Path(__file__).parents[2] / "data" / "models"
VALUE_SET = {
    "resourceType": "ValueSet",
    "url": "urn:vs",
    "compose": {"include": [{"system": "urn:s", "concept": [{"code": "x"}]}]},
}
US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/"
ABSENT = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
DO_NOT = "http://hl7.org/fhir/5.0/StructureDefinition/extension-DeviceRequest.doNotPerform"
X = {"coding": [{"system": "urn:s", "code": "x"}]}


def loinc(code: str) -> dict[str, Any]:
    return {"coding": [{"system": "http://loinc.org", "code": code}]}


def quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}


def of(resource_type: str, key: str, **elements: Any) -> dict[str, Any]:
    owner = spec.patient_element(resource_type)
    named = {owner: {"reference": "Patient/p"}} if owner else {}
    return {"resourceType": resource_type, "id": key, **named, **elements}


RACE = [
    {"url": "ombCategory", "valueCoding": {"system": "urn:oid:2.16.840.1.113883.6.238", "code": "2106-3"}},
    {"url": "text", "valueString": "White"},
]
PATIENT = {
    "resourceType": "Patient",
    "id": "p",
    "gender": "female",
    "_birthDate": {"extension": [{"url": ABSENT, "valueCode": "masked"}]},
    "deceasedDateTime": "2026-08-01",
    "extension": [
        {"url": US_CORE + "us-core-race", "extension": RACE},
        {"url": US_CORE + "us-core-ethnicity", "extension": [{"url": "text", "valueString": "No"}]},
        {"url": US_CORE + "us-core-birthsex", "valueCode": "F"},
    ],
}
ORDER = {"status": "active", "intent": "order"}
ACTIVE = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]}
RESOURCES = [
    PATIENT,
    of("Observation", "o1", status="final", code=X, effectiveDateTime="2026-03-01", valueQuantity=quantity(6.5, "mg")),
    of("Observation", "o2", status="final", code=X, effectivePeriod={"start": "2026-03-01", "end": "2027-03-01"}),
    of("Observation", "o3", status="cancelled", code=X),
    of("Observation", "bp", status="final", code=loinc("85354-9")),
    of("Observation", "wt", status="final", code=loinc("29463-7")),
    of("Observation", "sm", status="final", code=loinc("72166-2")),
    of("Condition", "c1", code=X, clinicalStatus=ACTIVE, onsetAge=quantity(40, "a")),
    of("Condition", "c2", code=X, onsetPeriod={"start": "2020-01-01"}),
    of("MedicationRequest", "m1", **ORDER, medicationCodeableConcept=X),
    of("MedicationRequest", "m2", **ORDER, medicationReference={"reference": "Medication/d"}),
    of("MedicationRequest", "m3", **ORDER, doNotPerform=True, medicationCodeableConcept=X),
    of("Medication", "d", code=X),
    of("Encounter", "e", status="finished", location=[{"location": {"reference": "Location/l"}}]),
    of("Procedure", "p1", status="completed", code=X),
    of("Procedure", "p2", status="not-done", code=X),
    of("ServiceRequest", "s1", **ORDER, code=X),
    of("ServiceRequest", "s2", **ORDER, code=X, doNotPerform=True),
    of("Immunization", "i1", status="not-done", vaccineCode=X),
    of("Task", "t1", status="rejected", intent="order"),
    of("Task", "t2", status="requested", intent="order"),
    of("Communication", "cm", status="not-done"),
    of("MedicationAdministration", "ma", status="not-done", medicationCodeableConcept=X),
    of("DeviceRequest", "d1", **ORDER, codeCodeableConcept=X),
    of("DeviceRequest", "d2", **ORDER, modifierExtension=[{"url": DO_NOT, "valueBoolean": True}]),
]


def helpers() -> dict[str, Any]:
    resource = json.loads((MEASURES / "readmission-30-day" / "library-FHIRHelpers.json").read_bytes())
    (data,) = (c["data"] for c in resource["content"] if c["contentType"] == "application/elm+json")
    found: dict[str, Any] = json.loads(base64.b64decode(data))["library"]
    return found


def evaluation(model: str, primary: str) -> Evaluation:
    elm = json.loads((MODELS / f"{model}.json").read_bytes())["library"]
    compiled = compile_library([elm, helpers()], (primary, "1"), ValueSets([VALUE_SET]), [])
    (batch,) = MemoryPopulation.from_resources(RESOURCES).batches()
    return compiled.evaluate(batch, {}, NOW)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Choice Effective", ["Observation/o1"]),
        ("Choice Quantity", [Decimal("6.5"), None]),
        ("Quantity Over", True),
        ("Coded", True),
        ("Onset Age", [Decimal(40)]),
        ("Race Text", "White"),
        ("Absent", ["masked"]),
        ("Gender", True),
        ("MineInterval", {"low": "2025-12-31T19:00:00.000", "high": None, "lowClosed": True, "highClosed": True}),
        ("MedRef", ["m2"]),
        ("Place", ["Location/l"]),
        ("Total", Decimal("6.5")),
        ("Deceased", "2026-08-01"),
    ],
)
def test_fhir_4_0_1(name: str, expected: Any) -> None:
    assert evaluation("fhir-4.0.1", "Plain").values(name) == [expected]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Conditions", "c1 c2"),
        ("Requested", "m1 m2"),
        ("Not Requested", "m3"),
        ("Done", "p1"),
        ("Not Done", "p2"),
        ("Ordered", "s1"),
        ("Not Ordered", "s2"),
        ("Observed", "o1 o2"),
        ("Not Observed", "o3"),
        ("Not Immunized", "i1"),
        ("BP", "bp"),
        ("Body Weight", "wt"),
        ("Smoking", "sm"),
        ("Task", "t1"),
        ("Communication", "cm"),
        ("Administered", "ma"),
        ("DeviceNot", "d2"),
    ],
)
def test_profiles_of_qicore_4_1_1(name: str, expected: str) -> None:
    assert sorted(evaluation("qicore-4.1.1", "Old").values(name)[0]) == expected.split()


def test_slices_of_extensions_in_qicore_4_1_1() -> None:
    run = evaluation("qicore-4.1.1", "Old")
    assert [code["code"] for code in run.values("Race")[0]] == ["2106-3"]
    assert [run.values("Ethnicity"), run.values("Birthsex")] == [["No"], ["F"]]
