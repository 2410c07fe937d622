"""Stories of a backend client at the token endpoint: what it gets, and every way to be refused."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import time_machine
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from fhir_gateway.auth.assertion import generate_key, public_key_set
from fhir_gateway.auth.jwks import JwksCache
from fhir_gateway.auth.routes import router
from fhir_gateway.auth.service import AuthorizationServer
from fhir_gateway.db.engine import create_engine
from fhir_gateway.errors import AuthenticationError
from tests.support.backend_client import Partner

pytestmark = pytest.mark.anyio

BASE = "https://gateway.example"
KEYS = {alg: generate_key(alg, f"{alg}-1") for alg in ("RS384", "ES384")}
NOON = "2026-03-01T12:00:00+05:45"  # far from UTC on purpose


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def gateway(
    alg: str = "ES384", *, scopes: str = "system/*.rs", jwks: JwksCache | None = None, jwks_url: str | None = None
) -> AsyncIterator[tuple[AuthorizationServer, Partner]]:
    server = AuthorizationServer(
        create_engine("sqlite://"),
        auth_url=f"{BASE}/auth",
        supported_types=["Patient", "Group", "Observation"],
        jwks=jwks,
    )
    server.store.create_tables()
    key = KEYS[alg]
    inline = public_key_set(*KEYS.values()) if jwks_url is None else None
    server.register_client("partner", scopes=scopes, jwks=inline, jwks_url=jwks_url)
    app = FastAPI()
    app.include_router(router(server))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as http:
        yield server, Partner(http, f"{BASE}/auth/token", key, alg)


@pytest.mark.parametrize("alg", ["RS384", "ES384"])
async def test_a_client_discovers_authorizes_looks_at_its_token_and_gives_it_back(alg: str) -> None:
    async with gateway(alg) as (server, partner):
        discovery = await partner.http.get("/fhir/.well-known/smart-configuration", headers={"Origin": "https://x.y"})
        assert discovery.headers["content-type"].startswith("application/json")
        assert discovery.headers["access-control-allow-origin"] == "*"
        document = discovery.json()
        assert document["token_endpoint"] == partner.token_url
        assert document["grant_types_supported"] == ["client_credentials"]
        assert document["token_endpoint_auth_signing_alg_values_supported"] == ["RS384", "ES384"]
        assert document["code_challenge_methods_supported"] == ["S256"]
        assert {"client-confidential-asymmetric", "permission-v1", "permission-v2"} <= set(document["capabilities"])
        assert {"system/*.rs", "system/*.read", "system/Patient.rs"} <= set(document["scopes_supported"])

        asked = int(time.time())
        response = await partner.request(scope="system/*.read")
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["pragma"] == "no-cache"
        body = response.json()
        assert set(body) == {"access_token", "token_type", "expires_in", "scope"}
        assert (body["token_type"], body["expires_in"], body["scope"]) == ("bearer", 300, "system/*.read")

        bearer = {"Authorization": f"Bearer {body['access_token']}"}
        assert server.verify(bearer["Authorization"]).allows("Patient", "s")
        seen = await partner.http.post(document["introspection_endpoint"], data={"token": body["access_token"]})
        assert seen.status_code == 401  # nobody may scan for tokens
        seen = await partner.http.post(
            document["introspection_endpoint"], data={"token": body["access_token"]}, headers=bearer
        )
        claims = seen.json()
        assert (claims["active"], claims["client_id"], claims["scope"]) == (True, "partner", "system/*.read")
        assert asked + 300 <= claims["exp"] <= time.time() + 300

        unknown = await partner.http.post(document["introspection_endpoint"], data={"token": "x"}, headers=bearer)
        assert (unknown.status_code, unknown.json()) == (200, {"active": False})
        assertion = {
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": partner.assertion(),
        }
        gone = await partner.http.post(
            document["revocation_endpoint"], data={"token": body["access_token"]} | assertion
        )
        assert gone.status_code == 200
        with pytest.raises(AuthenticationError):
            server.verify(bearer["Authorization"])
        after = await partner.http.post(
            document["introspection_endpoint"], data={"token": body["access_token"]}, headers=await partner.bearer()
        )
        assert after.json() == {"active": False}


async def test_another_clients_token_is_neither_shown_nor_revoked() -> None:
    async with gateway() as (server, partner):
        other_key = generate_key("ES384", "o")
        server.register_client("other", scopes="system/*.rs", jwks=public_key_set(other_key))
        other = Partner(partner.http, partner.token_url, other_key, "ES384", "other")
        theirs = (await partner.request()).json()["access_token"]
        headers = await other.bearer()
        seen = await partner.http.post("/auth/introspect", data={"token": theirs}, headers=headers)
        assert seen.json() == {"active": False}
        refused = await partner.http.post("/auth/revoke", data={"token": theirs}, headers=headers)
        assert refused.status_code == 400
        assert server.verify(f"Bearer {theirs}")


async def test_tokens_expire_and_a_new_one_is_had() -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        async with gateway() as (server, partner):
            first = (await partner.bearer())["Authorization"]
            clock.shift(299)
            assert server.verify(first)
            clock.shift(1)
            with pytest.raises(AuthenticationError, match="expired"):
                server.verify(first)
            assert server.verify((await partner.bearer())["Authorization"])


async def test_clocks_may_differ_by_a_minute() -> None:
    with time_machine.travel(NOON, tick=False):
        now = int(time.time())
        async with gateway() as (_, partner):
            for expiry in (now + 300, now + 360, now - 59):
                assert (await partner.request(claims={"exp": expiry})).status_code == 200
            assert (await partner.request(claims={"nbf": now + 59, "iat": now + 59})).status_code == 200
            assert (await partner.request(claims={"aud": ["https://other.example", partner.token_url]})).is_success


def _forged(alg: str, payload: dict[str, Any] | None = None, **header: Any) -> Callable[[Partner], str]:
    def build(partner: Partner) -> str:
        parts = partner.assertion(**(payload or {})).split(".")
        decoded = json.loads(base64.urlsafe_b64decode(parts[0] + "=="))
        changed = json.dumps({k: v for k, v in (decoded | {"alg": alg} | header).items() if v is not None})
        return ".".join([base64.urlsafe_b64encode(changed.encode()).decode().rstrip("="), *parts[1:]])

    return build


def _hmac_of_public_key(partner: Partner) -> str:
    return _hmac(partner, json.dumps(public_key_set(partner.key)["keys"][0]))


def _hmac(partner: Partner, secret: str = "s" * 64) -> str:
    now = int(time.time())
    claims = {"iss": "partner", "sub": "partner", "aud": partner.token_url, "exp": now + 60, "jti": "h"}
    key = OctKey.import_key(secret)
    return jwt.encode({"alg": "HS256", "kid": "ES384-1", "typ": "JWT"}, claims, key, algorithms=["HS256"])


def _unsigned(partner: Partner) -> str:
    return _forged("none")(partner).rsplit(".", 1)[0] + "."


BROKEN_CLAIMS: dict[str, tuple[str, dict[str, Any]]] = {
    "wrong aud": ("aud", {"aud": "https://gateway.example/auth/token/"}),
    "aud is the FHIR base": ("aud", {"aud": "https://gateway.example/fhir"}),
    "aud missing": ("aud", {"aud": None}),
    "expired": ("exp", {"exp": -61}),
    "exp too far": ("exp", {"exp": 361}),
    "exp missing": ("exp", {"exp": None}),
    "exp no number": ("exp", {"exp": "soon"}),
    "exp not finite": ("exp", {"exp": float("nan")}),
    "not yet valid": ("nbf", {"nbf": 120}),
    "jti missing": ("jti", {"jti": None}),
    "jti no text": ("jti", {"jti": 7}),
    "jti empty": ("jti", {"jti": ""}),
    "iss != sub": ("sub", {"sub": "somebody"}),
    "sub missing": ("sub", {"sub": None}),
    "iss missing": ("iss", {"iss": None}),
    "unknown client": ("client", {"iss": "stranger", "sub": "stranger"}),
    "iss with NUL": ("iss", {"iss": "part\x00ner", "sub": "part\x00ner"}),
}


@pytest.mark.parametrize(("check", "claims"), BROKEN_CLAIMS.values(), ids=BROKEN_CLAIMS.keys())
async def test_wrong_claims_are_an_invalid_client(check: str, claims: dict[str, Any]) -> None:
    with time_machine.travel(NOON, tick=False):
        relative = {
            name: int(time.time()) + value if name in ("exp", "nbf") and isinstance(value, int) else value
            for name, value in claims.items()
        }
        async with gateway() as (server, partner):
            _refused(await partner.request(claims=relative), "invalid_client")
            assert server.counts() == {("token", check): 1}


BROKEN_ASSERTIONS: dict[str, tuple[str, Callable[[Partner], str]]] = {
    "no JWT": ("jwt", lambda _: "nonsense"),
    "not base64": ("jwt", lambda _: "a.b.c"),
    "not ASCII": ("jwt", lambda _: "é.é.é"),
    "alg none": ("alg", _unsigned),
    "alg HS256": ("alg", _hmac),
    "alg RS256": ("alg", _forged("RS256")),
    "alg of another kind of key": ("key", _forged("RS384")),
    "unknown kid": ("key", _forged("ES384", kid="other")),
    "kid missing": ("kid", _forged("ES384", kid=None)),
    "typ missing": ("typ", _forged("ES384", typ=None)),
    "typ not JWT": ("typ", _forged("ES384", typ="at+jwt")),
    "jku with inline keys": ("jku", _forged("ES384", jku="https://attacker.example/jwks")),
    "header changed after signing": ("signature", _forged("ES384", extra="1")),
    "signature missing": ("signature", lambda partner: partner.assertion().rsplit(".", 1)[0] + "."),
    "payload changed after signing": (
        "signature",
        lambda partner: ".".join(
            [*partner.assertion(jti="a").split(".")[:2], partner.assertion(jti="b").split(".")[2]]
        ),
    ),
    "signed by another key": (
        "signature",
        lambda partner: Partner(partner.http, partner.token_url, generate_key("ES384", "ES384-1"), "ES384").assertion(),
    ),
    "alg HS256 with the public key as secret": ("alg", _hmac_of_public_key),
    "critical extensions": ("crit", _forged("ES384", crit=["exp"], exp=1)),
    "kid of the other kind of key": ("key", _forged("ES384", kid="RS384-1")),
    "payload no object": ("jwt", lambda _: "eyJhbGciOiJFUzM4NCIsImtpZCI6IkVTMzg0LTEiLCJ0eXAiOiJKV1QifQ.W10.AAAA"),
}


@pytest.mark.parametrize(("check", "build"), BROKEN_ASSERTIONS.values(), ids=BROKEN_ASSERTIONS.keys())
async def test_broken_assertions_are_an_invalid_client(check: str, build: Callable[[Partner], str]) -> None:
    async with gateway() as (server, partner):
        _refused(await partner.request(assertion=build(partner)), "invalid_client")
        assert server.counts() == {("token", check): 1}


def _refused(response: httpx.Response, error: str) -> None:
    assert response.status_code == 400, response.text
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert body["error"] == error
    assert body["error_description"]
    if error == "invalid_client":  # the caller is not told which check failed
        assert body["error_description"] == "Client authentication failed."


async def test_an_assertion_is_good_once_and_a_failed_one_burns_nothing() -> None:
    async with gateway() as (server, partner):
        assertion = partner.assertion(jti="first")
        stolen = Partner(partner.http, partner.token_url, generate_key("ES384", "ES384-1"), "ES384")
        _refused(await partner.request(assertion=stolen.assertion(jti="first")), "invalid_client")
        assert (await partner.request(assertion=assertion)).status_code == 200
        _refused(await partner.request(assertion=assertion), "invalid_client")
        assert server.counts() == {("token", "ok"): 1, ("token", "signature"): 1, ("token", "replay"): 1}


async def test_the_failed_check_is_logged_without_the_assertion(caplog: pytest.LogCaptureFixture) -> None:
    async with gateway() as (_, partner):
        with caplog.at_level(logging.INFO, logger="fhir_gateway.auth"):
            wrong = partner.assertion(aud="https://elsewhere.example")
            await partner.request(assertion=wrong)
            token = (await partner.request()).json()["access_token"]
        assert "aud" in caplog.text
        assert "client partner" in caplog.text
        for secret in (wrong, wrong.split(".")[2], token, "elsewhere"):
            assert secret not in caplog.text


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"grant_type": None}, "invalid_request"),
        ({"grant_type": "authorization_code"}, "unsupported_grant_type"),
        ({"scope": None}, "invalid_request"),
        ({"scope": ""}, "invalid_request"),
        ({"client_assertion_type": None}, "invalid_request"),
        ({"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"}, "invalid_request"),
        ({"client_assertion": None}, "invalid_request"),
        ({"client_id": "somebody"}, "invalid_client"),
        ({"client_secret": "x", "client_id": "partner", "client_assertion": "a.b.c"}, "invalid_client"),
        ({"scope": 'system/Patient.rs "quoted"'}, "invalid_scope"),
        ({"scope": "system/Nonsense.rs"}, "invalid_scope"),
        ({"scope": "system/Encounter.rs"}, "invalid_scope"),  # this server does not have it
        ({"scope": "system/Patient.cud"}, "invalid_scope"),
        ({"scope": "system/Observation.rs?nonsense=laboratory"}, "invalid_scope"),  # cannot be enforced
        ({"scope": " ".join(f"system/Group.rs?identifier={n}" for n in range(51))}, "invalid_scope"),  # too many
        ({"scope": "user/Patient.rs"}, "invalid_scope"),
    ],
)
async def test_wrong_parameters(fields: dict[str, str | None], error: str) -> None:
    async with gateway() as (_, partner):
        _refused(await partner.request(**fields), error)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"grant_type=client_credentials&grant_type=client_credentials", "application/x-www-form-urlencoded"),
        (b'{"grant_type": "client_credentials"}', "application/json"),
        (b"scope=%ff", "application/x-www-form-urlencoded"),
        (b"\xff", "application/x-www-form-urlencoded"),
        (b"a=" + b"x" * 70_000, "application/x-www-form-urlencoded"),
        (b"", "application/x-www-form-urlencoded"),
    ],
)
async def test_a_malformed_form_is_an_invalid_request(body: bytes, content_type: str) -> None:
    async with gateway() as (_, partner):
        response = await partner.http.post(partner.token_url, content=body, headers={"Content-Type": content_type})
        _refused(response, "invalid_request")


async def test_scopes_are_cut_to_what_was_registered() -> None:
    async with gateway(scopes="system/Patient.rs system/Group.r") as (_, partner):
        for requested, granted in {
            "system/*.rs": "system/Group.r system/Patient.rs",
            "system/*.read": "system/Group.r system/Patient.read",
            "system/Patient.rs system/Observation.rs system/Unheard.rs": "system/Patient.rs",
        }.items():
            assert (await partner.request(scope=requested)).json()["scope"] == granted
        _refused(await partner.request(scope="system/Observation.rs"), "invalid_scope")


async def test_a_client_with_a_jwks_url_rotates_its_keys() -> None:
    published = {"keys": public_key_set(KEYS["ES384"])["keys"]}
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, json=published, headers={"Cache-Control": "max-age=3600"})

    url = "https://partner.example/jwks"
    cache = JwksCache(lambda _url: httpx.Client(transport=httpx.MockTransport(handle)))
    with time_machine.travel(NOON, tick=False) as clock:
        async with gateway(jwks=cache, jwks_url=url) as (_, partner):
            assert (await partner.request()).status_code == 200
            assert (await partner.request(assertion=_signed_with_jku(partner, url))).status_code == 200
            elsewhere = _signed_with_jku(partner, "https://attacker.example/jwks")
            _refused(await partner.request(assertion=elsewhere), "invalid_client")
            assert asked == [url]

            clock.shift(60)
            partner.key = generate_key("ES384", "second")
            _refused(await partner.request(), "invalid_client")  # not published yet; looked once more
            assert asked == [url, url]
            published["keys"] = public_key_set(partner.key)["keys"]
            _refused(await partner.request(), "invalid_client")  # but not at once again
            assert asked == [url, url]
            clock.shift(60)
            assert (await partner.request()).status_code == 200
            assert asked == [url, url, url]

            published["keys"] = public_key_set(partner.key)["keys"] * 2
            clock.shift(3601)
            _refused(await partner.request(), "invalid_client")  # two keys fit


def _signed_with_jku(partner: Partner, jku: str) -> str:
    now = int(time.time())
    claims = {"iss": "partner", "sub": "partner", "aud": partner.token_url, "exp": now + 60, "jti": jku}
    header = {"alg": "ES384", "kid": partner.key["kid"], "typ": "jwt", "jku": jku}
    return jwt.encode(header, claims, ECKey.import_key(partner.key), algorithms=["ES384"])
