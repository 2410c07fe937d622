"""Persons and clinical resources written by REST: each client a source of its own, read back at once."""

from __future__ import annotations

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
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app
from fhir_gateway.server.imports import source_name

pytestmark = pytest.mark.anyio

SYSTEM = "http://hospital.example/mrn"
SCOPES = "system/*.cruds"
JSON = {"Content-Type": "application/fhir+json"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Face:
    def __init__(self, gateway: Gateway, http: httpx.AsyncClient) -> None:
        self.gateway, self.http = gateway, http
        self.headers: dict[str, Mapping[str, str]] = {}

    async def ask(
        self, method: str, path: str, body: Any = None, client: str = "ehr", **headers: str
    ) -> httpx.Response:
        sent = {**self.headers[client], **(JSON if body is not None else {}), **headers}
        return await self.http.request(method, f"/fhir/{path}".rstrip("/"), json=body, headers=sent)

    async def create(self, body: Any, client: str = "ehr") -> dict[str, Any]:
        answered = await self.ask("POST", body["resourceType"], body, client)
        assert answered.status_code == 201, answered.text
        made: dict[str, Any] = answered.json()
        assert answered.headers["location"].startswith(f"{BASE}/{made['resourceType']}/{made['id']}/_history/")
        assert answered.headers["etag"] == f'W/"{made["meta"]["versionId"]}"'
        return made


@pytest.fixture
async def face(tmp_path: Path) -> AsyncIterator[Face]:
    key = SecretStr(Fernet.generate_key().decode())
    gateway = Gateway(Settings(data_dir=tmp_path, encryption_key=key, public_url=PUBLIC_URL, lake_buckets=1))
    keys: dict[str, ECKey] = {name: register(gateway, name, SCOPES) for name in ("ehr", "other")}
    async with client_for(create_app(gateway)) as http:
        here = Face(gateway, http)
        for name, one in keys.items():
            here.headers[name] = await authorize(http, name, one, SCOPES)
        yield here


def patient(number: int, family: str = "Ash", **more: Any) -> dict[str, Any]:
    identifier = [{"system": SYSTEM, "value": f"m{number}"}]
    return {"resourceType": "Patient", "identifier": identifier, "name": [{"family": family}], **more}


def observation(subject: str, **more: Any) -> dict[str, Any]:
    code = {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]}
    return {"resourceType": "Observation", "status": "final", "code": code, "subject": {"reference": subject}, **more}


async def test_a_patient_is_created_updated_and_deleted(face: Face) -> None:
    made = await face.create(patient(1))
    path = f"Patient/{made['id']}"
    assert (await face.ask("GET", path)).json() == made
    again = await face.ask("POST", "Patient", patient(1), **{"If-None-Exist": f"identifier={SYSTEM}|m1"})
    assert (again.status_code, again.json()["id"]) == (200, made["id"])
    found = (await face.ask("GET", f"Patient?identifier={SYSTEM}|m1")).json()
    assert [one["resource"]["id"] for one in found["entry"]] == [made["id"]]

    etag = f'W/"{made["meta"]["versionId"]}"'
    changed = await face.ask("PUT", path, patient(1, "Birch", id=made["id"]), **{"If-Match": etag})
    assert changed.status_code == 200, changed.text
    assert changed.json()["name"] == [{"family": "Birch"}]
    stale = await face.ask("PUT", path, patient(1, "Stale", id=made["id"]), **{"If-Match": etag})
    assert stale.status_code == 412
    assert (await face.ask("GET", f"{path}/_history/{made['meta']['versionId']}")).json() == made
    history = (await face.ask("GET", f"{path}/_history")).json()
    assert len(history["entry"]) == 2

    assert (await face.ask("DELETE", path)).status_code == 204
    assert (await face.ask("GET", path)).status_code == 410
    assert face.gateway.lake.members().to_pylist() == []


async def test_what_is_wrong_is_refused_and_nothing_is_stored(face: Face) -> None:
    refused = await face.ask("POST", "Patient", {**patient(1), "notAnElement": True})
    assert refused.status_code == 400
    assert "notAnElement" in refused.text
    unknown = await face.ask("POST", "Observation", observation("Patient/nobody"))
    assert unknown.status_code == 422
    invented = await face.ask("PUT", "Observation/mine", {**observation("Patient/x"), "id": "mine"})
    assert invented.status_code in (405, 422)
    assert face.gateway.lake.version == 0


async def test_a_clinical_resource_belongs_to_the_person_and_to_its_writer(face: Face) -> None:
    made = await face.create(patient(1))
    written = await face.create(observation(f"Patient/{made['id']}", valueInteger=70))
    assert written["id"].startswith(f"{source_name('ehr')}-")
    assert written["subject"] == {"reference": f"Patient/{made['id']}"}
    path = f"Observation/{written['id']}"
    later = {**written, "valueInteger": 80}
    assert (await face.ask("PUT", path, later, "other")).status_code == 403
    assert (await face.ask("DELETE", path, client="other")).status_code == 403
    changed = await face.ask("PUT", path, later)
    assert (changed.status_code, changed.json()["valueInteger"]) == (200, 80)
    assert changed.json()["meta"]["versionId"] != written["meta"]["versionId"]
    assert (await face.ask("DELETE", path)).status_code == 204
    assert (await face.ask("GET", path)).status_code == 410


