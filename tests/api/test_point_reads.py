"""Plain reads by id go a way of their own: the same answers and the same trail as the general way gives."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fhir_face import authorize, client_for, new_gateway, register
from joserfc.jwk import ECKey

from fhir_gateway.auth.kept import KeptTokens
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app
from fhir_gateway.server.audit import audit_events
from fhir_gateway.server.point_reads import PointReads
from fhir_gateway.server.serve import GatewayServer
from tests.support.waiting import HANG

pytestmark = pytest.mark.anyio

RESTRICTED = "system/Patient.r?gender=female system/Group.r"
#: Clients: their scopes, and whose data they see.
CLIENTS: dict[str, tuple[str, list[str] | None]] = {
    "operator": ("system/*.rs", None),
    "payer": ("system/*.rs", ["contract:aco"]),
    "stranger": ("system/*.rs", ["contract:none"]),
    "restricted": (RESTRICTED, None),
    "narrow": ("system/Organization.r", None),
}
PATHS = [
    "Patient/p1",
    "Patient/p2",
    "Patient/long",
    "Patient/gone",
    "Patient/absent",
    "Patient/not_an_id",
    "Patient/p1/_history/1",
    "Patient/p1/_history/2",
    "Patient/p1/_history/3",
    "Patient/p1/_history/02",
    "Patient/p1/_history/x",
    "Patient/gone/_history/2",
    "Patient/p1/_other/1",
    "Patient/p1/",
    "Group/listed",
    "Group/unlisted",
    "Organization/us",
    "MeasureReport/none-p1",
    "Observation/o1",
    "AuditEvent/1",
    "Nothing/p1",
    "Patient/p1?_format=json",
    "Patient/p1?_format=xml",
    "Patient/p1?_summary=true",
    "Patient/p1?_elements=name",
    "Patient/p1?unknown",
    "Patient/p%31",
]
HEADERS: list[dict[str, str]] = [
    {},
    {"Accept": "application/fhir+json"},
    {"Accept": "application/fhir+xml"},
    {"Accept": "application/fhir+json; fhirVersion=5.0"},
    {"Accept-Encoding": "gzip"},
    {"Accept-Encoding": "gzip;q=0, br"},
    {"If-None-Match": 'W/"2"'},
    {"If-None-Match": '"1", "2"'},
    {"If-None-Match": "*"},
    {"If-None-Match": 'W/"1"', "If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"},
    {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"},
    {"If-Modified-Since": "Wed, 01 Jan 2020 00:00:00 GMT"},
    {"If-Modified-Since": "yesterday"},
    {"Prefer": "return=minimal"},
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Ways:
    """One gateway behind two applications: as it is served, and without the way of plain reads."""

    def __init__(self, gateway: Gateway, tokens: Mapping[str, Mapping[str, str]], *faces: httpx.AsyncClient) -> None:
        self.gateway, self.tokens = gateway, tokens
        self.served, self.general = faces
        self._numbers = itertools.count()

    async def both(self, path: str, headers: Mapping[str, str]) -> tuple[httpx.Response, httpx.Response]:
        """The answers of both, to requests of the same id."""
        named = {"X-Request-Id": f"r{next(self._numbers)}", **headers}
        return await self.served.get(f"/fhir/{path}", headers=named), await self.general.get(
            f"/fhir/{path}", headers=named
        )

    def trail(self, request_id: str) -> list[tuple[Any, ...]]:
        """The entries of a request, without their number and time."""
        columns = [column for column in audit_events.c if column.name not in ("id", "recorded")]
        with self.gateway.engine.connect() as connection:
            chosen = sa.select(*columns).where(audit_events.c.request_id == request_id)
            return [tuple(row) for row in connection.execute(chosen)]


def _only_general(app: FastAPI) -> FastAPI:
    app.user_middleware = [one for one in app.user_middleware if one.cls != PointReads]
    return app


@pytest.fixture
async def ways(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ways]:
    monkeypatch.setattr(KeptTokens.__init__, "__defaults__", (3600.0,))  # however slow the machine is
    gateway = new_gateway()
    members = [{"entity": {"reference": "Patient/p1"}}, {"entity": {"reference": "Patient/p2"}, "inactive": True}]
    group = {"resourceType": "Group", "type": "person", "actual": True}
    gateway.resources.put_many(
        [
            {"resourceType": "Patient", "id": "p1", "gender": "male"},
            {
                "resourceType": "Patient",
                "id": "p2",
                "gender": "female",
                "link": [{"other": {"reference": "Patient/p1"}}],
            },
            {"resourceType": "Patient", "id": "long", "name": [{"family": "x" * 2000}]},
            {"resourceType": "Patient", "id": "gone"},
            {"resourceType": "Organization", "id": "us", "name": "Us"},
            labelled({**group, "id": "listed", "member": members}, label("contract", "aco")),
            labelled({**group, "id": "unlisted"}, label("contract", "other")),
        ]
    )
    gateway.resources.put({"resourceType": "Patient", "id": "p1", "gender": "female"})
    gateway.resources.delete("Patient", "gone")
    keys: dict[str, ECKey] = {}
    for name, (scopes, grants) in CLIENTS.items():
        keys[name] = key = ECKey.generate_key("P-384", {"kid": name, "use": "sig", "alg": "ES384"})
        jwks = {"keys": [key.as_dict(private=False)]}
        gateway.authorization.register_client(name, scopes=scopes, jwks=jwks, grants=grants, purpose="HPAYMT")
    apps = create_app(gateway), _only_general(create_app(gateway))
    async with AsyncExitStack() as stack:
        faces = [await stack.enter_async_context(client_for(app)) for app in apps]
        tokens = {name: await authorize(faces[1], name, key, CLIENTS[name][0]) for name, key in keys.items()}
        yield Ways(gateway, tokens | {"nobody": {}, "unknown": {"Authorization": "Bearer unknown"}}, *faces)
        for app in apps:
            app.state.audit.close()
    gateway.engine.dispose()


def _said(answer: httpx.Response) -> tuple[Any, ...]:
    return answer.status_code, answer.headers.raw, answer.content


async def test_both_ways_answer_alike(ways: Ways) -> None:
    for (name, token), path in itertools.product(ways.tokens.items(), PATHS):
        for headers in HEADERS if name == "operator" or path == "Patient/p1" else HEADERS[:1]:
            plain, general = await ways.both(path, {**token, **headers})
            assert _said(plain) == _said(general), (name, path, headers)
            entries = ways.trail(plain.headers["X-Request-Id"])
            assert len(entries) in (0, 2), (name, path, headers)
            assert len(set(entries)) <= 1, (name, path, headers)


async def test_which_reads_are_plain(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    answer = PointReads._answer

    def noted(self: PointReads, asked: Any, stored: Any) -> None:
        taken.append(f"{asked.access.client_id} {asked.access.resource_type}/{asked.access.resource_id}")
        answer(self, asked, stored)

    monkeypatch.setattr(PointReads, "_answer", noted)
    for (_, token), path in itertools.product(ways.tokens.items(), PATHS):
        await ways.served.get(f"/fhir/{path}", headers=token)
    plain = {
        "operator": ["Patient/p1", "Patient/p2", "Patient/long", "Group/listed", "Group/unlisted", "Organization/us"],
        "payer": ["Patient/p1", "Group/listed", "Organization/us"],
        "stranger": ["Organization/us"],
        "narrow": ["Organization/us"],
    }
    assert set(taken) == {f"{client} {one}" for client, some in plain.items() for one in some}


async def test_many_at_once_have_each_their_own_answer(ways: Ways) -> None:
    ids = [f"m{number}" for number in range(700)]
    ways.gateway.resources.put_many({"resourceType": "Patient", "id": one} for one in ids)
    headers = ways.tokens["operator"]
    await ways.both("Patient/p1", headers)
    asked = [*ids, *ids[:50], "absent"]
    answers = await asyncio.gather(*(ways.served.get(f"/fhir/Patient/{one}", headers=headers) for one in asked))
    assert [one.status_code for one in answers] == [200] * 750 + [404]
    assert [one.json()["id"] for one in answers[:750]] == asked[:750]
    with ways.gateway.engine.connect() as connection:
        read = sa.select(audit_events.c.resource_id).where(
            audit_events.c.request_id.in_([one.headers["X-Request-Id"] for one in answers])
        )
        assert sorted(connection.scalars(read)) == sorted(asked)


async def test_a_revoked_token_reads_no_more(ways: Ways) -> None:
    headers = ways.tokens["operator"]
    for _ in range(3):
        assert (await ways.served.get("/fhir/Patient/p1", headers=headers)).status_code == 200
    ways.gateway.authorization.disable_client("operator")
    answers = await asyncio.gather(*(ways.served.get("/fhir/Patient/p1", headers=headers) for _ in range(20)))
    assert {one.status_code for one in answers} == {401}


async def test_a_token_that_was_not_asked_for_a_while_is_looked_up_once(
    ways: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = ways.tokens["operator"]
    for _ in range(2):
        await ways.served.get("/fhir/Patient/p1", headers=headers)
    looked_up: list[object] = []
    store = ways.gateway.authorization.store
    token = store.token

    def noted(presented: str) -> object:
        looked_up.append(presented)
        return token(presented)

    monkeypatch.setattr(store, "token", noted)
    store.state = object()  # as after a change of some client
    answers = await asyncio.gather(*(ways.served.get("/fhir/Patient/p1", headers=headers) for _ in range(20)))
    assert {one.status_code for one in answers} == {200}
    assert len(looked_up) == 1


async def test_a_trail_that_cannot_be_written_answers_nothing(
    ways: Ways, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    headers = ways.tokens["operator"]
    for _ in range(2):
        await ways.served.get("/fhir/Patient/p1", headers=headers)
    trail = ways.served._transport.app.state.audit  # type: ignore[attr-defined]

    def fails(_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(trail, "_commit", fails)
    answer = await ways.served.get("/fhir/Patient/p1", headers=headers)
    assert answer.status_code == 500
    assert b"gender" not in answer.content
    assert any("general way" in one.getMessage() for one in caplog.records)


async def test_plain_reads_count_for_the_rate_limit_metrics_and_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = {"client_requests_per_minute": 5, "data_dir": tmp_path}
    gateway = Gateway(new_gateway().settings.model_copy(update=changed))
    gateway.resources.put({"resourceType": "Patient", "id": "p1"})
    key = register(gateway, "acme", "system/*.rs")
    app = create_app(gateway)
    async with client_for(app) as http:
        headers = await authorize(http, "acme", key, "system/*.rs")
        with caplog.at_level(logging.INFO, "fhir_gateway.server"):
            answers = [await http.get("/fhir/Patient/p1", headers=headers) for _ in range(7)]
        metrics = (await http.get("/metrics")).text
    app.state.audit.close()
    gateway.engine.dispose()
    assert [one.status_code for one in answers] == [200] * 5 + [429] * 2
    assert answers[-1].headers["Retry-After"]
    assert 'fhir_gateway_requests_total{interaction="read",resource_type="Patient",status="200"} 5.0' in metrics
    assert "fhir_gateway_requests_under_way 1.0" in metrics  # the one that asks
    assert len([one for one in caplog.records if one.getMessage().startswith("read Patient -> 200")]) == 5


def test_over_a_socket_the_answer_is_one_whole(tmp_path: Path) -> None:
    """The same bytes over HTTP: keep-alive, one after the other in one connection, and closing."""
    gateway = Gateway(new_gateway().settings.model_copy(update={"data_dir": tmp_path}))
    gateway.resources.put({"resourceType": "Patient", "id": "p1"})
    gateway.authorization.register_client("acme", scopes="system/*.rs", jwks=_any_key())
    now = 4_000_000_000
    gateway.authorization.store.add_token("opaque", "acme", "system/*.rs", now - 300, now)
    with (
        GatewayServer(gateway, port=0) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=HANG) as http,
    ):
        headers = {"Authorization": "Bearer opaque", "X-Request-Id": "one"}
        answers = [http.get("/fhir/Patient/p1", headers=headers) for _ in range(4)]
        general = http.get("/fhir/Patient/p1", params={"_format": "json"}, headers=headers)
        fresh = http.get("/fhir/Patient/p1", headers={**headers, "If-None-Match": 'W/"1"'})
        closing = http.get("/fhir/Patient/p1", headers={**headers, "Connection": "close"})
        again = http.get("/fhir/Patient/p1", headers=headers)
    gateway.engine.dispose()
    kept = [[one for one in answer.headers.raw if one[0] != b"date"] for answer in (*answers, general, again)]
    assert all(one == kept[0] for one in kept)
    assert len({one.content for one in (*answers, general, again, closing)}) == 1
    assert (fresh.status_code, fresh.content) == (304, b"")
    assert closing.headers["Connection"] == "close"


def _any_key() -> dict[str, Any]:
    key = ECKey.generate_key("P-384", {"kid": "k", "use": "sig", "alg": "ES384"})
    return {"keys": [key.as_dict(private=False)]}


@pytest.mark.parametrize("alone", [True, False])
def test_a_process_that_was_started_to_serve_spares_what_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    spared: list[bool] = []
    monkeypatch.setattr("fhir_gateway.server.serve.spare_what_is_kept", lambda: spared.append(True))
    gateway = Gateway(new_gateway().settings.model_copy(update={"data_dir": tmp_path}))
    with GatewayServer(gateway, port=0, alone=alone) as server:
        answer = httpx.get(f"http://127.0.0.1:{server.port}/fhir/metadata", timeout=HANG)
    gateway.engine.dispose()
    assert answer.status_code == 200
    assert spared == [True] * alone
