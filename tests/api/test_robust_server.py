"""One client's haste, silence or size is nobody else's problem; and what whoever watches the gateway is told."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import time_machine
import uvicorn
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, authorize, client_for, new_gateway, register
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from starlette.types import Message
from uvicorn.server import ServerState

from fhir_gateway import logs
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app
from fhir_gateway.server.patience import HEAD_SECONDS, ClientStalled, HttpProtocol, Patience
from fhir_gateway.server.problems import RequestTimeout
from fhir_gateway.server.serve import GatewayServer
from tests.support.waiting import HANG, leaping

NOON = "2026-06-01T12:00:00+05:45"
"""A minute that does not end: with the next one a client's haste begins to be forgotten."""


def gateway(folder: Path, **settings: Any) -> Gateway:
    key = SecretStr(Fernet.generate_key().decode())
    return Gateway(Settings(encryption_key=key, public_url=PUBLIC_URL, data_dir=folder, **settings))


def test_a_client_that_asks_too_often_is_told_when_to_come_back_and_others_are_served(tmp_path: Path) -> None:
    here = gateway(tmp_path, client_requests_per_minute=3)
    keys = {name: register(here, name, "system/Patient.rs") for name in ("hasty", "calm")}

    async def story() -> tuple[list[httpx.Response], httpx.Response]:
        async with client_for(create_app(here)) as http:
            headers = {name: await authorize(http, name, key, "system/Patient.rs") for name, key in keys.items()}
            hasty = [await http.get("/fhir/Patient", headers=headers["hasty"]) for _ in range(4)]
            return hasty, await http.get("/fhir/Patient", headers=headers["calm"])

    with time_machine.travel(NOON, tick=False):
        hasty, calm = asyncio.run(story())
    assert [one.status_code for one in hasty] == [200, 200, 200, 429]
    assert 1 <= int(hasty[-1].headers["retry-after"]) <= 60
    assert hasty[-1].json()["issue"][0]["code"] == "throttled"
    assert calm.status_code == 200


def test_an_address_that_asks_for_tokens_too_often_has_to_wait(tmp_path: Path) -> None:
    here = gateway(tmp_path, token_requests_per_minute=2)

    async def story() -> list[httpx.Response]:
        async with client_for(create_app(here)) as http:
            asked = [await http.post("/auth/token", data={"grant_type": "client_credentials"}) for _ in range(3)]
            return [*asked, await http.get("/fhir/metadata")]

    with time_machine.travel(NOON, tick=False):
        *asked, metadata = asyncio.run(story())
    assert [one.status_code for one in asked] == [400, 400, 429]
    assert int(asked[-1].headers["retry-after"]) >= 1
    assert metadata.status_code == 200


