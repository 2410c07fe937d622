"""What a profiled retrieve means, for resources that declare profiles and for those that do not."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_gateway.cql import compile_library
from fhir_gateway.cql.profiles import ProfilePolicy
from fhir_gateway.measures.population import MemoryPopulation
from fhir_gateway.terminology import ValueSets
from tests.unit.cql.conftest import FHIR, NOW, library

QICORE = "http://hl7.org/fhir/us/qicore/StructureDefinition/qicore-"
US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/"
PATIENT = {"reference": "Patient/p"}


def resource(kind: str, key: str, *profiles: str, **elements: Any) -> dict[str, Any]:
    meta = {"meta": {"profile": list(profiles)}} if profiles else {}
    return {"resourceType": kind, "id": key, "subject": PATIENT, **meta, **elements}


def code(value: str, system: str = "http://loinc.org") -> dict[str, Any]:
    return {"coding": [{"system": system, "code": value}]}


def order(key: str, *profiles: str, **elements: Any) -> dict[str, Any]:
    return resource("MedicationRequest", key, *profiles, status="active", intent="order", **elements)


ORDERS = [
    order("plain"),
    order("not", doNotPerform=True),
    order("declared", QICORE + "medicationrequest", doNotPerform=True),
    order("declared-not", QICORE + "medicationnotrequested"),
    order("older-name", QICORE + "mednotrequested", doNotPerform=True),
    order("us-core", US_CORE + "us-core-medicationrequest"),
    order("other", QICORE + "something-else"),
]
VITALS = [
    resource("Observation", "bmi", status="final", code=code("39156-5")),
    resource("Observation", "weight", status="final", code=code("29463-7")),
    resource("Observation", "declared", US_CORE + "us-core-bmi", status="final", code=code("1-1")),
    resource("Observation", "lab", QICORE + "observation-lab", status="final", code=code("39156-5")),
    resource("Observation", "cancelled", status="cancelled", code=code("39156-5")),
]
CATEGORY = "http://terminology.hl7.org/CodeSystem/condition-category"
CONDITIONS = [
    resource("Condition", "none"),
    resource("Condition", "encounter", category=[code("encounter-diagnosis", CATEGORY)]),
    resource("Condition", "problem", category=[code("problem-list-item", CATEGORY)]),
]


def retrieved(template: str, resources: list[dict[str, Any]], policy: ProfilePolicy = "declared") -> set[str]:
    kind = resources[0]["resourceType"]
    node = {"type": "Retrieve", "dataType": FHIR + kind, "templateId": template}
    compiled = compile_library([library({"V": node})], ("Test", "1"), ValueSets([]), profiles=policy)
    batch = next(iter(MemoryPopulation([("p", [{"resourceType": "Patient", "id": "p"}, *resources])]).batches()))
    (found,) = compiled.evaluate(batch, {}, NOW).values("V")
    return {reference.partition("/")[2] for reference in found}


def test_orders_and_orders_not_to_do() -> None:
    assert retrieved(QICORE + "medicationrequest", ORDERS) == {"plain", "declared", "us-core"}
    assert retrieved(QICORE + "medicationnotrequested", ORDERS) == {"not", "declared-not", "older-name"}


def test_by_content_alone() -> None:
    assert retrieved(QICORE + "medicationrequest", ORDERS, "content") == {"plain", "declared-not", "us-core", "other"}
    assert retrieved(QICORE + "medicationnotrequested", ORDERS, "content") == {"not", "declared", "older-name"}


def test_the_plain_model_retrieves_everything() -> None:
    assert len(retrieved("http://hl7.org/fhir/StructureDefinition/MedicationRequest", ORDERS)) == len(ORDERS)


def test_a_profile_with_a_fixed_code_needs_no_code_filter() -> None:
    assert retrieved(US_CORE + "us-core-bmi", VITALS) == {"bmi", "declared"}
    assert retrieved(QICORE + "observation-lab", VITALS) == {"bmi", "weight", "declared", "lab"}
    assert retrieved(QICORE + "observationcancelled", VITALS) == {"cancelled"}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("condition-encounter-diagnosis", {"none", "encounter"}),
        ("condition-problems-health-concerns", {"none", "problem"}),
    ],
)
def test_conditions_without_category_belong_to_both_profiles(name: str, found: set[str]) -> None:
    assert retrieved(QICORE + name, CONDITIONS) == found


def test_what_was_not_done_can_be_named_by_value_set() -> None:
    def refused(key: str, value_set: str, *codes: str) -> dict[str, Any]:
        concept = {"extension": [{"url": QICORE + "notDoneValueSet", "valueCanonical": value_set}]}
        coded = {"coding": [{"system": "s", "code": c} for c in codes]} if codes else {}
        return order(key, doNotPerform=True, medicationCodeableConcept={**concept, **coded})

    url = "http://example.org/ValueSet/x"
    orders = [
        refused("named", url),
        refused("versioned", url + "|2"),
        refused("another", url + "y"),
        refused("coded-otherwise", url, "z"),
        order("coded", doNotPerform=True, medicationCodeableConcept=code("a", "s")),
        order("nothing", doNotPerform=True),
        order(
            "ordered",
            medicationCodeableConcept={"extension": refused("", url)["medicationCodeableConcept"]["extension"]},
        ),
    ]
    value_set = {
        "resourceType": "ValueSet",
        "url": url,
        "compose": {"include": [{"system": "s", "concept": [{"code": "a"}]}]},
    }
    node = {
        "type": "Retrieve",
        "dataType": FHIR + "MedicationRequest",
        "templateId": QICORE + "medicationnotrequested",
        "codeProperty": "medication",
        "codeComparator": "~",
        "codes": {"type": "ValueSetRef", "name": "X"},
    }
    value_sets = {"def": [{"name": "X", "id": url}]}
    compiled = compile_library([library({"V": node}, valueSets=value_sets)], ("Test", "1"), ValueSets([value_set]))
    batch = next(iter(MemoryPopulation([("p", [{"resourceType": "Patient", "id": "p"}, *orders])]).batches()))
    (found,) = compiled.evaluate(batch, {}, NOW).values("V")
    assert {reference.partition("/")[2] for reference in found} == {"named", "versioned", "coded"}
