"""Clinical and claims resources by REST: what a sender pushed, read and searched for the persons it is about."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from fhir_face import BASE, PUBLIC_URL, authorize, client_for, register
from joserfc.jwk import ECKey
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app
from fhir_gateway.server.clinical import MOST_PERSONS
from fhir_gateway.server.imports import source_name

pytestmark = pytest.mark.anyio

LOINC = "http://loinc.org"
A1C, PULSE = {"system": LOINC, "code": "4548-4"}, {"system": LOINC, "code": "8867-4"}
LONG = "x" * 60


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def observation(id: str, patient: str, code: Mapping[str, str], when: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": id,
        "status": "final",
        "code": {"coding": [code]},
        "subject": {"reference": f"Patient/{patient}"},
        "encounter": {"reference": "Encounter/e1"},
        "effectiveDateTime": when,
    }


RESOURCES: list[dict[str, Any]] = [
    *({"resourceType": "Patient", "id": id, "name": [{"family": name}]} for id, name in (("a", "Ash"), ("b", "Birch"))),
    {
        "resourceType": "Encounter",
        "id": "e1",
        "status": "finished",
        "class": {"code": "AMB"},
        "subject": {"reference": "Patient/a"},
    },
    observation("o1", "a", A1C, "2025-01-05"),
    observation("o2", "a", A1C, "2025-03-05"),
    observation(LONG, "a", PULSE, "2025-02-05"),
    observation("o4", "b", A1C, "2025-02-01"),
]
SCOPES = "system/*.rs"
CLIENTS: dict[str, tuple[str, list[str] | None]] = {
    "reader": (SCOPES, None),
    "practice": (SCOPES, ["organization:1"]),
    "pulse": (f"system/Observation.rs?code={LOINC}|8867-4 system/Patient.rs", None),
    "only-observations": ("system/Observation.rs", None),
}


class Face:
    def __init__(self, gateway: Gateway, http: httpx.AsyncClient) -> None:
        self.gateway, self.http = gateway, http
        self.headers: dict[str, Mapping[str, str]] = {}
        self.persons: dict[str, str] = {}

    async def get(self, path: str, client: str = "reader", status: int = 200) -> dict[str, Any]:
        answered = await self.http.get(f"/fhir/{path}", headers=self.headers[client])
        assert answered.status_code == status, answered.text
        found: dict[str, Any] = answered.json()
        return found

    async def ids(self, path: str, client: str = "reader") -> list[str]:
        entries = (await self.get(path, client)).get("entry", [])
        prefix = f"{source_name('sender')}-"
        return [one["resource"]["id"].removeprefix(prefix) for one in entries if one["search"]["mode"] == "match"]


@pytest.fixture
async def face(tmp_path: Path) -> AsyncIterator[Face]:
    key = SecretStr(Fernet.generate_key().decode())
    gateway = Gateway(Settings(data_dir=tmp_path, encryption_key=key, public_url=PUBLIC_URL, lake_buckets=2))
    keys: dict[str, ECKey] = {"sender": register(gateway, "sender", "system/*.cu")}
    for name, (scopes, grants) in CLIENTS.items():
        keys[name] = register(gateway, name, scopes, grants=grants)
    async with client_for(create_app(gateway)) as http:
        here = Face(gateway, http)
        sent = await authorize(http, "sender", keys["sender"], "system/*.cu")
        body = "\n".join(map(json.dumps, RESOURCES)).encode()
        answered = await http.post(
            "/fhir/$import", content=body, headers={**sent, "Content-Type": "application/fhir+ndjson"}
        )
        assert answered.status_code == 200, answered.text
        for name, (scopes, _) in CLIENTS.items():
            here.headers[name] = await authorize(http, name, keys[name], scopes)
        for family in ("Ash", "Birch"):
            found = await here.get(f"Patient?family={family}")
            here.persons[family] = found["entry"][0]["resource"]["id"]
        listed = {
            "resourceType": "Group",
            "id": "list",
            "type": "person",
            "actual": True,
            "member": [{"entity": {"reference": f"Patient/{here.persons['Birch']}"}}],
        }
        gateway.resources.put(labelled(listed, label("organization", "1")))
        yield here


async def test_a_resource_is_read_under_our_id_about_the_person(face: Face) -> None:
    source, ash = source_name("sender"), face.persons["Ash"]
    found = await face.get(f"Observation/{source}-o1")
    assert found["subject"] == {"reference": f"Patient/{ash}"}
    assert found["encounter"] == {"reference": f"Encounter/{source}-e1"}
    assert found["meta"]["versionId"] == "1"
    assert (await face.get(f"Encounter/{source}-e1"))["subject"] == {"reference": f"Patient/{ash}"}
    assert await face.get(f"Observation/{source}-o1/_history/1") == found
    assert (await face.get(f"Observation/{source}-o1/_history"))["entry"][0]["resource"] == found
    for unknown in (f"{source}-o9", "o1", f"{source}-o1x"):
        await face.get(f"Observation/{unknown}", status=404)
    await face.get(f"Observation/{source}-o1/_history/7", status=404)


async def test_searches_name_the_person(face: Face) -> None:
    ash = face.persons["Ash"]
    assert set(await face.ids(f"Observation?patient={ash}")) >= {"o1", "o2"}
    assert await face.ids(f"Observation?subject=Patient/{ash}&code={LOINC}|4548-4&_sort=-date") == ["o2", "o1"]
    assert await face.ids(f"Observation?patient={BASE}/Patient/{ash}&date=ge2025-03-01") == ["o2"]
    assert await face.ids("Observation?subject:Patient.family=birch") == ["o4"]
    assert await face.ids("Observation?patient.family=birch&code=x") == []
    assert await face.ids("Observation?patient=nobody") == []
    both = ",".join(face.persons.values())
    assert set(await face.ids(f"Observation?patient={both}&code=4548-4")) == {"o1", "o2", "o4"}


async def test_a_long_id_is_served_as_its_hash_and_found_by_it(face: Face) -> None:
    entries = (await face.get(f"Observation?patient={face.persons['Ash']}&code=8867-4"))["entry"]
    (served,) = [one["resource"]["id"] for one in entries]
    assert len(served) == 64
    assert (await face.get(f"Observation/{served}"))["id"] == served
    assert len((await face.get(f"Observation?_id={served},other"))["entry"]) == 1


async def test_pages_are_continued(face: Face) -> None:
    found: list[str] = []
    path = f"Observation?patient={face.persons['Ash']}&_count=2&_sort=date"
    for expected in (2, 1):
        page = await face.get(path)
        assert len(page["entry"]) == expected
        found += [one["resource"]["effectiveDateTime"] for one in page["entry"]]
        links = {one["relation"]: one["url"] for one in page["link"]}
        path = links["next"].removeprefix(f"{BASE}/") if "next" in links else ""
    assert found == sorted(found)
    assert path == ""


@pytest.mark.parametrize(
    "query",
    [
        "?_sort=date",
        "?code:in=http://nobody.example/ValueSet/x",
        "?status:in=x",
        "?patient=a&encounter.status=finished",
        "?_has:Group:member:name=x",
    ],
)
async def test_what_cannot_be_searched_is_refused(face: Face, query: str) -> None:
    answered = await face.http.get(f"/fhir/Observation{query}", headers=face.headers["reader"])
    assert answered.status_code in (400, 404)
    assert answered.json()["issue"][0]["severity"] == "error"


MALFORMED = {
    "date=yesterday": "yesterday",
    "date=2025-13-01": "2025-13-01",
    "_lastUpdated=ge2025-02-30": "2025-02-30",
    "date=2025-01-01T00:00:00%2B99:99": "99:99",
    "date:contains=2025": None,
    "code:above=1": None,
    "status:x=final": None,
    "encounter:text=e1": None,
}


async def test_malformed_criteria_are_refused_whoever_they_are_about(face: Face) -> None:
    """Also where there is nothing to be compared; the reason names the parameter, and no value."""
    for criterion, value in MALFORMED.items():
        for whose in (f"patient={face.persons['Ash']}&", "", "_id=none&"):
            refused = await face.get(f"Observation?{whose}{criterion}", status=400)
            assert refused["resourceType"] == "OperationOutcome"
            name, _, modifier = criterion.partition("=")[0].partition(":")
            told = json.dumps(refused["issue"])
            assert name in told, told
            assert modifier in told, told
            assert value is None or value not in told


@pytest.mark.parametrize("count", [1, 2, 3, 10])
async def test_a_search_that_names_nobody_goes_from_person_to_person(face: Face, count: int) -> None:
    found: list[str] = []
    path = f"Observation?_count={count}"
    pages = 0
    while path:
        page = await face.get(path)
        found += [one["resource"]["id"] for one in page.get("entry", [])]
        links = {one["relation"]: one["url"] for one in page["link"]}
        path = links["next"].removeprefix(f"{BASE}/") if "next" in links else ""
        pages += 1
        assert pages < 9
    assert len(found) == len(set(found)) == 4
    total = await face.get("Observation?_summary=count&code=4548-4")
    assert total["total"] == 3
    assert len((await face.get("Observation?_count=50", "practice"))["entry"]) == 1


async def test_codes_are_searched_by_value_set(face: Face) -> None:
    include = [{"system": LOINC, "concept": [{"code": "8867-4"}]}]
    url = "http://terms.example/ValueSet/pulse"
    body = {"resourceType": "ValueSet", "url": url, "version": "1", "status": "active", "compose": {"include": include}}
    face.gateway.terminology.put([("test", body)])
    assert len(await face.ids(f"Observation?code:in={url}")) == 1
    assert len(await face.ids(f"Observation?code:in={url}&patient={face.persons['Birch']}")) == 0


async def test_too_many_persons_are_refused(face: Face) -> None:
    many = ",".join(f"p{number}" for number in range(MOST_PERSONS + 1))
    assert (await face.get(f"Observation?patient={many}", status=400))["issue"][0]["code"] == "too-costly"


async def test_the_index_does_not_pretend_to_know_them(face: Face) -> None:
    outcome = await face.get("Patient?_has:Observation:patient:code=4548-4", status=400)
    assert "Observation" in outcome["issue"][0]["diagnostics"]


async def test_includes_go_both_ways(face: Face) -> None:
    ash, source = face.persons["Ash"], source_name("sender")
    page = await face.get(f"Observation?_id={source}-o1&_include=Observation:subject&_include=Observation:encounter")
    included = {f"{e['resource']['resourceType']}/{e['resource']['id']}" for e in page["entry"][1:]}
    assert included == {f"Patient/{ash}", f"Encounter/{source}-e1"}
    page = await face.get(f"Patient?_id={ash}&_revinclude=Observation:patient")
    assert len([e for e in page["entry"] if e["search"]["mode"] == "include"]) == 3


async def test_a_practice_sees_its_own_members_only(face: Face) -> None:
    source = source_name("sender")
    assert (await face.get(f"Observation/{source}-o4", "practice"))["status"] == "final"
    await face.get(f"Observation/{source}-o1", "practice", status=404)
    assert await face.ids(f"Observation?patient={','.join(face.persons.values())}", "practice") == ["o4"]
    assert await face.ids(f"Observation?_id={source}-o1,{source}-o4", "practice") == ["o4"]
    assert await face.ids("Observation?subject:Patient.family=ash", "practice") == []
    page = await face.get(f"Observation?_id={source}-o4&_include=Observation:encounter", "practice")
    assert len(page["entry"]) == 1  # the encounter is another person's


async def test_a_restricted_scope_holds_for_them(face: Face) -> None:
    source = source_name("sender")
    await face.get(f"Observation/{source}-o1", "pulse", status=404)
    found = (await face.get(f"Observation?patient={face.persons['Ash']}", "pulse"))["entry"]
    assert [one["resource"]["code"]["coding"] for one in found] == [[PULSE]]
    await face.get(f"Encounter/{source}-e1", "pulse", status=403)


async def test_a_chain_needs_the_scope_of_the_person(face: Face) -> None:
    await face.get("Observation?subject:Patient.family=ash", "only-observations", status=403)


async def test_searching_everything_leaves_them_out_unless_they_are_named(face: Face) -> None:
    page = await face.get("?_lastUpdated=gt2020-01-01")
    assert {one["resource"]["resourceType"] for one in page["entry"]} >= {"Patient", "Group"}
    source = source_name("sender")
    named = await face.get(f"?_type=Observation,Encounter&_id={source}-o1,{source}-e1")
    assert {one["resource"]["resourceType"] for one in named["entry"]} == {"Observation", "Encounter"}
