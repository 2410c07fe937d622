"""What clinical resources were before: earlier versions, deletions, and what an export says of them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, authorize, client_for, register
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.durable import Worker
from fhir_gateway.jobs.persons import follow, stewardship
from fhir_gateway.server import clinical_history
from fhir_gateway.server.app import create_app

pytestmark = pytest.mark.anyio

LOINC = "http://loinc.org"
CLIENTS: dict[str, tuple[str, list[str] | None]] = {
    "ehr": ("system/*.cruds", None),
    "practice": ("system/*.rs", ["organization:1"]),
    "auditor": ("system/AuditEvent.rs", None),
    "pulse": (f"system/Observation.rs?code={LOINC}|8867-4 system/Patient.rs", None),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def observation(person: str, code: str = "4548-4", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "preliminary",
        "code": {"coding": [{"system": LOINC, "code": code}]},
        "subject": {"reference": f"Patient/{person}"},
        **more,
    }


class Face:
    """The face with two persons, of whom the practice sees the second."""

    def __init__(self, http: httpx.AsyncClient, headers: dict[str, Mapping[str, str]]) -> None:
        self.http, self.headers = http, headers
        self.persons: list[str] = []

    async def send(self, method: str, path: str, body: Any = None, client: str = "ehr", **more: str) -> httpx.Response:
        kind = "json-patch" if isinstance(body, list) else "fhir"
        sent = {**self.headers[client], **({"Content-Type": f"application/{kind}+json"} if body is not None else {})}
        return await self.http.request(method, f"/fhir/{path}", json=body, headers=sent | more)

    def lists(self, gateway: Gateway, *persons: str) -> None:
        """Let the practice's list have these members."""
        listed: dict[str, Any] = {"resourceType": "Group", "id": "list", "type": "person", "actual": True}
        listed["member"] = [{"entity": {"reference": f"Patient/{one}"}} for one in persons]
        gateway.resources.put(labelled(listed, label("organization", "1")))

    async def create(self, body: Any) -> dict[str, Any]:
        answered = await self.send("POST", body["resourceType"], body)
        assert answered.status_code == 201, answered.text
        made: dict[str, Any] = answered.json()
        return made

    async def manifest(self, path: str, client: str = "ehr") -> dict[str, Any]:
        accepted = await self.send("GET", path, client=client, Prefer="respond-async")
        assert accepted.status_code == 202, accepted.text
        location = accepted.headers["content-location"]
        while (poll := await self.http.get(location, headers=self.headers[client])).status_code == 202:
            await asyncio.sleep(0.05)
        assert poll.status_code == 200, poll.text
        found: dict[str, Any] = poll.json()
        return found

    async def rows(self, files: list[dict[str, Any]], client: str = "ehr") -> list[dict[str, Any]]:
        found = []
        for one in files:
            answered = await self.http.get(one["url"], headers=self.headers[client])
            found += [orjson.loads(line) for line in answered.content.splitlines()]
        return found

    async def deleted(self, path: str, client: str = "ehr") -> set[str]:
        bundles = await self.rows((await self.manifest(path, client))["deleted"], client)
        return {entry["request"]["url"] for one in bundles for entry in one["entry"]}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    key = SecretStr(Fernet.generate_key().decode())
    made = Gateway(Settings(data_dir=tmp_path, encryption_key=key, public_url=PUBLIC_URL, lake_buckets=2))
    with Worker(made, background=True):
        yield made


@pytest.fixture
async def face(gateway: Gateway) -> AsyncIterator[Face]:
    keys = {name: register(gateway, name, scopes, grants=grants) for name, (scopes, grants) in CLIENTS.items()}
    async with client_for(create_app(gateway)) as http:
        headers = {name: await authorize(http, name, keys[name], CLIENTS[name][0]) for name in CLIENTS}
        here = Face(http, headers)
        for family in ("Ash", "Birch"):
            made = await here.create({"resourceType": "Patient", "name": [{"family": family}]})
            here.persons.append(made["id"])
        here.lists(gateway, here.persons[1])
        yield here


