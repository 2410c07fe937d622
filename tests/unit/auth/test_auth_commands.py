"""The stand-in for a client's own side: make a key, sign an assertion that the gateway accepts."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fhir_gateway.auth.__main__ import app
from fhir_gateway.auth.models import ASSERTION_TYPE
from fhir_gateway.auth.service import AuthorizationServer
from fhir_gateway.db.engine import create_engine


@pytest.mark.parametrize("alg", ["RS384", "ES384"])
def test_a_key_is_made_registered_and_used(tmp_path: Path, alg: str) -> None:
    runner = CliRunner()
    made = runner.invoke(app, ["new-key", str(tmp_path), "--alg", alg])
    assert made.exit_code == 0, made.output
    private = tmp_path / "private.json"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert runner.invoke(app, ["new-key", str(tmp_path)]).exit_code == 2  # never overwritten
    assert runner.invoke(app, ["new-key", str(tmp_path / "x"), "--alg", "HS256"]).exit_code == 2

    server = AuthorizationServer(create_engine("sqlite://"), auth_url="https://gateway.example/auth")
    server.store.create_tables()
    server.register_client("acme", scopes="system/*.rs", jwks=json.loads((tmp_path / "jwks.json").read_text()))
    signed = runner.invoke(app, ["assertion", "acme", server.token_url, str(private)]).output.strip()
    reply = server.token(
        {
            "grant_type": "client_credentials",
            "scope": "system/*.rs",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": signed,
        }
    )
    assert reply.status == 200
