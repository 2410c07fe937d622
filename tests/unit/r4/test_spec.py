"""The element table against an independent reading of FHIR: the models of fhir.resources."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from fhir_gateway.r4 import spec

#: Types that R4 and R4B define alike.
ALIKE = (
    "Patient Encounter Condition Observation Procedure MedicationRequest Coverage Claim ExplanationOfBenefit "
    "Immunization Practitioner PractitionerRole Organization Group MeasureReport Measure Library ValueSet "
    "DiagnosticReport Location Binary DeviceDefinition ResearchStudy ObservationDefinition Meta Identifier Coding "
    "Quantity"
).split()


def model(name: str) -> Any:
    return importlib.import_module("fhir.resources.R4B").get_fhir_model_class(name)


@pytest.mark.parametrize("name", ALIKE)
def test_elements_are_those_of_the_models(name: str) -> None:
    fields = model(name).model_fields
    theirs = {f.alias or n for n, f in fields.items() if not n.endswith("__ext")} - {"fhir_comments", "resource_type"}
    assert set(spec.type_definition(name).elements) == theirs


@pytest.mark.parametrize("name", ALIKE)
def test_required_elements_are_those_of_the_models(name: str) -> None:
    theirs = set()
    for key, item in model(name).model_fields.items():
        extra = item.json_schema_extra if isinstance(item.json_schema_extra, dict) else {}
        if not key.endswith("__ext") and (item.is_required() or extra.get("element_required")):
            theirs.add(item.alias or key)
    ours = {e.name for e in spec.type_definition(name).elements.values() if e.required and e.choice is None}
    assert ours == theirs - {e.name for e in spec.type_definition(name).elements.values() if e.choice}


def test_bindings_are_complete() -> None:
    status = spec.type_definition("Encounter").elements["status"]
    assert status.codes is not None
    assert {"finished", "entered-in-error", "unknown"} <= status.codes


def test_choice_elements_are_told_by_their_name() -> None:
    observation = spec.type_definition("Observation")
    assert {e.name for e in observation.choices["effective"]} == {
        "effectiveDateTime",
        "effectivePeriod",
        "effectiveTiming",
        "effectiveInstant",
    }


@pytest.mark.parametrize(
    ("resource_type", "element"),
    [
        ("Observation", "subject"),
        ("Coverage", "beneficiary"),
        ("Claim", "patient"),
        ("Task", "for"),
        ("Organization", None),
    ],
)
def test_the_element_that_names_the_patient(resource_type: str, element: str | None) -> None:
    assert spec.patient_element(resource_type) == element


def test_columns_stop_at_the_first_repetition() -> None:
    identifier = spec.column_structure("Patient")["identifier"][0]
    assert "value" in identifier
    assert "identifier" not in identifier["assigner"]
    assert "text" not in spec.column_structure("Patient")
    assert spec.column_structure("Observation")["code"]["text"] == "VARCHAR"
