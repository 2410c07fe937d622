"""Reports of utilization over HTTP: that of a contract for its parties, that of everybody for who sees everything."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, client_for, enter
from pydantic import SecretStr

from fhir_gateway.attribution.eligibility import MONTH_SCHEMA
from fhir_gateway.config import Settings
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.lake.claims import LINE_SCHEMA
from fhir_gateway.risk.utilization import Population, utilization
from fhir_gateway.risk.utilization.reports import canonical, measure, report
from fhir_gateway.server.app import create_app

pytestmark = pytest.mark.anyio
YEAR = (datetime(2025, 1, 1, tzinfo=UTC).date(), datetime(2025, 12, 31, tzinfo=UTC).date())
SEES = {"operator": {"whole", "aco"}, "payer": {"aco"}, "other": set(), "stranger": set()}
GRANTS = {"payer": ["contract:aco"], "other": ["contract:other"], "stranger": ["group:nobody"]}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("client", SEES)
async def test_who_reads_and_finds_which(tmp_path: Path, client: str) -> None:
    settings = Settings(
        database_url=SecretStr("sqlite://"),
        encryption_key=SecretStr(Fernet.generate_key().decode()),
        public_url=PUBLIC_URL,
        data_dir=tmp_path / "data",
    )
    gateway = Gateway(settings)
    months = pa.Table.from_pylist([{"member": "p", "month": YEAR[0], "months": Decimal(1)}], schema=MONTH_SCHEMA)
    found = utilization(LINE_SCHEMA.empty_table(), Population(months), YEAR)
    made = report(found, {"reference": "Organization/us"}, datetime(2026, 4, 1, tzinfo=UTC))
    gateway.resources.put_many(
        [
            measure(),
            {"resourceType": "Organization", "id": "us", "name": "Us"},
            {**made, "id": "whole"},
            labelled({**made, "id": "aco"}, label("contract", "aco")),
        ]
    )
    async with client_for(create_app(gateway)) as http:
        headers = await enter(http, gateway, client, "system/*.rs", grants=GRANTS.get(client))
        answer = await http.get(f"/fhir/MeasureReport?measure={canonical()}", headers=headers)
        assert answer.status_code == 200, answer.text
        assert {one["resource"]["id"] for one in answer.json().get("entry", ())} == SEES[client]
        assert answer.json()["total"] == len(SEES[client])
        for name in ("whole", "aco"):
            read = await http.get(f"/fhir/MeasureReport/{name}", headers=headers)
            assert read.status_code == (200 if name in SEES[client] else 404)
        assert (await http.get("/fhir/Measure/utilization", headers=headers)).status_code == 200