def decide(gateway: Gateway, act: str, *persons: str) -> None:
    """Merge or part persons; the lake and what is served follow."""
    getattr(stewardship(gateway), act)(*persons, "ann", "she said so")
    follow(gateway)


async def test_earlier_versions_are_read_and_listed(face: Face) -> None:
    made = await face.create(observation(face.persons[1]))
    path = f"Observation/{made['id']}"
    changed = await face.send("PUT", path, {**made, "status": "final"})
    patched = await face.send("PATCH", path, [{"op": "add", "path": "/valueString", "value": "six"}])
    assert patched.status_code == 200, patched.text
    versions = [one["meta"]["versionId"] for one in (made, changed.json(), patched.json())]
    assert sorted(set(versions), key=int) == versions
    assert patched.json()["status"] == "final"
    stale = await face.send(
        "PATCH", path, [{"op": "remove", "path": "/valueString"}], **{"If-Match": f'W/"{versions[0]}"'}
    )
    assert stale.status_code == 412
    for client in ("ehr", "practice"):
        history = (await face.send("GET", f"{path}/_history", client=client)).json()
        assert [one["resource"] for one in history["entry"]] == [patched.json(), changed.json(), made]
        first = await face.send("GET", f"{path}/_history/{versions[0]}", client=client)
        assert first.json() == made
    since = quote(patched.json()["meta"]["lastUpdated"])
    newest = (await face.send("GET", f"{path}/_history?_since={since}")).json()
    assert [one["resource"]["meta"]["versionId"] for one in newest["entry"]] == versions[2:]
    page = (await face.send("GET", f"{path}/_history?_count=2")).json()
    following = next(one["url"] for one in page["link"] if one["relation"] == "next")
    rest = (await face.http.get(following, headers=face.headers["ehr"])).json()
    assert [one["resource"] for one in rest["entry"]] == [made]
    for unknown in (f"{path}/_history/999", f"{path}x/_history"):
        assert (await face.send("GET", unknown)).status_code == 404
    assert (await face.send("GET", f"{path}/_history", client="pulse")).status_code == 404


