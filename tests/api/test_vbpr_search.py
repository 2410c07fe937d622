"""What clients of value-based performance reports ask (VBPR 1.1.0 section search), in both spellings of its guide."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, authorize, client_for, register
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.contracts import Contract, Exposure, MeasureScore, SettlementInputs, settle, vbpr
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app

pytestmark = pytest.mark.anyio

CONTRACT = Path(__file__).parents[2] / "fhir_gateway" / "demo" / "contracts"
ISSUED = datetime(2026, 4, 15, 12, tzinfo=UTC)


def resources() -> tuple[Contract, list[dict[str, Any]]]:
    """A settled contract as it is served, with the Organization it is about."""
    contract = Contract.load(sorted(CONTRACT.glob("*.toml"))[0])
    cost = Decimal("1659816.59")
    exposure = Exposure(940, Decimal(10772), cost * Decimal("1.005"), cost, cost, 0)
    rates = {"1": Decimal("0.3"), "/(10*3.a)": Decimal("231.5")}
    outcomes = {one.id: MeasureScore(30, 100, rates[one.unit]) for one in contract.measures}
    settlement = settle(contract, SettlementInputs(exposure, outcomes))
    numbers = [contract.provider.identifier.value, *contract.provider.tins]
    quality = [
        vbpr.quality_report(
            {
                "resourceType": "MeasureReport",
                "id": f"q-{one.id}",
                "status": "complete",
                "type": "summary",
                "measure": one.canonical,
                "period": {"start": "2025-01-01", "end": "2025-12-31"},
            },
            settlement,
            one.id,
        )
        for one in contract.measures
    ]
    report = vbpr.performance_report(
        settlement,
        contract,
        report_id="performance",
        issued=ISSUED,
        quality_reports={one.id: f"MeasureReport/q-{one.id}" for one in contract.measures},
        organizations=dict.fromkeys(numbers, "Organization/clinic"),
    )
    return contract, [vbpr.measure(contract), report, *quality, {"resourceType": "Organization", "id": "clinic"}]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[tuple[Contract, httpx.AsyncClient]]:
    key = SecretStr(Fernet.generate_key().decode())
    gateway = Gateway(
        Settings(database_url=SecretStr("sqlite://"), encryption_key=key, public_url=PUBLIC_URL, data_dir=tmp_path)
    )
    contract, served = resources()
    gateway.resources.put_many(served)
    signing = register(gateway, "provider", "system/*.rs")
    async with client_for(create_app(gateway)) as http:
        http.headers.update(await authorize(http, "provider", signing, "system/*.rs"))
        yield contract, http


async def found(http: httpx.AsyncClient, query: str) -> dict[str, set[str]]:
    answer = await http.get(f"/fhir/{query}", headers={"Prefer": "handling=strict"})
    assert answer.status_code == 200, answer.text
    ids: dict[str, set[str]] = {"match": set(), "include": set()}
    for one in answer.json().get("entry", ()):
        ids[one["search"]["mode"]].add(one["resource"]["id"])
    return ids


async def test_the_query_of_the_guide_brings_the_report_with_its_quality_reports(
    asked: tuple[Contract, httpx.AsyncClient],
) -> None:
    contract, http = asked
    wanted = {"match": {"performance"}, "include": {f"q-{one.id}" for one in contract.measures}}
    for category, organization, include in (
        ("category", "subject-organization", "evaluated-resource"),
        ("measurereport-category", "measurereport-subject-organization", "evaluatedResource"),
    ):
        query = (
            f"MeasureReport?{category}=vbp&{organization}=Organization/clinic&period=ge2025-01-01"
            f"&_include=MeasureReport:{include}"
        )
        assert await found(http, query) == wanted
    assert await found(http, "MeasureReport?category=vbp&subject-organization=Organization/other") == {
        "match": set(),
        "include": set(),
    }


async def test_every_parameter_of_the_guide_selects(asked: tuple[Contract, httpx.AsyncClient]) -> None:
    contract, http = asked
    number = quote(f"{contract.identifier.system}|{contract.identifier.value}/performance")
    canonical = quote(vbpr.measure_canonical(contract))
    for criterion in (
        "date=2026-04-15",
        f"evaluated-resource=MeasureReport/q-{contract.measures[0].id}",
        f"identifier={number}",
        f"measure={canonical}",
        f"measure={quote(contract.url)}",
        "period=2025&category=vbp",
        "status=complete&category=http://hl7.org/fhir/CodeSystem/measurereport-category|vbp",
        'category="vbp"',  # an example of the RA guide quotes it
    ):
        assert (await found(http, f"MeasureReport?{criterion}"))["match"] == {"performance"}, criterion
    components = {one.canonical for one in contract.measures}
    measure = (await http.get(f"/fhir/Measure?url={quote(contract.url)}&version={contract.version}")).json()
    (entry,) = measure["entry"]
    assert {one["resource"] for one in entry["resource"]["relatedArtifact"]} == components
