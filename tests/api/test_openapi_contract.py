"""schemathesis over our OpenAPI document: whatever is sent, no failure of ours and no answer but the documented ones.

``FUZZ_EXAMPLES`` raises the number of requests for each operation (``make fuzz``).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from fhir_face import authorize, client_for, register
from hypothesis import HealthCheck, settings
from schemathesis import Case, SerializationContext
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from test_robust_server import gateway

from fhir_gateway.server.app import create_app
from fhir_gateway.server.registry import SERVED
from fhir_gateway.server.serve import GatewayServer
from tests.support.backend_client import lasting
from tests.support.waiting import HANG

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "1"))
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """Where the gateway listens, and a token for everything."""
    here = gateway(tmp_path_factory.mktemp("fuzz"), client_requests_per_minute=0, token_requests_per_minute=0)
    wanted = " ".join(f"system/{name}.cruds" for name in SERVED)
    key = register(here, "fuzzer", wanted)

    async def token() -> dict[str, str]:
        async with client_for(create_app(here)) as http:
            return dict(await authorize(http, "fuzzer", key, wanted))

    headers = asyncio.run(token())
    lasting(here)
    with GatewayServer(here, port=0) as server:
        yield f"http://127.0.0.1:{server.port}", headers


@schemathesis.serializer("application/fhir+ndjson", "application/ndjson", "application/x-ndjson")
def lines(_: SerializationContext, value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


schema = schemathesis.openapi.from_path(REPOSITORY / "openapi" / "openapi.json")


@schema.parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True)
def test_nothing_fails_and_every_answer_is_documented(case: Case, door: tuple[str, dict[str, str]]) -> None:
    case.call_and_validate(base_url=door[0], headers=door[1], checks=CHECKS, timeout=HANG)
