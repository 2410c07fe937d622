"""Tokens from an endpoint: scope choice, single flight, renewal, and refusals that say which check failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from fhir_gateway.errors import ConfigurationError, SourceAuthError
from fhir_gateway.sources.connect import open_source
from fhir_gateway.sources.discovery import Capabilities, SmartConfiguration
from fhir_gateway.sources.endpoint import Endpoint, SigningKey, generate_key
from fhir_gateway.sources.outcome import PullOutcome
from tests.support.misbehaving import Fault, MisbehavingSource

Pulling = Callable[..., PullOutcome]


def refused(endpoint: Endpoint, key: SigningKey | None, waits) -> str:  # type: ignore[no-untyped-def]
    async def ask() -> None:
        async with open_source(endpoint, key, clock=waits.clock) as source:
            assert source.session.tokens is not None
            await source.session.tokens.token()

    with pytest.raises(SourceAuthError) as caught:
        asyncio.run(ask())
    return str(caught.value)


def test_concurrent_callers_share_one_request(source: MisbehavingSource, endpoint: Endpoint, signing_key) -> None:
    async def ask() -> set[str]:
        async with open_source(endpoint, signing_key) as opened:
            tokens = opened.session.tokens
            assert tokens is not None
            return set(await asyncio.gather(*(tokens.token() for _ in range(20))))

    assert len(asyncio.run(ask())) == 1
    assert len(source.requests("token")) == 1


@pytest.mark.parametrize("expires_in", [300, "1200", None, "soon", True])
def test_expires_in_of_any_kind(source: MisbehavingSource, pulling: Pulling, expires_in: object) -> None:
    source.expires_in = expires_in
    assert pulling().complete
    assert len(source.jtis) == 1


@pytest.mark.parametrize("algorithm", ["ES384", "RS384"])
def test_both_algorithms(source: MisbehavingSource, pulling: Pulling, algorithm) -> None:  # type: ignore[no-untyped-def]
    key = SigningKey("kid-2", algorithm, "active", generate_key(algorithm))
    source.jwks = {"keys": [key.public_jwk()]}
    assert pulling(key=key).complete


def test_an_unknown_key_is_named(source: MisbehavingSource, endpoint: Endpoint, waits) -> None:
    text = refused(endpoint, SigningKey("stranger", "ES384", "active", generate_key("ES384")), waits)
    assert "invalid_client" in text
    assert "stranger (ES384) must be in the JWK Set" in text
    assert "eyJ" not in text


def test_clock_skew_is_corrected_once_and_named(source, endpoint, signing_key, waits) -> None:
    off = Fault(401, {"Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, b'{"error": "invalid_client"}')
    source.faults["token"] = [off, off]
    assert "clock is -" in refused(endpoint, signing_key, waits)
    assert len(source.requests("token")) == 2


def test_bodies_that_are_no_oauth(source, endpoint, signing_key, waits) -> None:
    source.faults["token"] = [Fault(401, {"Content-Type": "text/html"}, b"<html>no</html>")]
    assert "answered 401 without an OAuth error (text/html)" in refused(endpoint, signing_key, waits)
    source.faults["token"] = [Fault(401, {}, b'{"error": "invalid_scope"}')]
    assert "asked for scope: system/*.rs" in refused(endpoint, signing_key, waits)
    source.faults["token"] = [Fault(302, {"Location": "/elsewhere"})]
    assert "not redirected" in refused(endpoint, signing_key, waits)
    source.token_type = "mac"
    assert "not bearer" in refused(endpoint, signing_key, waits)
    source.faults["token"] = [Fault(200, {}, b"[]")]
    assert "no JSON object" in refused(endpoint, signing_key, waits)


def test_busy_token_endpoint(source: MisbehavingSource, pulling: Pulling, waits) -> None:
    source.faults["token"] = [Fault(429, {"Retry-After": "12"}), Fault(503)]
    assert pulling().complete
    assert 12.0 in waits.asked
    assert len(set(source.jtis)) == len(source.jtis)


def test_a_narrower_grant_is_reported(source: MisbehavingSource, pulling: Pulling) -> None:
    source.granted_scope = "system/Patient.rs"
    outcome = pulling()
    assert outcome.complete
    assert "granted system/Patient.rs" in outcome.issues[0].message
    source.granted_scope = None
    assert pulling().issues == ()


def test_registered_values_overrule_discovery(source: MisbehavingSource, pulling: Pulling, endpoint: Endpoint) -> None:
    source.faults["smart"] = [Fault(404)]
    token = source.base.removesuffix("/fhir") + "/token"
    assert pulling(endpoint=replace(endpoint, token_endpoint=token, scopes="system/Patient.read")).complete


def test_no_authorization_at_all(source: MisbehavingSource, endpoint: Endpoint, pulling: Pulling) -> None:
    with pytest.raises(SourceAuthError):
        pulling(endpoint=replace(endpoint, auth="none"), key=None)
    assert source.requests("token") == []


def test_a_client_without_key_or_token_endpoint(source, endpoint, signing_key, waits, pulling) -> None:
    with pytest.raises(ConfigurationError):
        pulling(key=None)
    source.faults["smart"] = [Fault(200, {}, b"{}")]
    assert "names a token endpoint" in refused(endpoint, signing_key, waits)


def smart(*scopes: str, v2: bool = True) -> SmartConfiguration:
    document = {"scopes_supported": list(scopes), "capabilities": ["permission-v2"] if v2 else []}
    return SmartConfiguration.parse(document, "https://ehr.example/fhir")


def test_scope_choice() -> None:
    assert smart().read_scope() == "system/*.rs"
    assert smart(v2=False).read_scope() == "system/*.read"
    assert smart("system/*.read").read_scope() == "system/*.read"
    assert smart("system/*.cruds").read_scope() == "system/*.cruds"
    listed = ("system/Patient.rs", "system/Patient.read", "system/Group.cruds", "system/Task.c", "user/*.rs")
    assert smart(*listed).read_scope().split() == ["system/Group.cruds", "system/Patient.rs"]
    assert smart(*listed).read_scope(["Patient"]) == "system/Group.cruds system/Patient.rs"
    assert smart(*listed, v2=False).read_scope(["Patient"]) == "system/Group.cruds system/Patient.read"
    assert smart("system/Observation.rs?category=laboratory").read_scope() == "system/*.rs"


def test_discovery_resolves_relative_urls_and_voices_concerns() -> None:
    document = {
        "token_endpoint": "auth/token",
        "grant_types_supported": ["authorization_code"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        "token_endpoint_auth_signing_alg_values_supported": ["RS384"],
        "capabilities": "nonsense",
    }
    found = SmartConfiguration.parse(document, "https://ehr.example/r4/tenant")
    assert found.token_endpoint == "https://ehr.example/r4/tenant/auth/token"
    assert len(found.concerns(signed=True)) == 2
    assert len(found.concerns(signed=False)) == 1


def test_capabilities_tolerate_all_spellings() -> None:
    canonical = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/group-export|2.0.0"
    statement = {
        "fhirVersion": "4.0.1",
        "software": {"name": "x"},
        "rest": [
            {"mode": "client", "operation": [{"name": "export"}]},
            {
                "mode": "server",
                "resource": [
                    {"type": "Group", "operation": [{"name": "g", "definition": canonical}]},
                    {"type": "Patient", "operation": [{"name": "$export"}, {"name": "everything"}]},
                    {"type": "Claim", "operation": [{"name": "export"}]},
                    "nonsense",
                ],
            },
        ],
    }
    found = Capabilities.parse(statement)
    assert found.export_levels == {"group", "patient"}
    assert found.types == ("Group", "Patient", "Claim")
    assert Capabilities.parse({}) == Capabilities()
