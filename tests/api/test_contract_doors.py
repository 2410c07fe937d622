"""What the parties of a contract ask about a settlement and a roster: payment rows, reasons; nobody sees others'."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, client_for, enter
from pydantic import SecretStr

from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.settle import SettlementReport, settle
from fhir_gateway.sandbox.population import generate
from fhir_gateway.server.app import create_app
from tests.support.sandbox_contracts import contract_terms, pull_population, tins_of, write_contract

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 4, 1, tzinfo=UTC)
PAYMENTS = [
    {"kind": "capitation", "id": "cap", "pool": "cap", "add_ons": [{"id": "coordination", "pmpm": "3.05"}]},
    {"kind": "care_management_fee", "id": "fee", "pool": "fee", "fees": [{"pmpm": 6}]},
]
RATES = "cell,rate,age_from,age_through\nyoung,120.25,,39\nold,210.5,40,\n"


class World:
    """A settled contract, and clients with their grants."""

    def __init__(self, gateway: Gateway, settled: SettlementReport, tins: list[str]) -> None:
        self.gateway, self.settled, self.tins = gateway, settled, tins
        self.http = client_for(create_app(gateway))
        self.headers: dict[str, dict[str, str]] = {}

    async def rows(self, client: str, **parameters: str) -> httpx.Response:
        path = f"/fhir/MeasureReport/{self.settled.report}/$payment-rows"
        return await self.http.get(path, params=parameters, headers=self.headers[client])

    async def reasons(self, client: str, roster: str) -> dict[str, tuple[str, str | None]]:
        given = [{"name": "csv", "valueString": roster}]
        body = {"resourceType": "Parameters", "parameter": given}
        answer = await self.http.post("/fhir/Group/aco/$reconcile", json=body, headers=self.headers[client])
        assert answer.status_code == 200, answer.text
        found = {}
        for one in answer.json()["parameter"]:
            if one["name"] == "difference":
                parts = {part["name"]: part for part in one["part"]}
                reason = parts.get("reason", {}).get("valueCode")
                found[parts["named"]["valueString"]] = (parts["finding"]["valueCode"], reason)
        return found


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Gateway, SettlementReport, list[str]]:
    folder = tmp_path_factory.mktemp("population") / "all"
    generate(folder, patients=60, seed=11, year=2025)
    key = SecretStr(Fernet.generate_key().decode())
    gateway = pull_population(folder, tmp_path_factory.mktemp("doors"), encryption_key=key, public_url=PUBLIC_URL)
    tins = tins_of(folder)
    contracts = gateway.data_folder / "contracts"
    terms = contract_terms("aco", tins, hcp_lan="4A", arrangements=PAYMENTS, tables={"rates": {"path": "rates.csv"}})
    write_contract(contracts, terms, "aco")
    (contracts / "rates.csv").write_text(RATES)
    return gateway, settle(gateway, "aco", now=NOW), tins


@pytest.fixture
async def world(settled: tuple[Gateway, SettlementReport, list[str]]) -> AsyncIterator[World]:
    world = World(*settled)
    grants = {
        "operator": {},
        "payer": {"grants": ["contract:aco"]},
        "practice": {"grants": [f"organization:{world.tins[0]}"]},
        "stranger": {"grants": ["contract:other"]},
    }
    async with world.http:
        for name, more in grants.items():
            known = f"{name}-{len(world.gateway.authorization.clients())}"
            world.headers[name] = await enter(world.http, world.gateway, known, "system/*.rs", **more)
        named = f"reports-{len(world.gateway.authorization.clients())}"
        world.headers["no persons"] = await enter(world.http, world.gateway, named, "system/MeasureReport.rs")
        yield world


def read(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


async def test_rows_sum_to_the_lines_of_the_settlement(world: World) -> None:
    everything = read(await world.rows("operator", arrangement="cap"))
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for row in everything:
        sums[row["rule"]] += Decimal(row["amount"])
    settlement = world.settled.settlement
    assert sums["base"] == settlement.line("cap.capitation").value
    assert sums["add-on.coordination"] == settlement.line("cap.add-on.coordination").value
    assert {row["rule"] for row in everything} == {"base", "add-on.coordination"}
    assert read(await world.rows("payer", arrangement="cap")) == everything
    member = everything[0]["member"]
    mine = read(await world.rows("payer", arrangement="cap", member=f"Patient/{member}", rule="base"))
    assert mine == [row for row in everything if row["member"] == member and row["rule"] == "base"]


async def test_rows_come_in_parts_and_forms(world: World) -> None:
    whole = await world.rows("payer", arrangement="fee")
    rows = read(whole)
    assert whole.headers["content-type"].startswith("text/csv")
    assert whole.headers["x-total-count"] == str(len(rows))
    parts = [read(await world.rows("payer", arrangement="fee", _count="7", _offset=str(at))) for at in (0, 7)]
    assert [*parts[0], *parts[1]] == rows[:14]
    lines = (await world.rows("payer", arrangement="fee", _outputFormat="ndjson")).text.splitlines()
    assert [json.loads(line)["amount"] for line in lines] == [row["amount"] for row in rows]
    path = f"/fhir/MeasureReport/{world.settled.report}/$payment-rows?arrangement=fee"
    wrapped = await world.http.get(path, headers=world.headers["payer"] | {"Accept": "application/fhir+json"})
    assert (wrapped.json()["resourceType"], wrapped.json()["contentType"]) == ("Binary", "text/csv")
    assert base64.b64decode(wrapped.json()["data"]).decode() == whole.text


@pytest.mark.parametrize(
    ("client", "parameters", "status"),
    [
        ("stranger", {"arrangement": "cap"}, 404),
        ("practice", {"arrangement": "cap"}, 404),  # settlements are the contract's parties'
        ("no persons", {"arrangement": "cap"}, 403),
        ("payer", {}, 400),  # two arrangements have rows
        ("payer", {"arrangement": "other"}, 400),
        ("payer", {"arrangement": "cap", "_count": "many"}, 400),
        ("payer", {"arrangement": "cap", "_outputFormat": "pdf"}, 400),
        ("payer", {"arrangement": "cap", "colour": "red"}, 400),
        ("payer", {"arrangement": "cap", "member": "Group/aco"}, 400),
    ],
)
async def test_who_may_not_and_what_is_wrong(
    world: World, client: str, parameters: dict[str, str], status: int
) -> None:
    answer = await world.rows(client, **parameters)
    assert answer.status_code == status, answer.text
    assert answer.json()["resourceType"] == "OperationOutcome"


async def test_a_report_that_settles_nothing_has_no_rows(world: World) -> None:
    quality = "/fhir/MeasureReport/nothing/$payment-rows"
    assert (await world.http.get(quality, headers=world.headers["payer"])).status_code == 404


async def test_rosters_that_differ_have_reasons(world: World) -> None:
    members = world.settled.attribution.members.to_pylist()
    person = sorted(set(world.gateway.lake.members().to_pylist()) - set(members))[0]
    numbers = {
        one: world.gateway.resources.read("Patient", one).json()["identifier"][0]["value"] for one in [*members, person]
    }
    listed = [f"{numbers[one]},{world.tins[0]}" for one in members[1:]]
    roster = "\n".join(["member_id,provider_tin", *listed, f"{numbers[person]},999999999", "X-1,"])
    found = await world.reasons("operator", roster)
    assert found["X-1"] == ("unknown-member", "unknown-member")
    assert found[numbers[person]] == ("only-theirs", "tin-roster")
    assert found[f"Patient/{members[0]}"][0] == "only-ours"
    assert {reason for finding, reason in found.values() if finding == "different-provider"} <= {"provider"}
    assert None not in {reason for _, reason in found.values()}
    # whom the payer does not see is nobody to it, and so is the reason
    theirs = await world.reasons("payer", roster)
    assert theirs[numbers[person]] == ("unknown-member", "unknown-member")


def test_the_prompt_writes_them_too(
    settled: tuple[Gateway, SettlementReport, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from fhir_gateway.cli.app import app

    gateway, report, _ = settled
    command = ["--data-dir", str(gateway.settings.data_dir), "--json", "contract", "audit", report.report]
    runner = CliRunner()
    out = tmp_path / "rows.csv"
    written = runner.invoke(app, [*command, "--arrangement", "fee", "--out", str(out)])
    assert written.exit_code == 0, written.output
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    total = sum(Decimal(row["amount"]) for row in rows if row["status"] == "paid")
    shown: Any = json.loads(runner.invoke(app, [*command, "--arrangement", "fee"]).stdout)
    assert Decimal(next(one["amount"] for one in shown if one["status"] == "paid")) == total
    assert runner.invoke(app, [*command, "--arrangement", "nothing"]).exit_code != 0
