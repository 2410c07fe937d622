"""What a client sees is what its registration says: clients x resources x interactions, and the ways around."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, client_for, enter
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.db.audience import Audience, label, labelled
from fhir_gateway.errors import InputError
from fhir_gateway.factory import Gateway
from fhir_gateway.measures.reports import summary
from fhir_gateway.server.app import create_app
from tests.support.results import cohort

pytestmark = pytest.mark.anyio

MEMBERS = ["p1", "p2", "p3", "p4", "p5"]
#: Lists: who is on them, whose entry is inactive, and who may see them.
LISTS: dict[str, tuple[list[str], list[str], list[dict[str, str]]]] = {
    "aco": (["p1", "p2"], ["p3"], [label("contract", "aco")]),
    "aco-111": (["p1"], ["p3"], [label("contract", "aco"), label("organization", "111")]),
    "aco-222": (["p2"], [], [label("contract", "aco"), label("organization", "222")]),
    "other": (["p4"], [], [label("contract", "other"), label("organization", "111")]),
    "nobodys": (["p5"], [], []),
}
GRANTS: dict[str, list[str] | None] = {
    "operator": None,
    "payer": ["contract:aco"],
    "practice": ["organization:111"],
    "both": ["organization:222", "contract:other"],
    "one-list": ["group:aco-222"],
    "stranger": ["organization:999"],
}
#: Whom each client sees, worked out by hand.
SEES: dict[str, dict[str, set[str]]] = {
    "operator": {"lists": set(LISTS), "persons": set(MEMBERS), "contracts": {"aco", "other"}},
    "payer": {"lists": {"aco", "aco-111", "aco-222"}, "persons": {"p1", "p2"}, "contracts": {"aco"}},
    "practice": {"lists": {"aco-111", "other"}, "persons": {"p1", "p4"}, "contracts": set()},
    "both": {"lists": {"aco-222", "other"}, "persons": {"p2", "p4"}, "contracts": {"other"}},
    "one-list": {"lists": {"aco-222"}, "persons": {"p2"}, "contracts": set()},
    "stranger": {"lists": set(), "persons": set(), "contracts": set()},
}
CLIENTS = sorted(GRANTS)


def _group(name: str) -> dict[str, Any]:
    active, inactive, labels = LISTS[name]
    entries = [{"entity": {"reference": f"Patient/{one}"}, "inactive": False} for one in active]
    entries += [{"entity": {"reference": f"Patient/{one}"}, "inactive": True} for one in inactive]
    group = {"resourceType": "Group", "id": name, "type": "person", "actual": True, "member": entries}
    return labelled(group, *labels, label("group", name))


def _contract(name: str) -> list[dict[str, Any]]:
    measure = {"resourceType": "Measure", "id": f"c-{name}", "url": f"http://example/{name}", "status": "active"}
    report = {
        "resourceType": "MeasureReport",
        "id": f"s-{name}",
        "status": "complete",
        "type": "summary",
        "measure": f"http://example/{name}",
        "subject": {"display": name},
        "period": {"start": "2025-01-01", "end": "2025-12-31"},
    }
    return [labelled(one, label("contract", name)) for one in (measure, report)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Face:
    """The HTTP face with one client of each kind."""

    def __init__(self, http: httpx.AsyncClient, headers: dict[str, Any], run: str) -> None:
        self.http, self.headers, self.run = http, headers, run

    async def get(self, client: str, path: str) -> httpx.Response:
        return await self.http.get(f"/fhir/{path}", headers=self.headers[client])

    async def ids(self, client: str, query: str) -> set[str]:
        """Ids of the matches on all pages of a search."""
        found: set[str] = set()
        url: str | None = f"{PUBLIC_URL}/fhir/{query}"
        while url:
            answer = await self.http.get(url, headers=self.headers[client])
            assert answer.status_code == 200, answer.text
            bundle = answer.json()
            found |= {one["resource"]["id"] for one in bundle.get("entry", ())}
            url = next((one["url"] for one in bundle["link"] if one["relation"] == "next"), None)
        return found


@pytest.fixture
async def face(tmp_path: Path) -> AsyncIterator[Face]:
    key = SecretStr(Fernet.generate_key().decode())
    settings = Settings(
        database_url=SecretStr("sqlite://"), encryption_key=key, public_url=PUBLIC_URL, data_dir=tmp_path / "data"
    )
    gateway = Gateway(settings)
    result = cohort(MEMBERS)
    run = gateway.results.save(result)
    resources: list[dict[str, Any]] = [
        {"resourceType": "Organization", "id": "us", "name": "Us"},
        {"resourceType": "Practitioner", "id": "dr"},
        {"resourceType": "Measure", "id": "m", "url": result.url, "version": result.version, "status": "active"},
        summary(result, {"reference": "Organization/us"}),
        *(_group(name) for name in LISTS),
        *_contract("aco"),
        *_contract("other"),
    ]
    for person in MEMBERS:
        resources.append({"resourceType": "Patient", "id": person, "name": [{"family": person}]})
        beneficiary = {"reference": f"Patient/{person}"}
        resources.append({"resourceType": "Coverage", "id": f"cov-{person}", "beneficiary": beneficiary})
    gateway.resources.put_many(resources)
    app = create_app(gateway)
    async with client_for(app) as http:
        headers = {}
        for name, grants in GRANTS.items():
            headers[name] = await enter(http, gateway, name, "system/*.rs", grants=grants)
        yield Face(http, headers, run)


def _expected(client: str, run: str) -> dict[str, set[str]]:
    """Ids of each type that the client may see, out of everything there is."""
    sees = SEES[client]
    reports = {f"s-{name}" for name in sees["contracts"]} | {f"{run}-{person}" for person in sees["persons"]}
    return {
        "Patient": sees["persons"],
        "Coverage": {f"cov-{person}" for person in sees["persons"]},
        "Group": sees["lists"],
        "Measure": {"m"} | {f"c-{name}" for name in sees["contracts"]},
        "MeasureReport": reports | ({run} if client == "operator" else set()),
        "Organization": {"us"},
        "Practitioner": {"dr"},
    }


@pytest.mark.parametrize("client", CLIENTS)
async def test_searches_show_what_is_the_clients_and_count_nothing_else(face: Face, client: str) -> None:
    for kind, expected in _expected(client, face.run).items():
        assert await face.ids(client, f"{kind}?_count=2") == expected, kind
        counted = (await face.get(client, f"{kind}?_summary=count")).json()["total"]
        assert counted == len(expected), kind


@pytest.mark.parametrize("client", CLIENTS)
async def test_reads_by_guessed_id_find_only_what_is_the_clients(face: Face, client: str) -> None:
    everything, mine = _expected("operator", face.run), _expected(client, face.run)
    for kind, ids in everything.items():
        for one in sorted(ids):
            path = f"{kind}/{one}"
            version = "_history/1"
            status = 200 if one in mine[kind] else 404
            hidden = await face.get(client, path)
            assert (hidden.status_code, (await face.get(client, f"{path}/{version}")).status_code) == (status, status)
            if status == 404:  # and the answer is that of an id that never was
                absent = await face.get(client, f"{kind}/never-was")
                said = [[(i["code"], i.get("diagnostics")) for i in x.json()["issue"]] for x in (hidden, absent)]
                assert said[0] == said[1], path


@pytest.mark.parametrize("client", ["payer", "practice", "stranger"])
@pytest.mark.parametrize(
    "query",
    [
        "Patient?_id=p5",
        "Patient?family=p5",
        "Patient?_id=p1,p2,p3,p4,p5&_sort=-_id",
        "Coverage?beneficiary=Patient/p5",
        "Coverage?patient=p5&_include=Coverage:patient",
        "Coverage?_include=Coverage:beneficiary",
        "Group?member=Patient/p5",
        "Group?member:Patient=p5",
        "Group?_include=Group:member",
        "MeasureReport?patient=p5",
        "MeasureReport?subject=Patient/p5&type=individual",
        "MeasureReport?type=summary",
        "MeasureReport?patient=p5&_include=MeasureReport:patient",
    ],
)
async def test_criteria_and_includes_lead_nowhere_else(face: Face, client: str, query: str) -> None:
    everything = set().union(*_expected(client, face.run).values())
    found = await face.ids(client, query)
    # a list of the client's own names persons that left it, but what is known of them is not the client's any more
    assert found <= everything
    assert not found & {"p5", "cov-p5", "nobodys", f"{face.run}-p5", face.run}


async def test_a_person_whose_entry_ended_is_no_longer_shown(face: Face) -> None:
    listed = (await face.get("practice", "Group/aco-111")).json()["member"]
    assert {one["entity"]["reference"]: one["inactive"] for one in listed} == {"Patient/p1": False, "Patient/p3": True}
    for path in ("Patient/p3", "Coverage/cov-p3", f"MeasureReport/{face.run}-p3"):
        assert (await face.get("practice", path)).status_code == 404


async def test_a_next_link_of_another_client_shows_its_bearer_only_what_is_theirs(face: Face) -> None:
    first = (await face.get("operator", "Patient?_count=1")).json()
    following = next(one["url"] for one in first["link"] if one["relation"] == "next")
    answer = await face.http.get(following, headers=face.headers["stranger"])
    assert answer.status_code == 200
    assert "entry" not in answer.json()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_operations_reach_no_further_than_reads(face: Face, method: str) -> None:
    query = "periodStart=2025-01-01&periodEnd=2025-12-31"
    for subject in ("Patient/p5", "Group/nobodys"):
        url = f"/fhir/Measure/m/$evaluate-measure?{query}&subject={subject}"
        answer = await face.http.request(method, url, headers=face.headers["practice"])
        assert answer.status_code == 404, answer.text


@pytest.mark.parametrize("grants", [["contract:"], ["patient:x"], ["contract"], ["organization:\x00"]])
def test_grants_of_no_kind_are_refused(grants: list[str]) -> None:
    with pytest.raises(InputError, match="a grant is"):
        Audience.of(grants)