async def _patient_app(messages: list[Message], coming: float = 0.0, taking: float = 0.0) -> None:
    """A request of which a part comes every ``coming`` seconds, and whose answer is taken after ``taking``."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            more = (await receive()).get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Message:
        await asyncio.sleep(coming if messages else 3600)
        return messages.pop(0)

    async def send(message: Message) -> None:
        await asyncio.sleep(taking)

    await Patience(app, body_seconds=30, answer_seconds=60)({"type": "http"}, receive, send)


def test_a_request_whose_body_stops_is_given_up() -> None:
    with pytest.raises(RequestTimeout):
        leaping(_patient_app([{"type": "http.request", "body": b"{", "more_body": True}]))


def test_an_answer_that_is_not_taken_is_given_up() -> None:
    with pytest.raises(ClientStalled):
        leaping(_patient_app([{"type": "http.request", "body": b"{}"}], taking=61))


def test_a_slow_body_that_comes_on_is_waited_for_and_so_is_who_takes_slowly() -> None:
    parts: list[Message] = [{"type": "http.request", "body": b"x", "more_body": True} for _ in range(5)]
    leaping(_patient_app([*parts, {"type": "http.request", "body": b""}], coming=29, taking=59))


@pytest.mark.parametrize("head", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-", b"\r\n"])
def test_a_connection_that_sends_no_whole_head_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(HttpProtocol, "head_seconds", 0.3)
    with (
        GatewayServer(gateway(tmp_path), port=0) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=HANG) as connection,
    ):
        connection.sendall(head)
        assert connection.recv(1024) == b""


class Wire(asyncio.Transport):
    """A connection in memory: what was written to it, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def _one(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers ``ok``."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def test_the_head_of_each_request_has_its_time_and_what_comes_between_requests_has_its_own() -> None:
    whole = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    kept = 3 * HEAD_SECONDS
    config = uvicorn.Config(_one, lifespan="off", log_config=None, timeout_keep_alive=int(kept) + 1)
    config.load()

    async def story() -> None:
        def connect() -> tuple[HttpProtocol, Wire]:
            protocol, wire = HttpProtocol(config, ServerState(), {}), Wire()
            protocol.connection_made(wire)
            return protocol, wire

        protocol, wire = connect()
        for answers in (1, 2):  # slowly, but whole in time; and it is kept until it asks again
            for part in (whole[:5], whole[5:20], whole[20:]):
                protocol.data_received(part)
                if part != whole[20:]:
                    await asyncio.sleep(HEAD_SECONDS * 0.4)
            await asyncio.sleep(kept)
            assert wire.written.count(b"HTTP/1.1 200 OK") == answers
            assert not wire.closed
        protocol.data_received(whole[:5])
        await asyncio.sleep(HEAD_SECONDS - 1)
        assert not wire.closed
        protocol.data_received(whole[5:20])  # a head that drips is not waited for longer
        await asyncio.sleep(2)
        assert wire.closed
        protocol.connection_lost(None)
        _, silent = connect()
        await asyncio.sleep(HEAD_SECONDS + 1)
        assert silent.closed

    leaping(story())


def test_health_and_readiness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = gateway(tmp_path)

    async def asked() -> tuple[httpx.Response, httpx.Response]:
        async with client_for(create_app(here)) as http:
            return await http.get("/health"), await http.get("/ready")

    health, ready = asyncio.run(asked())
    assert (health.status_code, ready.status_code) == (200, 200)
    assert ready.json() == {"status": "ok", "checks": {"control plane": True, "lake": True}}
    broken = new_gateway()  # whose data folder cannot be made

    async def asked_broken() -> httpx.Response:
        async with client_for(create_app(broken)) as http:
            return await http.get("/ready")

    refused = asyncio.run(asked_broken())
    assert refused.status_code == 503
    assert refused.json()["checks"] == {"control plane": True, "lake": False}


def _metrics(here: Gateway, headers: Mapping[str, str], host: str = "127.0.0.1") -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(here), client=(host, 1234))
        async with httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL) as http:
            await http.get("/fhir/metadata")
            await http.post("/auth/token", data={"grant_type": "password"})
            return await http.get("/metrics", headers=headers)

    return asyncio.run(asked())


def test_metrics_count_requests_and_refused_tokens(tmp_path: Path) -> None:
    answered = _metrics(gateway(tmp_path), {})
    assert answered.status_code == 200
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answered.text)
        for sample in family.samples
    }
    assert found["fhir_gateway_requests_total", "", "200", "capabilities"] == 1
    assert found[("fhir_gateway_lake_version",)] == 0
    assert sum(value for key, value in found.items() if key[0] == "fhir_gateway_token_answers_total") == 1


@pytest.mark.parametrize(
    ("token", "host", "headers", "status"),
    [
        (None, "192.0.2.1", {}, 401),
        (None, "127.0.0.1", {"X-Forwarded-For": "192.0.2.1"}, 401),
        ("open-sesame", "127.0.0.1", {}, 401),
        ("open-sesame", "127.0.0.1", {"Authorization": "Bearer other"}, 401),
        ("open-sesame", "192.0.2.1", {"Authorization": "Bearer open-sesame"}, 200),
    ],
)
def test_metrics_are_for_this_machine_or_for_the_token(
    tmp_path: Path, token: str | None, host: str, headers: Mapping[str, str], status: int
) -> None:
    secret = None if token is None else SecretStr(token)
    assert _metrics(gateway(tmp_path, metrics_token=secret), headers, host).status_code == status


def test_logs_are_lines_of_json_with_the_id_of_the_request_and_no_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logs.configure("json", "info")
        here = gateway(tmp_path)
        key = register(here, "client-one", "system/Patient.rs")

        async def story() -> None:
            async with client_for(create_app(here)) as http:
                headers = await authorize(http, "client-one", key, "system/Patient.rs")
                await http.get("/fhir/Patient?family=Secretname", headers={**headers, "X-Request-Id": "r-1"})

        asyncio.run(story())
    finally:
        root.handlers, root.level = before
        logging.getLogger("fhir_gateway").setLevel(logging.NOTSET)
        logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    (search,) = (line for line in lines if line["request_id"] == "r-1")
    assert (search["client"], search["interaction"], search["resource_type"], search["status"]) == (
        "client-one",
        "search-type",
        "Patient",
        200,
    )
    assert "Secretname" not in text
