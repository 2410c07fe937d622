"""``Measure/$stratify``: strata of kept results, hidden numbers masked, each client over whom it sees."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
from fhir_face import client_for, enter
from typer.testing import CliRunner

from fhir_gateway.cli.app import app as command
from fhir_gateway.cli.context import Context
from fhir_gateway.cli.output import Output
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.equity import Question, newest_runs, social_risk_of, stratified
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.r4.models import validate
from fhir_gateway.server.app import create_app
from tests.support.deqm import DIABETES, Filled
from tests.support.results import proportion

pytestmark = pytest.mark.anyio

PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
YEAR = {"periodStart": "2025", "periodEnd": "2025"}
RACE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race"
#: race code: members, of whom so many met the measure
SENT = {"2106-3": (60, 45), "2054-5": (31, 15), "2028-9": (40, 20), "1002-5": (9, 4), None: (20, 12)}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def patients() -> list[dict[str, Any]]:
    found = []
    for code, (size, _) in SENT.items():
        for number in range(size):
            one: dict[str, Any] = {"resourceType": "Patient", "id": f"r{code}-{number}", "birthDate": "1950-01-01"}
            one |= {"gender": "female" if number % 2 else "male", "name": [{"family": f"F{code}x{number}"}]}
            if code:
                parts = [{"url": "ombCategory", "valueCoding": {"code": code}}, {"url": "text", "valueString": "x"}]
                one["extension"] = [{"url": RACE, "extension": parts}]
            found.append(one)
    return found


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    folder = tmp_path_factory.mktemp("equity")
    gateway = Filled(folder, [DIABETES]).gateway
    sent = folder / "more" / "patients.ndjson"
    sent.parent.mkdir()
    sent.write_text("".join(json.dumps(one) + "\n" for one in patients()), encoding="utf-8")
    pull_files(gateway, [sent.parent], "equity")
    _keep(gateway)
    persons = sorted(_persons(gateway).values())
    group = {"resourceType": "Group", "id": "aco", "type": "person", "actual": True}
    group["member"] = [{"entity": {"reference": f"Patient/{one}"}} for one in persons[:5]]
    gateway.resources.put_many([labelled(group, label("contract", "aco"))])
    return gateway


def _persons(gateway: Gateway) -> dict[str, str]:
    rows = gateway.lake.read("Patient", ["id"])
    ids = zip(rows["_source"].to_pylist(), rows["id"].to_pylist(), rows["_member"].to_pylist(), strict=True)
    return {resource: member for source, resource, member in ids if source == "equity"}


def _keep(gateway: Gateway) -> None:
    """A result of the diabetes measure over everybody in the lake."""
    package = gateway.measures.by_id(DIABETES)
    members = gateway.lake.members().to_pylist()
    met = {f"r{code}-{number}" for code, (_, of) in SENT.items() for number in range(of)}
    persons = _persons(gateway)
    known, done = set(persons.values()), {persons[one] for one in met}
    gateway.results.save(
        proportion(
            members, [one in done for one in members], initial=[one in known for one in members],
            improvement="decrease", url=package.url, version=package.version, name=package.name, title=package.title,
            period=PERIOD, lake_version=gateway.lake.version,
        )
    )  # fmt: skip


class Story:
    """Clients of the face."""

    def __init__(self, http: httpx.AsyncClient, headers: dict[str, Any]) -> None:
        self.http, self.headers = http, headers

    async def ask(self, client: str = "operator", path: str = "Measure/$stratify", **query: Any) -> httpx.Response:
        return await self.http.get(f"/fhir/{path}", params=YEAR | query, headers=self.headers[client])


@pytest.fixture(scope="module")
async def story(gateway: Gateway) -> AsyncIterator[Story]:
    async with client_for(create_app(gateway)) as http:
        headers = {}
        for name, grants, scopes in (
            ("operator", None, "system/*.rs"),
            ("aco", ["contract:aco"], "system/*.rs"),
            ("narrow", None, "system/Measure.rs system/MeasureReport.rs"),
        ):
            headers[name] = await enter(http, gateway, name + "-equity", scopes, grants=grants)
        yield Story(http, headers)


def stratum(report: dict[str, Any], dimension: str, code: str) -> dict[str, Any]:
    (stratifier,) = (one for one in report["group"][0]["stratifier"] if one["id"] == dimension)
    (found,) = (one for one in stratifier["stratum"] if one["value"]["coding"][0]["code"] == code)
    return found


def counts(stratum: dict[str, Any]) -> list[Any]:
    return [one.get("count", "masked" if "_count" in one else None) for one in stratum["population"]]


async def test_a_report_with_strata_and_what_is_masked(story: Story) -> None:
    answer = await story.ask(path=f"Measure/{DIABETES}/$stratify", dimension=["race", "sex"])
    assert answer.status_code == 200, answer.text
    (report,) = (one["resource"] for one in answer.json()["parameter"] if one["name"] == "return")
    validate(report)
    assert [one["id"] for one in report["group"][0]["stratifier"]] == ["race", "sex"]
    assert counts(report["group"][0]) == [160, 96]
    white = stratum(report, "race", "white")
    assert (counts(white), white["measureScore"]["value"]) == ([60, 45], 0.75)
    interval = white["measureScore"]["extension"][0]["valueRange"]
    assert (round(interval["low"]["value"], 3), round(interval["high"]["value"], 3)) == (0.628, 0.842)
    unknown = stratum(report, "race", "unknown")
    assert unknown["value"]["coding"][0]["system"].endswith("data-absent-reason")
    hidden = [
        code
        for code in ("american-indian", "asian", "black", "white", "unknown")
        if counts(stratum(report, "race", code)) == ["masked", "masked"]
    ]
    assert "american-indian" in hidden
    assert len(hidden) > 1
    assert all("measureScore" not in stratum(report, "race", code) for code in hidden)


async def test_a_client_is_answered_about_whom_it_sees(story: Story) -> None:
    """Five members of its list are too few for anything."""
    answer = await story.ask("aco")
    assert answer.status_code == 200, answer.text
    (only,) = answer.json()["parameter"]
    assert only["name"] == "outcome"
    assert only["resource"]["issue"][0]["code"] == "suppressed"
    assert (await story.ask("aco", subject="Group/nobodys")).status_code == 404
    assert (await story.ask("operator", subject="Group/aco")).json()["parameter"][0]["name"] == "outcome"


@pytest.mark.parametrize(
    ("client", "query", "status", "code"),
    [
        ("narrow", {}, 403, "forbidden"),
        ("operator", {"dimension": "shoe-size"}, 400, "invalid"),
        ("operator", {"subject": "Patient/p1"}, 400, "invalid"),
        ("operator", {"reference": "white"}, 400, "invalid"),
        ("operator", {"measureId": "none"}, 404, "not-found"),
        ("operator", {"periodStart": "2020", "periodEnd": "2020"}, 404, "not-found"),
    ],
)
async def test_what_is_refused(story: Story, client: str, query: dict[str, str], status: int, code: str) -> None:
    answer = await story.ask(client, **query)
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (status, code)


def test_the_same_whatever_is_asked(gateway: Gateway) -> None:
    """What one question hides no other shows: all are answered out of the same strata."""
    assert len(newest_runs(gateway, PERIOD)) == 1
    every = stratified(gateway, PERIOD, Question())
    one = stratified(gateway, PERIOD, Question(dimensions=("race",)))
    name = one.breakdowns[0].metric.id
    assert one.of(name, "race").cells == every.of(name, "race").cells
    risk = social_risk_of(gateway, PERIOD[1])
    assert risk.num_rows == len(gateway.lake.members())


def test_the_prompt_prints_strata_and_disparities(gateway: Gateway, tmp_path: Path) -> None:
    def run(*arguments: str, as_json: bool = False) -> str:
        here = Context(Output(as_json))
        here.__dict__["gateway"] = gateway
        from unittest.mock import patch

        with patch("fhir_gateway.cli.app.Context", return_value=here):
            result = CliRunner().invoke(command, list(arguments))
        assert result.exit_code == 0, result.output
        return result.stdout

    rows = list(
        csv.DictReader(io.StringIO(run("equity", "strata", "--period", "2025", "--dimension", "race", "--csv")))
    )
    white = next(one for one in rows if one["stratum"] == "white")
    assert (white["denominator"], white["numerator"], white["rate"]) == ("60", "45", "0.75")
    native = next(one for one in rows if one["stratum"] == "american-indian")
    assert (native["denominator"], native["suppressed"]) == ("", "True")
    unequal = list(
        csv.DictReader(io.StringIO(run("equity", "disparities", "--period", "2025", "--dimension", "race", "--csv")))
    )
    assert {one["reference"] for one in unequal} == {"white"}
    table = tmp_path / "adi.csv"
    table.write_text("fips,adi_natrank\n02115,50\n", encoding="utf-8")
    run("equity", "import", "adi", str(table), "--version", "1", "--source", "here")
    assert "adi.csv" in run("equity", "tables")
    population = list(csv.DictReader(io.StringIO(run("equity", "population", "--on", "2025-12-31", "--csv"))))
    assert {one["dimension"] for one in population} >= {"race", "adi-quintile"}
