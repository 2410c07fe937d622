"""Requests as spans: named by routes, below the caller's trace, and silent about whom and what was asked for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

import httpx
import pytest
from cryptography.fernet import Fernet
from fhir_face import PUBLIC_URL, client_for, enter, new_gateway
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.console.app import with_console
from fhir_gateway.factory import Gateway
from fhir_gateway.server.app import create_app
from fhir_gateway.telemetry.spans import ATTRIBUTES
from tests.support.traces import listening, said

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
LEAKS = re.compile(r"ada|lovelace|1815|mrn-77|bearer|baggage|\?|access_token", re.IGNORECASE)
PATIENT = {
    "resourceType": "Patient",
    "id": "ada-77",
    "name": [{"family": "Lovelace", "given": ["Ada"]}],
    "birthDate": "1815-12-10",
    "identifier": [{"system": "https://x.example/mrn", "value": "MRN-77"}],
}


async def story(http: httpx.AsyncClient, headers: Mapping[str, str]) -> list[httpx.Response]:
    from_ada = {**headers, "traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "ada=lovelace"}
    return [
        await http.get("/fhir/Patient/ada-77", headers={**from_ada, "baggage": "patient=ada"}),
        await http.get("/fhir/Patient/ada-77", headers={**headers, "traceparent": "ada"}),
        await http.get("/fhir/Patient/ada-77/_history/1", headers=headers),
        await http.get("/fhir/Patient", params={"family": "Lovelace", "birthdate": "1815-12-10"}, headers=headers),
        await http.post("/fhir/Patient/_search", data={"identifier": "MRN-77"}, headers=headers),
        await http.get("/fhir/Patient/ada-77/$everything", headers=headers),
        await http.get("/fhir/Patient/lovelace", headers=headers),
        await http.get("/fhir/Lovelace/ada", headers=headers),
        await http.get("/lovelace/ada", headers=headers),
        await http.request("ADA", "/fhir/Patient/ada-77", headers=headers),
        await http.get("/console/members/ada-77"),
        await http.get("/health"),
    ]


Told = tuple[list[httpx.Response], tuple[ReadableSpan, ...]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    key = SecretStr(Fernet.generate_key().decode())
    folder = tmp_path_factory.mktemp("traces")
    gateway = Gateway(Settings(encryption_key=key, public_url=PUBLIC_URL, data_dir=folder))
    gateway.resources.put(PATIENT)

    async def tell() -> Told:
        async with client_for(with_console(gateway)) as http:
            headers = await enter(http, gateway, "a", "system/*.rs")
            with listening() as heard:
                return await story(http, headers), heard.get_finished_spans()

    return asyncio.run(tell())


def test_spans_are_named_by_routes_and_say_nothing_of_whom(told: Told) -> None:
    answers, spans = told
    assert [one.status_code for one in answers[:5]] == [200] * 5
    found = [(one.name, (one.attributes or {}).get("http.response.status_code")) for one in spans]
    assert len(found) == len(answers)
    assert found[:7] == [
        ("GET /fhir/{resource_type}/{id}", 200),
        ("GET /fhir/{resource_type}/{id}", 200),
        ("GET /fhir/{resource_type}/{id}/_history/{vid}", 200),
        ("GET /fhir/{resource_type}", 200),
        ("POST /fhir/{resource_type}/_search", 200),
        ("GET /fhir/Patient/{id}/$everything", answers[5].status_code),
        ("GET /fhir/{resource_type}/{id}", 404),
    ]
    assert found[7:9] == [("GET", 404), ("GET", 404)]
    assert found[9] == ("_OTHER /fhir/{resource_type}/{id}", 405)
    assert found[10][0] == "GET /console/members/{member}"
    assert found[11] == ("GET /health", 200)
    for span in spans:
        assert span.kind is SpanKind.SERVER
        assert set(span.attributes or {}) <= set(ATTRIBUTES.values())
        assert LEAKS.search(said(span)) is None, said(span)


def test_a_request_belongs_to_the_trace_of_its_caller(told: Told) -> None:
    _, spans = told
    first, second, *_ = spans
    assert f"{first.context.trace_id:032x}" == TRACE
    assert first.parent is not None
    assert f"{first.parent.span_id:016x}" == CALLER
    assert second.parent is None  # what is no traceparent is none
    assert len({one.context.trace_id for one in spans}) == len(spans)


def test_our_failure_is_one_in_the_trace() -> None:
    gateway = new_gateway()  # its lake cannot be made

    async def asked() -> httpx.Response:
        async with client_for(create_app(gateway)) as http:
            return await http.get("/ready")

    with listening() as heard:
        assert asyncio.run(asked()).status_code == 503
    (span,) = heard.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
