"""``endpoint check``: each failure is named, against a server that fails in just that way."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.sources.check import CheckLine, check_endpoint
from fhir_gateway.sources.endpoint import ClientSecret, Credential, Endpoint, SigningKey, generate_key
from tests.support.certificates import certificate
from tests.support.misbehaving import Fault, MisbehavingSource, running

HERE = "http://127.0.0.1:8000"


@pytest.fixture
def check(waits: Any, quick: Any) -> Any:
    """The lines of a check by name."""

    def run(endpoint: Endpoint, credential: Credential | None, **values: Any) -> dict[str, CheckLine]:
        asked = {"clock": waits.clock, "profile": replace(quick, max_attempts=2), **values}
        return {one.name: one for one in asyncio.run(check_endpoint(endpoint, credential, HERE, **asked))}

    return run


def failed(found: dict[str, CheckLine]) -> list[str]:
    return [name for name, one in found.items() if one.result == "failed"]


def test_a_healthy_endpoint(source: MisbehavingSource, endpoint: Endpoint, signing_key: SigningKey, check) -> None:  # type: ignore[no-untyped-def]
    found = check(endpoint, signing_key, group="g")
    assert list(found) == ["url", "tls", "discovery", "alg", "kid", "token", "clock", "scope", "export", "group"]
    assert {name: one.result for name, one in found.items() if one.result != "ok"} == {
        "tls": "skipped",
        "kid": "skipped",
    }


def test_url_without_a_server(source: MisbehavingSource, endpoint: Endpoint, signing_key: SigningKey, check) -> None:  # type: ignore[no-untyped-def]
    found = check(replace(endpoint, base_url="http://127.0.0.1:9/fhir"), signing_key)
    assert failed(found) == list(found) == ["url"]
    assert "cannot be reached (Connect call failed" in found["url"].detail


@pytest.mark.parametrize(
    "fault", [Fault(404), Fault(301, {"Location": "/r4/metadata"}), Fault(200, body=b"<html>"), Fault(200, body=b"{}")]
)
def test_url_without_fhir(source: MisbehavingSource, endpoint: Endpoint, signing_key, check, fault: Fault) -> None:  # type: ignore[no-untyped-def]
    source.faults["metadata"] = [fault]
    assert failed(check(endpoint, signing_key)) == ["url"]


def test_tls(source: MisbehavingSource, endpoint: Endpoint, signing_key, check, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    both = str(certificate(tmp_path, "127.0.0.1"))  # nobody signed it but itself
    with running(source, (both, both)) as root:
        found = check(replace(endpoint, base_url=f"{root}/fhir"), signing_key)
    assert failed(found) == ["tls"]
    assert "self-signed certificate" in found["tls"].detail


def test_discovery(source: MisbehavingSource, endpoint: Endpoint, signing_key, check) -> None:  # type: ignore[no-untyped-def]
    source.smart_document = False
    found = check(endpoint, signing_key)
    assert failed(found) == ["discovery"]
    assert "--token-endpoint" in found["discovery"].detail
    source.security_extension = True
    assert failed(check(endpoint, signing_key)) == []


def test_clock(source: MisbehavingSource, endpoint: Endpoint, signing_key, check) -> None:  # type: ignore[no-untyped-def]
    source.clock_ahead = 3600.0
    found = check(endpoint, signing_key)
    assert (found["clock"].result, failed(found)) == ("warning", [])
    assert re.search(r"\+(3600|3599|3601) s off ours", found["clock"].detail)


def test_kid(source: MisbehavingSource, endpoint: Endpoint, check) -> None:  # type: ignore[no-untyped-def]
    stranger = SigningKey.of("ehr", generate_key("ES384"))
    found = check(endpoint, stranger)
    assert failed(found) == ["kid"]
    assert f"key {stranger.kid} (ES384) must be in the JWK Set registered there" in found["kid"].detail


def test_alg(source: MisbehavingSource, endpoint: Endpoint, signing_key, check) -> None:  # type: ignore[no-untyped-def]
    source.algorithms = ["RS384"]
    found = check(endpoint, signing_key)
    assert failed(found) == ["alg"]
    assert "our key signs with ES384, the server lists RS384" in found["alg"].detail


@pytest.mark.parametrize("path", ["/fhir", "/token/", "/"])
def test_aud(source: MisbehavingSource, endpoint: Endpoint, signing_key, check, path: str) -> None:  # type: ignore[no-untyped-def]
    source.audience = source.base.removesuffix("/fhir") + path
    found = check(endpoint, signing_key)
    assert failed(found) == ["aud"]
    assert f"wants aud {source.audience}" in found["aud"].detail
    assert failed(check(replace(endpoint, audience=source.audience), signing_key)) == []


def test_exp(source: MisbehavingSource, endpoint: Endpoint, signing_key, check) -> None:  # type: ignore[no-untyped-def]
    source.longest_assertion = 60
    assert failed(check(endpoint, signing_key)) == ["exp"]


def test_jku(source: MisbehavingSource, endpoint: Endpoint, signing_key, check) -> None:  # type: ignore[no-untyped-def]
    source.jku = f"{HERE}/.well-known/jwks.json"
    assert failed(check(endpoint, signing_key)) == ["jku"]
    assert failed(check(replace(endpoint, jku=source.jku), signing_key)) == []


def test_scope(source: MisbehavingSource, endpoint: Endpoint, signing_key, check) -> None:  # type: ignore[no-untyped-def]
    source.known_scopes = {"system/Patient.rs"}
    found = check(replace(endpoint, scopes="system/Patient.rs system/Basic.rs"), signing_key)
    assert failed(found) == ["scope"]
    assert found["scope"].detail.endswith("refused are: system/Basic.rs")
    source.known_scopes, source.granted_scope = None, "system/Patient.rs"
    assert check(endpoint, signing_key)["scope"].result == "warning"


def test_group(source: MisbehavingSource, endpoint: Endpoint, signing_key, check) -> None:  # type: ignore[no-untyped-def]
    source.group_status = 404
    assert failed(check(endpoint, signing_key, group="nobody")) == ["group"]
    source.group_status = 403
    assert "may not read it" in check(replace(endpoint, group="g"), signing_key)["group"].detail
    source.export_levels = {"group"}
    assert check(endpoint, signing_key)["group"].result == "warning"


def test_client_secret(source: MisbehavingSource, endpoint: Endpoint, check) -> None:  # type: ignore[no-untyped-def]
    source.client_secret = "right"
    basic = replace(endpoint, auth="client-secret")
    assert failed(check(basic, ClientSecret("right"))) == []
    found = check(basic, ClientSecret("wrong"))
    assert failed(found) == ["token"]
    assert "client secret must be the one it gave us" in found["token"].detail
    assert "wrong" not in str(found)


def test_an_open_endpoint(source: MisbehavingSource, endpoint: Endpoint, check) -> None:  # type: ignore[no-untyped-def]
    source.open = True
    found = check(Endpoint("open", endpoint.base_url, auth="none"), None, group="g")
    assert found["token"].result == "skipped"
    assert failed(found) == []
