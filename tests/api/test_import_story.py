"""Stories of senders: NDJSON and Bundles pushed to us, authorized, limited, and refused line by line."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, authorize, client_for, register
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app
from fhir_gateway.server.imports import source_name

NDJSON = {"Content-Type": "application/fhir+ndjson"}
JSON = {"Content-Type": "application/fhir+json"}


def patient(number: int, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": f"p{number}", "gender": "female", "birthDate": "1970-01-01", **more}


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    key = SecretStr(Fernet.generate_key().decode())
    settings = Settings(
        data_dir=tmp_path, encryption_key=key, public_url=PUBLIC_URL, lake_buckets=1, import_max_bytes=20_000
    )
    return Gateway(settings)


def lines(*resources: dict[str, Any]) -> bytes:
    return "\n".join(json.dumps(one) for one in resources).encode()


class Sender:
    def __init__(self, gateway: Gateway, name: str, scopes: str) -> None:
        self.gateway, self.name, self.scopes = gateway, name, scopes
        self.key = register(gateway, name, scopes)

    async def __aenter__(self) -> Sender:
        self.http = client_for(create_app(self.gateway))
        self.token = await authorize(self.http, self.name, self.key, self.scopes)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def send(self, body: bytes, headers: dict[str, str], status: int = 200) -> dict[str, Any]:
        answered = await self.http.post("/fhir/$import", content=body, headers={**self.token, **headers})
        assert answered.status_code == status, answered.text
        found: dict[str, Any] = answered.json()
        return found


def outcome(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    found = [one["resource"] for one in parameters["parameter"] if one["name"] == "outcome"]
    issues: list[dict[str, Any]] = found[0]["issue"]
    return issues


def test_ndjson_and_bundles_go_the_way_of_every_pull(gateway: Gateway) -> None:
    async def story() -> AsyncIterator[None] | None:
        async with Sender(gateway, "clinic", "system/*.cu") as sender:
            body = lines(patient(1), patient(2), patient(3, gender="no such code"))
            answer = await sender.send(gzip.compress(body), {**NDJSON, "Content-Encoding": "gzip"})
            refused = [one for one in outcome(answer) if one["severity"] == "error"]
            assert len(refused) == 1
            assert refused[0]["expression"] == ["Patient.gender"]
            assert "no such code" not in json.dumps(answer)
            assert outcome(await sender.send(body, NDJSON))[-1]["diagnostics"] == "2 resources are here"
            entries = [{"resource": patient(n), "request": {"method": "PUT", "url": f"Patient/p{n}"}} for n in (2, 4)]
            for kind in ("transaction", "collection"):
                bundle = {"resourceType": "Bundle", "type": kind, "entry": entries}
                await sender.send(json.dumps(bundle).encode(), JSON)
        return None

    anyio.run(story)
    stored = gateway.lake.read("Patient", ["id"])
    assert sorted(stored["id"].to_pylist()) == ["p1", "p2", "p4"]
    assert set(stored["_source"].to_pylist()) == {source_name("clinic")}


def test_what_is_refused_before_anything_is_stored(gateway: Gateway) -> None:
    async def story() -> None:
        async with Sender(gateway, "narrow", "system/Patient.cu system/Patient.rs") as sender:
            observation = {"resourceType": "Observation", "id": "o", "status": "final", "code": {"text": "x"}}
            said = await sender.send(lines(patient(1), observation), NDJSON, 403)
            assert "system/Observation.cu" in said["issue"][0]["diagnostics"]
            await sender.send(b"", NDJSON, 400)
            await sender.send(b"x", {"Content-Type": "text/csv"}, 415)
            await sender.send(b"x", {**NDJSON, "Content-Encoding": "br"}, 415)
            await sender.send(b"x" * 20_001, NDJSON, 413)
            await sender.send(gzip.compress(b"x" * 10**7), {**NDJSON, "Content-Encoding": "gzip"}, 413)
            await sender.send(b"not gzip", {**NDJSON, "Content-Encoding": "gzip"}, 400)
            await sender.send(gzip.compress(lines(patient(1)))[:-9], {**NDJSON, "Content-Encoding": "gzip"}, 400)
            await sender.send(b"{", JSON, 400)
            entry = {"request": {"method": "DELETE", "url": "Patient/p1"}}
            bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
            said = await sender.send(json.dumps(bundle).encode(), JSON, 400)
            assert said["issue"][0]["expression"] == ["Bundle.entry[0].request.method"]
            sender.token = {}
            await sender.send(lines(patient(1)), NDJSON, 401)
        async with Sender(gateway, "reader", "system/*.rs") as reader:
            await reader.send(lines(patient(1)), NDJSON, 403)

    anyio.run(story)
    assert gateway.lake.version == 0


def test_senders_cannot_take_each_others_names() -> None:
    names = {source_name(one) for one in ("a", "A", "a ", "ä", "x" * 300, "x" * 299, "https://a/b")}
    assert len(names) == 7
    assert all(len(name) <= 32 for name in names)