async def test_what_is_nobodys_is_kept_and_read_by_who_sees_everybody(face: Face) -> None:
    made = await face.create({"resourceType": "CareTeam", "name": "Night shift"})
    assert (await face.ask("GET", f"CareTeam/{made['id']}")).json() == made
    changed = await face.ask("PUT", f"CareTeam/{made['id']}", {**made, "name": "Day shift"})
    assert (changed.status_code, changed.json()["name"]) == (200, "Day shift")


async def test_another_client_adds_to_the_same_person_by_its_identifier(face: Face) -> None:
    made = await face.create(patient(1))
    theirs = await face.ask("POST", "Observation", observation(f"Patient/{made['id']}"), "other")
    assert theirs.status_code == 422  # it has said nothing of the person yet
    assert "Patient" in theirs.json()["issue"][0]["diagnostics"]


async def test_a_transaction_is_one_commit_whose_entries_know_each_other(face: Face) -> None:
    entries = [
        {
            "resource": observation("urn:uuid:9d1c7c3e-0000-4000-8000-000000000001"),
            "request": {"method": "POST", "url": "Observation"},
        },
        {
            "fullUrl": "urn:uuid:9d1c7c3e-0000-4000-8000-000000000001",
            "resource": patient(7, "Cedar"),
            "request": {"method": "POST", "url": "Patient"},
        },
    ]
    answered = await face.ask("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert answered.status_code == 200, answered.text
    bundle = answered.json()
    assert bundle["type"] == "transaction-response"
    assert [one["response"]["status"] for one in bundle["entry"]] == ["201 Created", "201 Created"]
    assert face.gateway.lake.version == 1
    query = "Observation?subject:Patient.family=cedar&_include=Observation:subject"
    found = (await face.ask("GET", query)).json()["entry"]
    assert [one["search"]["mode"] for one in found] == ["match", "include"]
    assert found[0]["resource"]["subject"]["reference"] == f"Patient/{found[1]['resource']['id']}"


async def test_a_transaction_with_one_wrong_entry_stores_nothing(face: Face) -> None:
    entries = [
        {"resource": patient(1), "request": {"method": "POST", "url": "Patient"}},
        {
            "resource": {"resourceType": "Observation", "status": "final"},
            "request": {"method": "POST", "url": "Observation"},
        },
    ]
    answered = await face.ask("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert answered.status_code == 400
    assert answered.json()["issue"][0]["expression"][0].startswith("Bundle.entry[1].resource")
    assert face.gateway.lake.version == 0


async def test_a_list_of_a_client_names_the_persons(face: Face) -> None:
    made = await face.create(patient(1))
    member = [{"entity": {"reference": f"Patient/{made['id']}"}}]
    group = await face.create({"resourceType": "Group", "type": "person", "actual": True, "member": member})
    assert (await face.ask("GET", f"Group/{group['id']}")).status_code == 200


_EXACT = (
    b'{"resourceType":"Observation","status":"final","code":{"text":"x"},'
    b'"subject":{"reference":"%s"},"valueQuantity":{"value":%s}}'
)


@pytest.mark.parametrize("digits", [b"1.50", b"0.000000100", b"1.0", b"12345678901234567.5"])
async def test_decimals_keep_the_digits_they_were_written_with(face: Face, digits: bytes) -> None:
    """By create, update, patch of something else, batch and transaction, of clinical types and of others."""
    person = await face.create(patient(1))
    body = _EXACT % (f"Patient/{person['id']}".encode(), digits)
    said = b'"value":' + digits + b"}"
    sent = {**face.headers["ehr"], **JSON}

    async def send(method: str, path: str, content: bytes, **headers: str) -> httpx.Response:
        answered = await face.http.request(
            method, f"/fhir/{path}".rstrip("/"), content=content, headers={**sent, **headers}
        )
        assert answered.status_code in (200, 201), answered.text
        return answered

    made = await send("POST", "Observation", body)
    assert said in made.content
    path = f"Observation/{made.json()['id']}"
    updated = body.replace(b'"final"', b'"amended"').replace(b"{", b'{"id":"%s",' % made.json()["id"].encode(), 1)
    assert said in (await send("PUT", path, updated)).content
    patch = b'[{"op":"replace","path":"/status","value":"corrected"}]'
    await send("PATCH", path, patch, **{"Content-Type": "application/json-patch+json"})
    read = await face.http.get(f"/fhir/{path}", headers=sent)
    assert read.json()["status"] == "corrected"
    assert said in read.content
    for kind in (b"batch", b"transaction"):
        entry = b'{"resource":%s,"request":{"method":"POST","url":"Observation"}}' % body
        bundle = b'{"resourceType":"Bundle","type":"%s","entry":[%s]}' % (kind, entry)
        answered = (await send("POST", "", bundle)).json()
        where = answered["entry"][0]["response"]["location"].partition("/_history")[0].rpartition("/fhir/")[2]
        assert said in (await face.http.get(f"/fhir/{where}", headers=sent)).content
