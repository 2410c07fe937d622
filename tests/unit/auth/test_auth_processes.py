"""What several processes know of each other: an assertion counts once, an invitation as often as it says."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import sqlalchemy as sa

from fhir_gateway.auth.assertion import client_assertion, generate_key, public_key_set
from fhir_gateway.auth.service import AuthorizationServer
from fhir_gateway.db.engine import create_engine
from tests.support.databases import KINDS, control_plane

URL = "https://gateway.example/auth"


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    with control_plane(request.param, tmp_path) as opened:
        yield opened


def _ask(url: str, fields: dict[str, str]) -> int:
    engine = create_engine(url)
    try:
        return AuthorizationServer(engine, auth_url=URL).token(fields).status
    finally:
        engine.dispose()


def _register(url: str, metadata: dict[str, object], invitation: str) -> int:
    engine = create_engine(url)
    try:
        server = AuthorizationServer(engine, auth_url=URL, registration="invited")
        return server.register(metadata, f"Bearer {invitation}").status
    finally:
        engine.dispose()


def test_of_two_processes_one_accepts_an_assertion(engine: sa.Engine) -> None:
    key = generate_key("ES384", "k")
    server = AuthorizationServer(engine, auth_url=URL)
    server.register_client("a", scopes="system/*.rs", jwks=public_key_set(key))
    fields = {
        "grant_type": "client_credentials",
        "scope": "system/*.rs",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": client_assertion("a", f"{URL}/token", key, "ES384"),
    }
    url = engine.url.render_as_string(hide_password=False)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        answers = [one.result() for one in [processes.submit(_ask, url, fields) for _ in range(6)]]
    assert sorted(answers) == [200, 400, 400, 400, 400, 400]


def test_of_two_processes_as_many_register_as_were_invited(engine: sa.Engine) -> None:
    server = AuthorizationServer(engine, auth_url=URL, registration="invited")
    invitation = server.invite("partners", uses=2)
    metadata: dict[str, object] = {"jwks": public_key_set(generate_key("ES384", "k"))}
    url = engine.url.render_as_string(hide_password=False)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        answers = [one.result() for one in [processes.submit(_register, url, metadata, invitation) for _ in range(5)]]
    assert sorted(answers) == [201, 201, 401, 401, 401]
    assert [(one.pending, one.origin) for one in server.clients()] == [(True, "invitation:partners")] * 2
