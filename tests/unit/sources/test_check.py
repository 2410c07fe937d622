"""``endpoint check``: each failure is named by the step it belongs to."""

from __future__ import annotations

import asyncio

from fhir_gateway.sources.check import check_endpoint
from fhir_gateway.sources.endpoint import Endpoint, SigningKey, generate_key
from tests.support.misbehaving import Fault, MisbehavingSource

HERE = "http://127.0.0.1:8000"


def results(endpoint: Endpoint, key: SigningKey | None, waits) -> dict[str, str]:  # type: ignore[no-untyped-def]
    return {one.name: one.result for one in asyncio.run(check_endpoint(endpoint, key, HERE, clock=waits.clock))}


def test_a_healthy_endpoint(source: MisbehavingSource, endpoint: Endpoint, signing_key, waits) -> None:
    found = results(endpoint, signing_key, waits)
    assert found.pop("jwks") == "skipped"
    assert set(found) == {"discovery", "key", "token", "clock", "scope", "metadata", "export"}
    assert set(found.values()) == {"ok"}


def test_each_step_that_fails_is_named(source: MisbehavingSource, endpoint: Endpoint, signing_key, waits) -> None:
    source.faults["smart"] = [Fault(404)]
    assert results(endpoint, signing_key, waits) == {"discovery": "failed"}
    stranger = SigningKey.of("ehr", generate_key("ES384"))
    assert results(endpoint, stranger, waits)["token"] == "failed"
    source.faults["metadata"] = [Fault(400)]
    assert results(endpoint, signing_key, waits)["metadata"] == "failed"
    source.export_levels = set()
    source.granted_scope = "system/Patient.rs"
    found = results(endpoint, signing_key, waits)
    assert (found["export"], found["scope"]) == ("warning", "warning")


def test_an_open_endpoint(source: MisbehavingSource, endpoint: Endpoint, waits) -> None:
    found = results(Endpoint("open", endpoint.base_url, auth="none"), None, waits)
    assert found == {"token": "skipped", "metadata": "ok", "export": "ok"}
