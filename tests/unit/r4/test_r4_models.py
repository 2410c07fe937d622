"""The door to fhir.resources: what is wrong with one resource, without its values."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_gateway.errors import ResourceError
from fhir_gateway.r4.models import model_class, parse, validate

OBSERVATION: dict[str, Any] = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}


def test_a_valid_resource_becomes_its_model() -> None:
    patient = parse({"resourceType": "Patient", "id": "a", "birthDate": "1950-01", "name": [{"family": "Bell"}]})
    assert isinstance(patient, model_class("Patient"))
    assert patient.name[0].family == "Bell"  # type: ignore[attr-defined]
    validate({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": OBSERVATION}]})


@pytest.mark.parametrize(
    ("resource", "path", "rule"),
    [
        ({"resourceType": "Patient", "birthDate": "SECRET"}, "Patient.birthDate", "value is not allowed here"),
        ({"resourceType": "Patient", "nmae": "SECRET"}, "Patient.nmae", "no such element"),
        ({"resourceType": "Observation", "status": "final"}, "Observation.code", "required element is missing"),
        ({"resourceType": "Patient", "name": [{"family": 31337}]}, "Patient.name[0].family", "string type"),
        ({"resourceType": "Patient", "id": "SECRET VALUE"}, "Patient.id", "wrong form"),
        ({"resourceType": "SECRET"}, "resourceType", "not a resource type of R4"),
        ({}, "resourceType", "resourceType is missing"),
        ({"resourceType": "Patient", "gender": "SECRET"}, "Patient.gender", "required binding"),
        (OBSERVATION | {"status": "SECRET"}, "Observation.status", "required binding"),
        (
            OBSERVATION | {"contained": [{"resourceType": "Patient", "contact": [{"gender": "SECRET"}]}]},
            "Observation.contained[0].contact[0].gender",
            "required binding",
        ),
        (
            OBSERVATION | {"component": [{"code": {}, "valueQuantity": {"value": 1, "comparator": "SECRET"}}]},
            "Observation.component[0].valueQuantity.comparator",
            "required binding",
        ),
    ],
)
def test_an_invalid_resource_is_refused_by_path_and_rule(resource: dict[str, Any], path: str, rule: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse(resource, file="patients.ndjson", line=7)
    location = caught.value.location
    assert (location.path, rule in caught.value.message) == (path, True)
    assert "SECRET" not in str(caught.value)
    assert "31337" not in str(caught.value)


def test_the_error_names_file_and_line_and_how_many_more() -> None:
    with pytest.raises(ResourceError, match=r"^patients\.ndjson:7 Patient\.\w+ \[extra_forbidden\]: .*\(and 1 more\)$"):
        validate({"resourceType": "Patient", "nope": 1, "neither": 2}, file="patients.ndjson", line=7)
