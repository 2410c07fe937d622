"""A second issuer, with its own keys and server: what its tokens open here, and every way to be refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, client_for
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from pydantic import SecretStr

from fhir_gateway.auth.assertion import generate_key, public_key_set
from fhir_gateway.config import Issuer, Settings
from fhir_gateway.errors import ConfigurationError
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app

pytestmark = pytest.mark.anyio
AUDIENCE = f"{PUBLIC_URL}/fhir"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Authority:
    """An issuer of JWT access tokens that serves its keys on a loopback port."""

    url: str
    keys: list[dict[str, Any]] = field(default_factory=lambda: [generate_key("ES384", "one")])
    fetched: int = 0

    def token(self, key: dict[str, Any] | None = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        signing = key or self.keys[0]
        now = int(time.time())
        said = {
            "iss": self.url,
            "sub": "plan",
            "aud": AUDIENCE,
            "client_id": "plan",
            "iat": now,
            "exp": now + 3600,
            "jti": "j",
            "scope": "system/*.rs",
        }
        payload = {name: value for name, value in (said | claims).items() if value is not None}
        private = RSAKey.import_key(signing) if signing["kty"] == "RSA" else ECKey.import_key(signing)
        head = {"alg": signing["alg"], "kid": signing["kid"], "typ": "at+jwt"} | (header or {})
        return jwt.encode({k: v for k, v in head.items() if v is not None}, payload, private, algorithms=[head["alg"]])


@pytest.fixture
def authority() -> Iterator[Authority]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuing.fetched += 1
            body = json.dumps(public_key_set(*issuing.keys)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuing = Authority(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield issuing
    server.shutdown()
    thread.join()
    server.server_close()


@asynccontextmanager
async def gateway(authority: Authority, *, issue: bool = False) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    settings = Settings(
        database_url=SecretStr("sqlite://"),
        encryption_key=SecretStr(Fernet.generate_key().decode()),
        public_url=PUBLIC_URL,
        data_dir=Path("/dev/null/no-data-folder"),
        issue_tokens=issue,
        issuers=(
            Issuer(
                url=authority.url,
                jwks_url=f"{authority.url}/jwks",
                token_url=f"{authority.url}/token",
                audience=AUDIENCE,
            ),
        ),
    )
    here = Gateway(settings)
    here.authorization.register_client("plan", scopes="system/Group.rs", grants=["contract:aco"], purpose="HPAYMT")
    here.resources.put_many(
        [
            {"resourceType": "Group", "id": "g", "type": "person", "actual": True},
            {"resourceType": "Organization", "id": "o"},
        ]
    )
    async with client_for(create_app(here)) as http:
        yield here, http


async def _get(http: httpx.AsyncClient, token: str, path: str = "Group") -> httpx.Response:
    return await http.get(f"/fhir/{path}", headers={"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize(
    "scopes",
    [
        {"scope": "system/*.rs"},
        {"scope": None, "scp": ["system/*.rs", "openid"]},
        {"scope": None, "scp": "system/Group.rs"},
    ],
)
async def test_its_token_opens_what_the_client_is_registered_for(authority: Authority, scopes: dict[str, Any]) -> None:
    async with gateway(authority) as (here, http):
        token = authority.token(**scopes)
        assert (await _get(http, token)).json()["total"] == 0  # nobody labelled the list for its contract
        assert (await _get(http, token, "Organization/o")).status_code == 403  # not registered for it
        access = here.authorization.verify(f"Bearer {token}")
        assert (access.client_id, access.scope, access.purpose) == ("plan", "system/Group.rs", "HPAYMT")
        assert access.audience.labels == {"contract:aco"}
        here.authorization.disable_client("plan")
        assert (await _get(http, token)).status_code == 401


async def test_discovery_points_to_the_issuer_and_nothing_is_issued_here(authority: Authority) -> None:
    async with gateway(authority) as (_, http):
        document = (await http.get("/fhir/.well-known/smart-configuration")).json()
        assert document["token_endpoint"] == f"{authority.url}/token"
        assert "introspection_endpoint" not in document
        assert (await http.post("/auth/token", data={})).status_code == 404
        statement = (await http.get("/fhir/metadata")).json()
        (oauth,) = statement["rest"][0]["security"]["extension"]
        assert oauth["extension"][0]["valueUri"] == f"{authority.url}/token"


async def test_both_may_issue_side_by_side(authority: Authority) -> None:
    async with gateway(authority, issue=True) as (here, http):
        key = generate_key("ES384", "k")
        here.authorization.register_client("own", scopes="system/*.rs", jwks=public_key_set(key))
        document = (await http.get("/fhir/.well-known/smart-configuration")).json()
        assert document["token_endpoint"] == f"{PUBLIC_URL}/auth/token"
        assert (await _get(http, authority.token())).status_code == 200


async def test_keys_are_kept_and_looked_for_again_when_one_is_unknown(authority: Authority) -> None:
    async with gateway(authority) as (_, http):
        for _ in range(3):
            assert (await _get(http, authority.token())).status_code == 200
        assert authority.fetched == 1
        stranger = generate_key("ES384", "two")
        assert (await _get(http, authority.token(stranger))).status_code == 401
        assert authority.fetched == 1  # it was fetched a moment ago


PUBLIC = json.dumps(public_key_set(generate_key("ES384", "x")))
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "another issuer": ("iss", {"iss": "https://elsewhere.example"}),
    "no issuer": ("iss", {"iss": None}),
    "another audience": ("aud", {"aud": "https://elsewhere.example"}),
    "no audience": ("aud", {"aud": None}),
    "expired": ("exp", {"exp": 1}),
    "no end": ("exp", {"exp": None}),
    "end no number": ("exp", {"exp": "never"}),
    "end not a number": ("jwt", {"exp": float("nan")}),
    "not yet": ("nbf", {"nbf": 4102444800}),
    "from the future": ("iat", {"iat": 4102444800}),
    "no client": ("client", {"client_id": None}),
    "client no text": ("client", {"client_id": 7}),
    "unknown client": ("client", {"client_id": "stranger"}),
    "typ of an ID token": ("typ", {"header": {"typ": "JWT"}}),
    "no typ": ("typ", {"header": {"typ": None}}),
    "no kid": ("kid", {"header": {"kid": None}}),
    "unknown kid": ("key", {"header": {"kid": "two"}}),
    "a key of the same name": ("signature", {"key": generate_key("ES384", "one")}),
    "a key of another kind": ("key", {"key": generate_key("RS384", "one")}),
}


@pytest.mark.parametrize(("check", "changes"), REFUSED.values(), ids=REFUSED.keys())
async def test_tokens_that_are_not_good(authority: Authority, check: str, changes: dict[str, Any]) -> None:
    async with gateway(authority) as (here, http):
        answer = await _get(http, authority.token(**changes))
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert here.authorization.counts() == {("bearer", check): 1}


async def test_no_other_kind_of_signature_is_taken(authority: Authority) -> None:
    async with gateway(authority) as (here, http):
        good = authority.token()
        hmac = OctKey.import_key(json.dumps(public_key_set(*authority.keys)["keys"][0]))
        forged = jwt.encode(
            {"alg": "HS256", "kid": "one", "typ": "at+jwt"}, {"iss": authority.url}, hmac, algorithms=["HS256"]
        )
        unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0." + good.split(".")[1] + "."
        for token in (forged, unsigned, good[:-8], good + "x" * 20_000, "a.b.c", "é.b.c"):
            headers = {b"Authorization": b"Bearer " + token.encode()}
            assert (await http.get("/fhir/Group", headers=headers)).status_code == 401
        assert here.authorization.counts()["bearer", "alg"] == 2


def test_settings_that_would_leave_nobody_to_issue_tokens_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_GATEWAY_ISSUE_TOKENS", "false")
    with pytest.raises(ConfigurationError, match="no client could get a token"):
        Settings.read()
    one = {"url": "u", "jwks_url": "j", "token_url": "t", "audience": "a"}
    monkeypatch.setenv("FHIR_GATEWAY_ISSUERS", json.dumps([one]))
    assert Settings.read().issuers[0].client_claim == "client_id"
    monkeypatch.setenv("FHIR_GATEWAY_ISSUERS", json.dumps([one, one]))
    with pytest.raises(ConfigurationError, match="twice"):
        Settings.read()
    monkeypatch.setenv("FHIR_GATEWAY_ISSUERS", json.dumps([one | {"algorithms": ["HS256"]}]))
    with pytest.raises(ConfigurationError, match="ALGORITHMS"):
        Settings.read()
