"""References of served resources: every way to write one, and what is none."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.publish import References, published_id
from fhir_gateway.jobs.pull import pull_files


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    folder = tmp_path_factory.mktemp("files")
    resources: Iterable[dict[str, object]] = (
        {"resourceType": "Patient", "id": "a"},
        {"resourceType": "Organization", "id": "o", "name": "O"},
    )
    (folder / "all.ndjson").write_text("".join(json.dumps(one) + "\n" for one in resources))
    gateway = Gateway(Settings(data_dir=tmp_path_factory.mktemp("gateway"), lake_buckets=1))
    pull_files(gateway, [folder], "ehr")
    return gateway


@pytest.fixture(scope="module")
def person(gateway: Gateway) -> str:
    return str(gateway.lake.members()[0].as_py())


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Patient/a", "Patient/{person}"),
        ("https://ehr.example/fhir/Patient/a", "Patient/{person}"),
        ("Patient/a/_history/3", "Patient/{person}"),
        ("urn:uuid:a", "Patient/{person}"),
        ("urn:uuid:unknown", "urn:uuid:unknown"),
        ("Organization/o", "Organization/ehr-o"),
        ("urn:uuid:o", "Organization/ehr-o"),
        ("Encounter/e", "Encounter/ehr-e"),
        ("https://elsewhere.example/Organization/x", "https://elsewhere.example/Organization/x"),
        ("https://elsewhere.example/Patient/x", "https://elsewhere.example/Patient/x"),
        ("#contained", "#contained"),
        ("Practitioner?identifier=x|y", "Practitioner?identifier=x|y"),
        ("nonsense", "nonsense"),
    ],
)
def test_references_lead_to_what_we_serve(gateway: Gateway, person: str, written: str, expected: str) -> None:
    rewritten = References.of(gateway).rewrite("ehr", json.dumps({"subject": {"reference": written}}))
    assert rewritten == {"subject": {"reference": expected.format(person=person)}}


def test_text_that_only_looks_like_a_reference_stays(gateway: Gateway, person: str) -> None:
    text = 'he said "reference": "Patient/a" aloud'
    raw = json.dumps({"note": [{"text": text}], "x": {"reference": {"reference": "Patient/a"}}}, indent=1)
    rewritten = References.of(gateway).rewrite("ehr", raw.replace('Patient/a"\n', 'Patient\\/a"\n'))
    assert rewritten == {"note": [{"text": text}], "x": {"reference": {"reference": f"Patient/{person}"}}}


def test_a_patient_that_never_came_has_a_person_all_the_same(gateway: Gateway) -> None:
    references = References.of(gateway)
    first = references.rewrite("ehr", '{"reference":"Patient/stranger"}')["reference"]
    assert first.startswith("Patient/p")
    assert references.rewrite("ehr", '{"reference":"Patient/stranger"}')["reference"] == first


def test_ids_fit_fhir() -> None:
    assert published_id("ehr", "1") == "ehr-1"
    long = published_id("e" * 32, "x" * 64)
    assert len(long) <= 64
    assert long != published_id("e" * 32, "x" * 63 + "y")
