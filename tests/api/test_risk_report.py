"""Coding gaps that were computed of a lake are what ``$report`` answers, and nobody sees those of others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, client_for, enter
from pydantic import SecretStr

from fhir_gateway.db.audience import label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.risk_gaps import compute_gaps
from fhir_gateway.server.app import create_app
from tests.support.risk_lake import ICD, RESOURCES, coverage, lake_of, patient, person

pytestmark = pytest.mark.anyio

LOINC = "http://loinc.org"


def suspected(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": kind, "id": name, "subject": {"reference": "Patient/s"}, **more}


def hba1c(name: str, day: str) -> dict[str, Any]:
    value = {"value": 7.5, "unit": "%", "system": "http://unitsofmeasure.org", "code": "%"}
    code = {"coding": [{"system": LOINC, "code": "4548-4"}]}
    return suspected("Observation", name, status="final", code=code, effectiveDateTime=day, valueQuantity=value)


#: A member with no claim that counts, and evidence of each kind; the third value is of nobody's suspicion.
SUSPECTED = [
    patient("s", "1950-01-01"),
    coverage("s", orec="0", crec="0", dual_01="NA", rfrnc_yr="2026"),
    hba1c("o1", "2025-03-01"),
    hba1c("o2", "2025-08-01"),
    hba1c("o3", "2020-08-01"),
    suspected(
        "MedicationRequest",
        "m1",
        status="active",
        intent="order",
        authoredOn="2025-02-01",
        medicationCodeableConcept={"text": "Donepezil 10 mg"},
    ),
    suspected(
        "Condition",
        "k1",
        code={"coding": [{"system": ICD, "code": "I50.22"}]},
        clinicalStatus={
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]
        },
        recordedDate="2025-02-01",
    ),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    key = SecretStr(Fernet.generate_key().decode())
    gateway = lake_of(
        tmp_path_factory.mktemp("report"), [*RESOURCES, *SUSPECTED], public_url=PUBLIC_URL, encryption_key=key
    )
    group: dict[str, Any] = {"resourceType": "Group", "id": "list", "type": "person", "actual": True}
    group["member"] = [{"entity": {"reference": f"Patient/{person(gateway, 'a')}"}}]
    gateway.resources.put_many([labelled(group, label("organization", "111"))])
    compute_gaps(gateway, "V28", 2026, now=datetime(2026, 1, 10, tzinfo=UTC), rate=Decimal(12_000))
    return gateway


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with client_for(create_app(gateway)) as http:
        yield http


PERIOD = {"periodStart": "2025-01-01", "periodEnd": "2025-12-31"}


async def test_gaps_of_the_lake_are_reported(gateway: Gateway, http: httpx.AsyncClient) -> None:
    headers = await enter(http, gateway, "operator", "system/*.rs")
    subject = {"subject": f"Patient/{person(gateway, 'a')}"}
    answer = await http.get("/fhir/MeasureReport/$report", params=PERIOD | subject, headers=headers)
    assert answer.status_code == 200, answer.text
    (returned,) = answer.json()["parameter"]
    found = [one["resource"] for one in returned["resource"]["entry"]]
    (report,) = [one for one in found if one["resourceType"] == "MeasureReport"]
    assert report["measure"] == "https://fhir-gateway.example/fhir/Measure/cms-hcc-v28|28"
    codes = {one["code"]["coding"][0]["code"]: one["code"]["text"] for one in report["group"]}
    assert codes["37"] == "HCC 37: Diabetes with Chronic Complications"
    assert "ExplanationOfBenefit/payer-a4" in {one["reference"] for one in report["evaluatedResource"]}
    assert gateway.validator.validate(report).valid
    measure = (await http.get("/fhir/Measure/cms-hcc-v28", headers=headers)).json()
    assert measure["identifier"][0]["value"] == "CMS-HCC"
    of_it = await http.get("/fhir/Measure/cms-hcc-v28/$ra.evaluate-measure", params=PERIOD | subject, headers=headers)
    assert of_it.status_code == 200, of_it.text


def entries(answer: httpx.Response) -> dict[str, dict[str, Any]]:
    (returned,) = answer.json()["parameter"]
    found = [one["resource"] for one in returned["resource"]["entry"]]
    return {f"{one['resourceType']}/{one['id']}": one for one in found}


async def test_the_evidence_that_a_report_names_is_in_its_bundle(gateway: Gateway, http: httpx.AsyncClient) -> None:
    headers = await enter(http, gateway, "auditor", "system/*.rs")
    for name in ("a", "s"):
        subject = {"subject": f"Patient/{person(gateway, name)}"}
        answer = await http.get("/fhir/MeasureReport/$report", params=PERIOD | subject, headers=headers)
        found = entries(answer)
        named = {
            one["reference"] for key in found if key.startswith("Measure") for one in found[key]["evaluatedResource"]
        }
        assert named
        assert set(found) == named | {key for key in found if key.partition("/")[0] in ("Patient", "MeasureReport")}
        for key in named:
            kind = "patient" if key.startswith("ExplanationOfBenefit") else "subject"
            assert found[key][kind]["reference"] == subject["subject"]
    assert {one.partition("/")[0] for one in named} >= {"Observation", "MedicationRequest", "Condition"}


async def test_evidence_comes_along_as_far_as_it_may_be_read(gateway: Gateway, http: httpx.AsyncClient) -> None:
    subject = {"subject": f"Patient/{person(gateway, 's')}"}
    base = "system/Patient.r system/MeasureReport.r"
    for number, (more, kinds) in enumerate(
        {
            "": set(),
            "system/Condition.r": {"Condition"},
            "system/Observation.r?category=laboratory": set(),  # theirs has no category
        }.items()
    ):
        headers = await enter(http, gateway, f"narrow-{number}", f"{base} {more}".strip())
        answer = await http.get("/fhir/MeasureReport/$report", params=PERIOD | subject, headers=headers)
        found = entries(answer)
        assert {one.partition("/")[0] for one in found} == {"Patient", "MeasureReport"} | kinds
        (report,) = [one for one in found.values() if one["resourceType"] == "MeasureReport"]
        assert report["evaluatedResource"]


async def test_a_practice_sees_the_gaps_of_its_own(gateway: Gateway, http: httpx.AsyncClient) -> None:
    headers = await enter(http, gateway, "practice", "system/*.rs", grants=["organization:111"])
    for name, status in (("a", 200), ("b", 404)):
        params = PERIOD | {"subject": f"Patient/{person(gateway, name)}"}
        answer = await http.get("/fhir/MeasureReport/$report", params=params, headers=headers)
        assert answer.status_code == status


async def test_what_was_not_computed_is_said_so(gateway: Gateway, http: httpx.AsyncClient) -> None:
    headers = await enter(http, gateway, "later", "system/*.rs")
    asked = {"periodStart": "2023-01-01", "periodEnd": "2023-12-31", "subject": f"Patient/{person(gateway, 'a')}"}
    answer = await http.get("/fhir/MeasureReport/$report", params=asked, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["issue"][0]["code"] == "not-supported"
