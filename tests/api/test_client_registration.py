"""Stories of clients that register themselves (RFC 7591): nothing is had before an operator approves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import time_machine
from fastapi import FastAPI

from fhir_gateway.auth import jwks as fetching
from fhir_gateway.auth.assertion import generate_key, public_key_set
from fhir_gateway.auth.jwks import JwksCache, is_public
from fhir_gateway.auth.registration import MOST_PENDING, Mode
from fhir_gateway.auth.routes import router
from fhir_gateway.auth.service import AuthorizationServer
from fhir_gateway.db.engine import create_engine
from fhir_gateway.errors import ConflictError, InputError, NotFoundError, SourceError
from tests.support.backend_client import Partner

pytestmark = pytest.mark.anyio
BASE = "https://gateway.example"
KEY = generate_key("ES384", "k")
GOOD: dict[str, Any] = {"client_name": "Partner", "jwks": public_key_set(KEY), "scope": "system/*.rs"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def gateway(mode: Mode = "invited") -> AsyncIterator[tuple[AuthorizationServer, httpx.AsyncClient]]:
    server = AuthorizationServer(create_engine("sqlite://"), auth_url=f"{BASE}/auth", registration=mode)
    server.store.create_tables()
    app = FastAPI()
    app.include_router(router(server))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as http:
        yield server, http


async def test_a_client_is_invited_registers_waits_is_approved_and_gets_its_token() -> None:
    async with gateway() as (server, http):
        discovered = (await http.get("/fhir/.well-known/smart-configuration")).json()
        bearer = {"Authorization": f"Bearer {server.invite('partners')}"}
        registered = await http.post(discovered["registration_endpoint"], json=GOOD, headers=bearer)
        assert registered.status_code == 201, registered.text
        assert registered.headers["cache-control"] == "no-store"
        body = registered.json()
        assert (body["client_name"], body["scope"], body["jwks"]) == ("Partner", "", GOOD["jwks"])
        assert body["token_endpoint_auth_method"] == "private_key_jwt"

        partner = Partner(http, f"{BASE}/auth/token", KEY, "ES384", body["client_id"])
        refused = await partner.request()
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_client")
        assert server.counts()["token", "pending"] == 1
        waiting = server.client(body["client_id"])
        assert (waiting.pending, waiting.scopes, waiting.audience.labels) == (True, (), frozenset())
        assert (waiting.requested, waiting.origin) == ("system/*.rs", "invitation:partners")

        server.approve_client(body["client_id"], scopes="system/Group.rs", grants=["contract:aco"], purpose="HPAYMT")
        token = (await partner.request()).json()
        assert token["scope"] == "system/Group.rs"
        access = server.verify(f"Bearer {token['access_token']}")
        assert (access.audience.labels, access.purpose) == ({"contract:aco"}, "HPAYMT")
        with pytest.raises(ConflictError, match="not waiting"):
            server.approve_client(body["client_id"], scopes="system/*.rs")
        again = await http.post(discovered["registration_endpoint"], json=GOOD, headers=bearer)
        assert (again.status_code, again.json()["error"]) == (401, "invalid_token")  # good once
        assert "www-authenticate" in again.headers


async def test_registration_is_off_unless_switched_on() -> None:
    async with gateway("off") as (_, http):
        assert "registration_endpoint" not in (await http.get("/fhir/.well-known/smart-configuration")).json()
        assert (await http.post("/auth/register", json=GOOD)).status_code == 404


async def test_invitations_end_and_are_needed() -> None:
    with time_machine.travel("2026-03-01T12:00:00+05:45", tick=False) as clock:
        async with gateway() as (server, http):
            token = server.invite("one", days=1)
            for header in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Basic {token}"}):
                assert (await http.post("/auth/register", json=GOOD, headers=header)).status_code == 401
            clock.shift(86_401)
            late = await http.post("/auth/register", json=GOOD, headers={"Authorization": f"Bearer {token}"})
            assert late.status_code == 401
            assert server.clients() == []
            with pytest.raises(ConflictError):
                server.invite("one")
            for wrong in ({"name": "a b"}, {"name": "x", "uses": 0}, {"name": "x", "days": 400}):
                with pytest.raises(InputError):
                    server.invite(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"jwks": None}, "invalid_client_metadata"),
        ({"jwks_uri": "https://partner.example/jwks"}, "invalid_client_metadata"),  # both
        ({"jwks": "x"}, "invalid_client_metadata"),
        ({"jwks": {"keys": [KEY]}}, "invalid_client_metadata"),  # a private key
        ({"jwks": None, "jwks_uri": "http://partner.example/jwks"}, "invalid_client_metadata"),
        ({"jwks": None, "jwks_uri": "http://localhost/jwks"}, "invalid_client_metadata"),
        ({"jwks": None, "jwks_uri": "https://169.254.169.254/jwks"}, "invalid_client_metadata"),
        ({"jwks": None, "jwks_uri": "https://[::1]/jwks"}, "invalid_client_metadata"),
        ({"jwks": None, "jwks_uri": "https://["}, "invalid_client_metadata"),
        ({"jwks": None, "jwks_uri": "https://db.internal/jwks"}, "invalid_client_metadata"),
        ({"jwks": None, "jwks_uri": 7}, "invalid_client_metadata"),
        ({"client_name": "a\nb"}, "invalid_client_metadata"),
        ({"client_name": "x" * 256}, "invalid_client_metadata"),
        ({"contacts": ["x"] * 11}, "invalid_client_metadata"),
        ({"contacts": "x"}, "invalid_client_metadata"),
        ({"scope": 'a "b"'}, "invalid_client_metadata"),
        ({"grant_types": ["authorization_code"]}, "invalid_client_metadata"),
        ({"grant_types": [["x"]]}, "invalid_client_metadata"),
        ({"response_types": ["code"]}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "client_secret_basic"}, "invalid_client_metadata"),
        ({"token_endpoint_auth_signing_alg": "HS256"}, "invalid_client_metadata"),
        ({"redirect_uris": ["https://partner.example"]}, "invalid_redirect_uri"),
        ({"software_statement": "a.b.c"}, "unapproved_software_statement"),
    ],
)
async def test_unfit_metadata_is_refused_and_uses_nothing_up(change: dict[str, Any], error: str) -> None:
    async with gateway() as (server, http):
        headers = {"Authorization": f"Bearer {server.invite('one')}"}
        sent = {name: value for name, value in (GOOD | change).items() if value is not None}
        answer = await http.post("/auth/register", json=sent, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, error), answer.text
        assert (await http.post("/auth/register", json=GOOD, headers=headers)).status_code == 201


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[]", "application/json"),
        (b"{", "application/json"),
        (b"{}", "text/plain"),
        (b"x" * 70_000, "application/json"),
    ],
)
async def test_malformed_bodies_are_refused(body: bytes, kind: str) -> None:
    async with gateway("open") as (_, http):
        answer = await http.post("/auth/register", content=body, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client_metadata")


async def test_no_more_wait_than_an_operator_can_look_at() -> None:
    async with gateway("open") as (server, http):
        for _ in range(MOST_PENDING):
            assert (await http.post("/auth/register", json=GOOD)).status_code == 201
        full = await http.post("/auth/register", json=GOOD)
        assert (full.status_code, full.headers["retry-after"]) == (429, "3600")
        server.disable_client(server.clients()[0].client_id)
        assert (await http.post("/auth/register", json=GOOD)).status_code == 201


async def test_keys_are_replaced_and_those_of_before_count_no_more() -> None:
    async with gateway() as (server, http):
        server.register_client("partner", scopes="system/*.rs", jwks=public_key_set(KEY))
        partner = Partner(http, f"{BASE}/auth/token", KEY, "ES384")
        headers = await partner.bearer()
        other = generate_key("ES384", "other")
        server.replace_keys("partner", jwks=public_key_set(other))
        assert (await partner.request()).status_code == 400
        assert (await http.post("/auth/introspect", data={"token": "x"}, headers=headers)).status_code == 401
        partner.key = other
        assert (await partner.request()).status_code == 200
        with pytest.raises(NotFoundError):
            server.replace_keys("nobody", jwks=public_key_set(other))
        with pytest.raises(InputError):
            server.replace_keys("partner")


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://partner.example/k", True),
        ("https://8.8.8.8/k", True),
        ("https://10.0.0.1/k", False),
        ("https://127.0.0.1/k", False),
        ("https://[::ffff:10.0.0.1]/k", False),
        ("https://[fd00::1]/k", False),
        ("https://localhost/k", False),
        ("https://intranet/k", False),
        ("https://x.local./k", False),
    ],
)
def test_which_hosts_are_public(url: str, public: bool) -> None:
    assert is_public(url) == public


@pytest.mark.parametrize("address", ["10.1.2.3", "127.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:10.0.0.1"])
def test_a_name_that_leads_to_a_private_address_is_not_followed(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(
        fetching.socket,
        "getaddrinfo",
        lambda *_, **__: [(0, 0, 0, "", ("93.184.215.14", 443)), (0, 0, 0, "", (address, 443))],
    )
    monkeypatch.setattr(fetching, "getproxies", dict)
    cache = JwksCache(lambda _url: httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))))
    with pytest.raises(SourceError, match="not public"):
        cache.get("https://partner.example/jwks", public=True)


def test_the_connection_goes_to_the_address_that_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=GOOD["jwks"])

    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("93.184.215.14", 443))])
    monkeypatch.setattr(fetching, "getproxies", dict)
    cache = JwksCache(lambda _url: httpx.Client(transport=httpx.MockTransport(answer)))
    assert cache.get("https://partner.example:8443/jwks?x=1", public=True) == GOOD["jwks"]
    (request,) = asked
    assert str(request.url) == "https://93.184.215.14:8443/jwks?x=1"
    assert request.headers["host"] == "partner.example:8443"
    assert request.extensions["sni_hostname"] == "partner.example"  # whose certificate must be shown
