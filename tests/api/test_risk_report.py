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
from tests.support.risk_lake import lake_of, person

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    key = SecretStr(Fernet.generate_key().decode())
    gateway = lake_of(tmp_path_factory.mktemp("report"), public_url=PUBLIC_URL, encryption_key=key)
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