async def test_clinical_resources_are_patched_by_criteria_and_in_transactions(face: Face) -> None:
    made = await face.create(observation(face.persons[1], identifier=[{"system": "urn:o", "value": "1"}]))
    other = await face.create(observation(face.persons[0]))
    final = [{"op": "replace", "path": "/status", "value": "final"}]
    patched = await face.send("PATCH", "Observation?identifier=urn:o|1&patient=" + face.persons[1], final)
    assert (patched.status_code, patched.json()["status"]) == (200, "final"), patched.text
    data = base64.b64encode(orjson.dumps([{"op": "add", "path": "/valueString", "value": "six"}])).decode()
    binary = {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": data}
    entries = [
        {"resource": binary, "request": {"method": "PATCH", "url": f"Observation/{one['id']}"}} for one in (made, other)
    ]
    sent = await face.send("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert sent.status_code == 200, sent.text
    versions = set()
    for one in (made, other):
        now = (await face.send("GET", f"Observation/{one['id']}")).json()
        assert now["valueString"] == "six"
        versions.add(now["meta"]["versionId"])
    assert len(versions) == 1, "one commit"
    assert len((await face.send("GET", f"Observation/{made['id']}/_history")).json()["entry"]) == 3


async def test_what_was_about_somebody_else_is_not_shown(face: Face) -> None:
    made = await face.create(observation(face.persons[0]))
    path = f"Observation/{made['id']}"
    assert (await face.send("GET", f"{path}/_history", client="practice")).status_code == 404
    moved = await face.send("PUT", path, {**made, "subject": {"reference": f"Patient/{face.persons[1]}"}})
    assert moved.status_code == 200, moved.text
    history = (await face.send("GET", f"{path}/_history", client="practice")).json()
    assert [one["resource"] for one in history["entry"]] == [moved.json()]
    version = made["meta"]["versionId"]
    assert (await face.send("GET", f"{path}/_history/{version}", client="practice")).status_code == 404
    assert len((await face.send("GET", f"{path}/_history")).json()["entry"]) == 2


async def test_a_deleted_one_is_gone_and_its_history_says_so(face: Face) -> None:
    made = await face.create(observation(face.persons[1]))
    path = f"Observation/{made['id']}"
    assert (await face.send("DELETE", path)).status_code == 204
    for client in ("ehr", "practice"):
        assert (await face.send("GET", path, client=client)).status_code == 410
        history = (await face.send("GET", f"{path}/_history", client=client)).json()["entry"]
        assert history[0]["request"]["method"] == "DELETE"
        assert [one.get("resource") for one in history] == [None, made]
        gone = history[0]["response"]["etag"].strip('W/"')
        assert (await face.send("GET", f"{path}/_history/{gone}", client=client)).status_code == 410
        earlier = f"{path}/_history/{made['meta']['versionId']}"
        assert (await face.send("GET", earlier, client=client)).json() == made
        assert "entry" not in (await face.send("GET", f"Observation?_id={made['id']}", client=client)).json()
    assert (await face.send("GET", path, client="pulse")).status_code == 404
    assert (await face.send("PATCH", path, [{"op": "remove", "path": "/status"}])).status_code == 410
    assert (await face.send("DELETE", path)).status_code == 204, "nothing is left to delete"


async def test_exports_list_what_was_deleted_since(face: Face) -> None:
    ash, birch = face.persons
    kept = await face.create(observation(ash))
    made = [await face.create(observation(person, code)) for person, code in ((ash, "4548-4"), (birch, "8867-4"))]
    before = await face.create(observation(birch))
    assert (await face.send("DELETE", f"Observation/{before['id']}")).status_code == 204
    since = quote((await face.manifest("$export?_type=Observation"))["transactionTime"])
    assert await face.deleted(f"$export?_since={since}") == set()
    short_lived = await face.create(observation(birch))
    for one in (*made, short_lived):
        assert (await face.send("DELETE", f"Observation/{one['id']}")).status_code == 204
    moved = await face.send("PUT", f"Observation/{kept['id']}", {**kept, "subject": {"reference": f"Patient/{birch}"}})
    assert moved.status_code == 200, "it left a bucket, or did not: it is not gone"
    first, second = (f"Observation/{one['id']}" for one in made)
    third = f"Observation/{short_lived['id']}"
    assert await face.deleted(f"$export?_since={since}") == {first, second, third}
    assert await face.deleted(f"Patient/$export?_since={since}&_type=Observation") == {first, second, third}
    assert await face.deleted(f"Group/list/$export?_since={since}") == {second, third}
    assert await face.deleted(f"Patient/$export?_since={since}", "practice") == {second, third}
    assert await face.deleted(f"Patient/$export?_since={since}", "pulse") == {second}
    assert await face.deleted(f"Patient/$export?_since={since}&_type=Patient") == set()
    assert await face.deleted("Patient/$export?_type=Observation") == set()
    manifest = await face.manifest(f"$export?_type=Observation&_since={since}")
    assert [one["id"] for one in await face.rows(manifest["output"])] == [kept["id"]]


async def pages(face: Face, path: str, client: str = "ehr") -> list[dict[str, Any]]:
    """All entries of a history, page by page."""
    found: list[dict[str, Any]] = []
    url = f"{PUBLIC_URL}/fhir/{path}"
    while url:
        answered = await face.http.get(url, headers=face.headers[client])
        assert answered.status_code == 200, answered.text
        page = answered.json()
        found += page.get("entry", [])
        url = next((one["url"] for one in page["link"] if one["relation"] == "next"), "")
    return found


def told(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Id and version of each entry of a history."""
    return [(one["fullUrl"].rpartition("/")[2], one["response"]["etag"].strip('W/"')) for one in entries]


async def test_a_whole_type_has_a_history_by_pages(face: Face) -> None:
    ash, birch = face.persons
    assert await pages(face, "Observation/_history") == []
    first = await face.create(observation(ash))
    second = await face.create(observation(birch, "8867-4"))
    changed = (await face.send("PUT", f"Observation/{first['id']}", {**first, "status": "final"})).json()
    moved = await face.send(
        "PUT", f"Observation/{first['id']}", {**changed, "subject": {"reference": f"Patient/{birch}"}}
    )
    assert (await face.send("DELETE", f"Observation/{second['id']}")).status_code == 204
    third = await face.create(observation(ash))

    whole = await pages(face, "Observation/_history")
    assert [one.get("resource") for one in whole] == [third, None, moved.json(), changed, second, first]
    assert [one["request"]["method"] for one in whole][1] == "DELETE"
    versions = [int(version) for _, version in told(whole)]
    assert versions == sorted(versions, reverse=True)
    for count in (1, 2, 5):
        assert await pages(face, f"Observation/_history?_count={count}") == whole
    single = (await face.send("GET", f"Observation/{first['id']}/_history")).json()["entry"]
    assert [one for one in whole if one["fullUrl"].endswith(first["id"])] == single

    since = quote(moved.json()["meta"]["lastUpdated"])
    assert await pages(face, f"Observation/_history?_since={since}&_count=1") == whole[:3]
    then = quote(changed["meta"]["lastUpdated"])
    assert await pages(face, f"Observation/_history?_at={then}") == [whole[3], whole[4]], "in force then"
    assert await pages(face, "Observation/_history?_at=2001") == []

    mine = await pages(face, "Observation/_history", "practice")
    assert mine == [whole[1], whole[2], whole[4]], "what is, and was, of its patient"
    assert await pages(face, "Observation/_history?_count=1", "practice") == mine
    assert await pages(face, "Observation/_history", "pulse") == [whole[1], whole[4]], "of the code of its scope"
    assert (await face.send("GET", "Condition/_history", client="pulse")).status_code == 403
    damaged = next(
        one["url"]
        for one in (await face.send("GET", "Observation/_history?_count=1")).json()["link"]
        if one["relation"] == "next"
    )
    assert (await face.http.get(f"{damaged[:-9]}XXXXXXXXX", headers=face.headers["ehr"])).status_code == 400


async def test_a_page_ends_where_a_request_has_looked_enough(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sees little goes on from page to page, some of which are empty."""
    monkeypatch.setattr(clinical_history, "MOST_JUDGED", 2)
    ash, birch = face.persons
    made = [await face.create(observation(person)) for person in (birch, ash, ash, ash, birch, ash)]
    seen = await pages(face, "Observation/_history")
    assert [one["resource"] for one in seen] == made[::-1]
    first = (await face.send("GET", "Observation/_history")).json()
    assert len(first["entry"]) == 2
    assert [one["resource"] for one in await pages(face, "Observation/_history", "practice")] == [made[4], made[0]]
    assert await pages(face, "Observation/_history", "pulse") == []


async def test_what_follows_a_merge_is_in_the_history_of_the_type(face: Face, gateway: Gateway) -> None:
    """The client that sees the surviving person sees what was the other's, and one that does not sees nothing."""
    ash, birch = face.persons
    made = await face.create(observation(birch))
    face.lists(gateway, ash)
    assert await pages(face, "Observation/_history", "practice") == []
    await asyncio.to_thread(decide, gateway, "merge", ash, birch)
    moved = await pages(face, "Observation/_history", "practice")
    assert len(moved) == 2, "as it was, and as it is: both lead to the person that there is now"
    assert {one["resource"]["subject"]["reference"] for one in moved} == {f"Patient/{ash}"}
    assert {one["resource"]["id"] for one in moved} == {made["id"]}
    assert moved == (await face.send("GET", f"Observation/{made['id']}/_history", client="practice")).json()["entry"]


def coverage(person: str) -> dict[str, Any]:
    payor = {"display": "a plan"}
    return {
        "resourceType": "Coverage",
        "status": "active",
        "beneficiary": {"reference": f"Patient/{person}"},
        "payor": [payor],
    }


async def moment(face: Face) -> str:
    return quote((await face.manifest("$export?_type=Observation"))["transactionTime"])


async def test_who_kept_a_copy_is_told_what_became_somebody_elses(face: Face) -> None:
    ash, birch = face.persons
    made = await face.create(observation(birch))
    other = await face.create(observation(ash))
    insured = await face.create(coverage(birch))
    since = await moment(face)
    for one in (made, insured):
        about = "subject" if "subject" in one else "beneficiary"
        changed = {**one, about: {"reference": f"Patient/{ash}"}}
        assert (await face.send("PUT", f"{one['resourceType']}/{one['id']}", changed)).status_code == 200
    new = await face.create(observation(birch))
    assert (await face.send("PUT", f"Observation/{new['id']}", {**new, "subject": other["subject"]})).status_code == 200

    left = {f"Observation/{made['id']}", f"Coverage/{insured['id']}"}
    for path, client in (("Patient/$export", "practice"), ("$export", "practice"), ("Group/list/$export", "ehr")):
        assert await face.deleted(f"{path}?_since={since}", client) == left, path
    assert await face.deleted(f"Patient/$export?_since={since}&_type=Coverage", "practice") == left - {
        f"Observation/{made['id']}"
    }
    assert await face.deleted(f"$export?_since={since}") == set(), "who sees everybody has them still"
    assert await face.deleted(f"Patient/$export?_since={since}") == set()
    manifest = await face.manifest(f"$export?_type=Observation,Coverage&_since={since}")
    assert {one["id"] for one in await face.rows(manifest["output"])} >= {made["id"], insured["id"]}
    assert await face.deleted(f"Patient/$export?_since={since}", "pulse") == set(), "it never saw that code"

    later = await moment(face)
    assert await face.deleted(f"Patient/$export?_since={later}", "practice") == set(), "told once"
    assert (await face.send("DELETE", f"Observation/{made['id']}")).status_code == 204
    assert await face.deleted(f"Patient/$export?_since={since}", "practice") == left, "left, and then deleted"
    assert await face.deleted(f"Patient/$export?_since={later}", "practice") == set(), "not theirs any more"


async def test_merged_and_parted_persons_are_told_to_who_saw_them(face: Face, gateway: Gateway) -> None:
    ash, birch = face.persons
    made = await face.create(observation(birch))
    insured = await face.create(coverage(birch))
    names = {f"Observation/{made['id']}", f"Coverage/{insured['id']}"}
    before = await moment(face)
    await asyncio.to_thread(decide, gateway, "merge", ash, birch)
    # the list still names who is gone: its patient and all of theirs left what the practice sees
    told = await face.deleted(f"Patient/$export?_since={before}", "practice")
    assert told == names | {f"Patient/{birch}"}
    face.lists(gateway, ash)  # the next roster names who there is now: what was there is changed, and still theirs
    assert await face.deleted(f"Patient/$export?_since={before}", "practice") == {f"Patient/{birch}"}
    manifest = await face.manifest(f"Patient/$export?_since={before}&_type=Observation,Coverage", "practice")
    rows = await face.rows(manifest["output"], "practice")
    assert {f"{one['resourceType']}/{one['id']}" for one in rows} == names

    merged = await moment(face)
    await asyncio.to_thread(decide, gateway, "unmerge", birch)
    assert await face.deleted(f"Patient/$export?_since={merged}", "practice") == names
    assert await face.deleted(f"Group/list/$export?_since={merged}") == names
    assert await face.deleted(f"$export?_since={merged}") == set()
    assert await face.deleted(f"Patient/$export?_since={merged}&_type=Observation", "pulse") == set()


async def test_everything_has_a_history_of_the_lake_and_of_the_store(face: Face, gateway: Gateway) -> None:
    """Versions of both come by time, page by page, the same ones whatever the size of a page."""
    ash, birch = face.persons
    first = await face.create(observation(ash))
    second = await face.create(observation(birch, "8867-4"))
    face.lists(gateway, birch, ash)
    changed = (await face.send("PUT", f"Observation/{first['id']}", {**first, "status": "final"})).json()
    insured = await face.create(coverage(birch))
    assert (await face.send("DELETE", f"Observation/{second['id']}")).status_code == 204
    face.lists(gateway, birch)

    whole = await pages(face, "_history")
    about = [one["request"]["url"].split("/")[0] for one in whole]
    assert about[:7] == ["Group", "Observation", "Coverage", "Observation", "Group", "Observation", "Observation"]
    assert sorted(about[7:]) == ["Group", "Organization", "Patient", "Patient"], "what was there before"
    assert [one.get("resource") for one in whole[1:4]] == [None, insured, changed]
    times = [one["response"]["lastModified"] for one in whole]
    assert times == sorted(times, reverse=True)
    for count in (1, 2, 3, 7):
        assert await pages(face, f"_history?_count={count}") == whole
    assert await asyncio.to_thread(gateway.lake.compact, 2), "files are put together"
    assert await pages(face, "_history?_count=3") == whole, "and what was written stays where it was"

    since = quote(changed["meta"]["lastUpdated"])
    assert await pages(face, f"_history?_since={since}&_count=2") == whole[:4]
    of_types = await pages(face, "_history?_type=Observation,Coverage&_count=2")
    assert of_types == [one for one in whole if one["fullUrl"].split("/")[-2] in ("Observation", "Coverage")]
    assert await pages(face, "_history?_type=Observation") == await pages(face, "Observation/_history")
    assert await pages(face, "_history?_at=2001") == []
    then = await pages(face, f"_history?_at={since}")
    assert {one["fullUrl"].split("/")[-2] for one in then} == {"Group", "Organization", "Patient", "Observation"}
    assert [one["resource"] for one in then if one["fullUrl"].split("/")[-2] == "Observation"] == [changed, second]


async def test_a_history_of_everything_has_what_a_client_sees_and_may_read(face: Face, gateway: Gateway) -> None:
    ash, birch = face.persons
    theirs = await face.create(observation(birch))
    others = await face.create(observation(ash, "8867-4"))
    moved = {**others, "subject": {"reference": f"Patient/{birch}"}}
    seen = [(await face.send("PUT", f"Observation/{others['id']}", moved)).json(), theirs]
    assert (await face.send("DELETE", f"Observation/{theirs['id']}")).status_code == 204
    await face.create(observation(ash))

    mine = await pages(face, "_history", "practice")
    clinical = [one for one in mine if "/Observation/" in one["fullUrl"]]
    assert [one["request"]["method"] for one in clinical] == ["DELETE", "PUT", "PUT"]
    assert [one["resource"] for one in clinical[1:]] == seen, "not what was somebody else's once"
    assert {one["fullUrl"].rpartition("/")[2] for one in mine if "/Patient/" in one["fullUrl"]} == {birch}
    assert await pages(face, "_history?_count=1", "practice") == mine

    pulse = await pages(face, "_history", "pulse")
    kinds = {one["fullUrl"].split("/")[-2] for one in pulse}
    assert kinds == {"Observation", "Patient"}, "the types of its token"
    shown = [one["resource"] for one in pulse if "/Observation/" in one["fullUrl"]]
    assert shown == [seen[0], others], "of the code of its scope"
    assert (await face.send("GET", "_history?_type=Coverage", client="pulse")).status_code == 403
    for wrong in ("AuditEvent", "Nothing"):
        assert (await face.send("GET", f"_history?_type={wrong}")).status_code == 400
    audited = (await face.send("GET", "AuditEvent?action=R", client="auditor")).json()["entry"]
    assert any(one["resource"]["subtype"][0]["code"] == "history-system" for one in audited)


async def test_pages_of_everything_stay_while_somebody_writes(face: Face, gateway: Gateway) -> None:
    """What is written between two pages comes before the first: the following are as they would have been."""
    ash, birch = face.persons
    for number in range(3):
        await face.create(observation(ash, f"{number}"))
        face.lists(gateway, *face.persons[: number % 2 + 1])
    whole = await pages(face, "_history")
    found: list[dict[str, Any]] = []
    url = f"{PUBLIC_URL}/fhir/_history?_count=2"
    while url:
        page = (await face.http.get(url, headers=face.headers["ehr"])).json()
        found += page.get("entry", [])
        url = next((one["url"] for one in page["link"] if one["relation"] == "next"), "")
        await face.create(observation(birch))
        face.lists(gateway, *face.persons[len(found) % 2 :])
    assert found == whole


async def test_a_merge_is_in_the_history_of_everything_once(face: Face, gateway: Gateway) -> None:
    """A resource that leaves a bucket is not told as deleted, and of one commit each version comes once."""
    ash, birch = face.persons
    made = [await face.create(observation(birch, f"{number}")) for number in range(4)]
    await asyncio.to_thread(decide, gateway, "merge", ash, birch)
    for count in (1, 3, 50):
        entries = await pages(face, f"_history?_type=Observation&_count={count}")
        assert [one["request"]["method"] for one in entries] == ["PUT"] * 8
        assert len({(one["fullUrl"], one["response"]["etag"]) for one in entries}) == 8
        assert {one["resource"]["id"] for one in entries[:4]} == {one["id"] for one in made}


async def test_who_kept_a_copy_is_told_what_does_not_meet_the_scope_any_more(face: Face) -> None:
    ash, birch = face.persons
    pulse, weight = "8867-4", "29463-7"
    left = await face.create(observation(ash, pulse))
    stays = await face.create(observation(ash, pulse))
    never = await face.create(observation(ash, weight))
    comes = await face.create(observation(ash, weight))
    since = await moment(face)
    for one, code in ((left, weight), (stays, pulse), (never, "3141-9"), (comes, pulse)):
        changed = {**one, "status": "final", "code": {"coding": [{"system": LOINC, "code": code}]}}
        assert (await face.send("PUT", f"Observation/{one['id']}", changed)).status_code == 200
    fleeting = await face.create(observation(birch, pulse))
    recoded = {**fleeting, "code": {"coding": [{"system": LOINC, "code": weight}]}}
    assert (await face.send("PUT", f"Observation/{fleeting['id']}", recoded)).status_code == 200

    told = {f"Observation/{left['id']}"}
    for level in ("Patient/$export", "$export"):
        assert await face.deleted(f"{level}?_since={since}&_type=Observation", "pulse") == told, level
    manifest = await face.manifest(f"Patient/$export?_since={since}&_type=Observation", "pulse")
    assert {one["id"] for one in await face.rows(manifest["output"], "pulse")} == {stays["id"], comes["id"]}
    assert await face.deleted(f"$export?_since={since}&_type=Observation") == set(), (
        "who is not restricted has it still"
    )

    later = await moment(face)
    assert await face.deleted(f"Patient/$export?_since={later}", "pulse") == set(), "told once"
    back = (await face.send("GET", f"Observation/{left['id']}")).json()
    again = {**back, "code": {"coding": [{"system": LOINC, "code": pulse}]}}
    assert (await face.send("PUT", f"Observation/{left['id']}", again)).status_code == 200
    assert await face.deleted(f"Patient/$export?_since={since}", "pulse") == set(), "and not of what is back"
    assert (await face.send("DELETE", f"Observation/{left['id']}")).status_code == 204
    assert (await face.send("DELETE", f"Observation/{never['id']}")).status_code == 204
    assert await face.deleted(f"Patient/$export?_since={since}", "pulse") == {f"Observation/{left['id']}"}
