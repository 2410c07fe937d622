"""Coding gap reports: what the risk room computed, in the shape of RA; and never what nobody computed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from fhir_face import BASE, client_for, enter, new_gateway

from fhir_gateway.db.audience import label, labelled
from fhir_gateway.errors import ResourceError
from fhir_gateway.factory import Gateway
from fhir_gateway.risk import CodingGaps, ConditionCategory, RiskModel, coding_gap_report
from fhir_gateway.server.app import create_app

pytestmark = pytest.mark.anyio

RA = "http://hl7.org/fhir/us/davinci-ra/StructureDefinition/"
PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
MODEL = RiskModel("https://models.example/cms-hcc", "28", ("https://models.example", "CMS-HCC"), measure_id="hcc")
NOW = datetime(2026, 1, 15, tzinfo=UTC)
DIABETES = ConditionCategory(
    "36", "Diabetes", "historic", "open-gap", date(2025, 6, 1), "applied-not-superseded", ("E11.9",), ("Coverage/c1",)
)
HEART = ConditionCategory("226", "Heart failure", "net-new", "pending", hierarchical_status="applied-superseded")


class Computed:
    """A risk room that has results for one year and two members."""

    def models(self) -> Sequence[RiskModel]:
        return [MODEL]

    def gaps(self, model: RiskModel, period: tuple[date, date], persons: Sequence[str]) -> list[CodingGaps] | None:
        if period[0].year != 2025:
            return None
        found = {"p1": (DIABETES, HEART), "p9": (HEART,)}
        return [CodingGaps(one, model, PERIOD, NOW, found[one]) for one in persons if one in found]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Story:
    """The face with an operator and a practice."""

    def __init__(self, http: httpx.AsyncClient, gateway: Gateway, headers: dict[str, Any]) -> None:
        self.http, self.gateway, self.headers = http, gateway, headers

    async def ask(self, path: str, client: str = "operator", **query: str) -> httpx.Response:
        period = {"periodStart": "2025-01-01", "periodEnd": "2025-12-31"}
        return await self.http.get(f"/fhir/{path}", params=period | query, headers=self.headers[client])


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    gateway = Gateway(new_gateway().settings.model_copy(update={"data_dir": tmp_path / "data"}))
    group = {"resourceType": "Group", "id": "list", "type": "person", "actual": True}
    group["member"] = [{"entity": {"reference": f"Patient/{one}"}} for one in ("p1", "p2")]
    gateway.resources.put_many(
        [
            *({"resourceType": "Patient", "id": one} for one in ("p1", "p2", "p9")),
            {"resourceType": "Coverage", "id": "c1", "beneficiary": {"reference": "Patient/p1"}},
            labelled(group, label("organization", "111")),
        ]
    )
    gateway.__dict__["coding_gaps"] = (Computed(),)
    async with client_for(create_app(gateway)) as http:
        headers = {}
        narrow = "system/Patient.r system/MeasureReport.r"
        for name, grants, scopes in (
            ("operator", None, "system/*.rs"),
            ("practice", ["organization:111"], "system/*.rs"),
            ("narrow", None, narrow),
            ("clinic", ["organization:111"], "system/*.cruds"),
        ):
            headers[name] = await enter(http, gateway, name, scopes, grants=grants)
        yield Story(http, gateway, headers)


def codes(element: dict[str, Any], name: str) -> list[str]:
    return [
        one["valueCodeableConcept"]["coding"][0]["code"]
        for one in element.get("extension", ())
        if one["url"] == RA + name
    ]


@pytest.mark.parametrize(
    "path",
    [
        "MeasureReport/$report",
        "Measure/$ra.evaluate-measure?measureUrl=https://models.example/cms-hcc|28",
        "Measure/hcc/$ra.evaluate-measure",
    ],
)
async def test_a_member_has_one_report_for_each_model(story: Story, path: str) -> None:
    query = dict(pair.split("=") for pair in path.partition("?")[2].split("&") if pair)
    answer = await story.ask(path.partition("?")[0], subject="Patient/p1", **query)
    assert answer.status_code == 200, answer.text
    (returned,) = answer.json()["parameter"]
    bundle = returned["resource"]
    assert returned["name"] == "return"
    assert [one["resource"]["resourceType"] for one in bundle["entry"]] == ["Patient", "MeasureReport", "Coverage"]
    assert bundle["meta"]["profile"] == [RA + "ra-measurereport-bundle"]
    report = bundle["entry"][1]["resource"]
    assert bundle["entry"][1]["fullUrl"] == f"{BASE}/MeasureReport/{report['id']}"
    assert (report["type"], report["measure"]) == ("individual", "https://models.example/cms-hcc|28")
    first, second = report["group"]
    assert first["code"]["coding"][0] == {
        "system": "http://terminology.hl7.org/CodeSystem/cmshcc",
        "version": "28",
        "code": "36",
        "display": "Diabetes",
    }
    assert (codes(first, "ra-ccType"), codes(first, "ra-evidenceStatus")) == (["historic"], ["open-gap"])
    assert (codes(second, "ra-ccType"), codes(second, "ra-hierarchicalStatus")) == (["net-new"], ["applied-superseded"])
    (evidence,) = report["evaluatedResource"]
    assert evidence["reference"] == "Coverage/c1"
    assert evidence["extension"] == [{"url": RA + "ra-groupReference", "valueString": first["id"]}]


async def test_what_was_answered_is_found_and_remarked_on(story: Story) -> None:
    def reported(answer: httpx.Response) -> dict[str, Any]:
        found = [one["resource"] for one in answer.json()["parameter"][0]["resource"]["entry"]]
        (report,) = [one for one in found if one["resourceType"] == "MeasureReport"]
        return dict(report)

    report = reported(await story.ask("MeasureReport/$report", "clinic", subject="Patient/p1"))
    headers = story.headers["clinic"]
    path = f"/fhir/MeasureReport/{report['id']}"
    assert (await story.http.get(path, headers=headers)).json() == report
    query = {"category": "ra", "patient": "Patient/p1", "period": "ge2025-01-01"}
    found = (await story.http.get("/fhir/MeasureReport", params=query, headers=headers)).json()
    assert [one["resource"] for one in found["entry"]] == [report]
    remark = {"url": f"{RA}ra-ccRemark", "extension": [{"url": "text", "valueString": "echo done"}]}
    added = [{"op": "add", "path": "/group/0/extension/-", "value": remark}]
    patch = {**headers, "Content-Type": "application/json-patch+json"}
    patched = await story.http.patch(path, content=orjson.dumps(added), headers=patch)
    assert patched.status_code == 200, patched.text
    assert reported(await story.ask("MeasureReport/$report", "clinic", subject="Patient/p1")) == patched.json()
    remarked = patched.json()["group"][0]
    assert codes(remarked, "ra-evidenceStatus") == codes(report["group"][0], "ra-evidenceStatus")
    others = await story.ask("MeasureReport/$report", subject="Patient/p9")
    hidden = await story.http.patch(
        f"/fhir/MeasureReport/{reported(others)['id']}", content=orjson.dumps(added), headers=patch
    )
    assert hidden.status_code == 404


async def test_of_a_list_everybody_has_a_bundle_also_without_gaps(story: Story) -> None:
    answer = await story.ask("MeasureReport/$report", "practice", subject="Group/list")
    assert answer.status_code == 200, answer.text
    found = [[e["resource"]["resourceType"] for e in one["resource"]["entry"]] for one in answer.json()["parameter"]]
    assert found == [["Patient", "MeasureReport", "Coverage"], ["Patient"]]


async def test_evidence_beyond_the_scopes_stays_away(story: Story) -> None:
    answer = await story.ask("MeasureReport/$report", "narrow", subject="Patient/p1")
    (returned,) = answer.json()["parameter"]
    assert [one["resource"]["resourceType"] for one in returned["resource"]["entry"]] == ["Patient", "MeasureReport"]


@pytest.mark.parametrize(
    ("path", "client", "query", "status", "code"),
    [
        ("MeasureReport/$report", "practice", {"subject": "Patient/p9"}, 404, "not-found"),
        (
            "MeasureReport/$report",
            "operator",
            {"subject": "Patient/p1", "periodStart": "2024", "periodEnd": "2024"},
            422,
            "not-supported",
        ),
        ("MeasureReport/$report", "operator", {"subject": "Patient/p1", "measureId": "other"}, 404, "not-found"),
        ("MeasureReport/$report", "operator", {}, 400, "invalid"),
        ("MeasureReport/$report", "operator", {"subject": "p1"}, 400, "invalid"),
        ("Measure/$ra.evaluate-measure", "operator", {"subject": "Patient/p1"}, 400, "invalid"),
        ("Measure/hcc/$ra.evaluate-measure", "operator", {"subject": "Patient/p1", "measureId": "hcc"}, 400, "invalid"),
    ],
)
async def test_what_is_not_there_or_not_computed_is_said(
    story: Story, path: str, client: str, query: dict[str, str], status: int, code: str
) -> None:
    answer = await story.ask(path, client, **query)
    assert answer.status_code == status, answer.text
    assert answer.json()["issue"][0]["code"] == code


async def test_without_a_model_nothing_is_reported(story: Story) -> None:
    story.gateway.__dict__["coding_gaps"] = ()
    answer = await story.ask("MeasureReport/$report", subject="Patient/p1")
    assert answer.status_code == 422
    (issue,) = answer.json()["issue"]
    assert (issue["severity"], issue["code"]) == ("error", "not-supported")
    assert "no risk adjustment model is computed here" in issue["diagnostics"]


@pytest.mark.parametrize(
    "categories",
    [
        (DIABETES, DIABETES),
        (ConditionCategory("1", "x", "net-new", "open-gap"),),
        (ConditionCategory("1", "x", "historic", "closed-gap", date(2026, 2, 1)),),
    ],
)
def test_what_ra_does_not_allow_is_not_rendered(categories: tuple[ConditionCategory, ...]) -> None:
    with pytest.raises(ResourceError):
        coding_gap_report(CodingGaps("p1", MODEL, PERIOD, NOW, categories), {"reference": "Organization/us"})
