"""Clients and their accesses at the prompt: registration in all its states, and the audit trail."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from fhir_gateway.auth.assertion import generate_key, public_key_set
from fhir_gateway.auth.registration import Registration
from fhir_gateway.cli import main
from fhir_gateway.config import Settings
from fhir_gateway.db.engine import transaction
from fhir_gateway.factory import Gateway
from fhir_gateway.server.audit import Access, audit_events

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(Settings(data_dir=tmp_path, database_url=SecretStr(f"sqlite:///{tmp_path}/control.db")))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fhir-gateway", "--data-dir", str(tmp_path), *arguments])
        monkeypatch.setenv("COLUMNS", "200")  # nothing is broken over lines
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, capsys.readouterr().out

    return run


def _registered(gateway: Gateway) -> str:
    """A client that registered itself."""
    registration = Registration(gateway.authorization.store, "open")
    metadata: dict[str, Any] = {
        "client_name": "Partner",
        "jwks": public_key_set(generate_key("ES384", "k")),
        "scope": "system/*.rs",
        "contacts": ["it@partner.example"],
    }
    return str(registration.register(metadata, None).body["client_id"])


def test_a_self_registered_client_is_looked_at_and_approved(command: Command, gateway: Gateway) -> None:
    name = _registered(gateway)
    shown = json.loads(command("--json", "client", "show", name)[1])
    assert (shown["state"], shown["asked_for"], shown["registered_by"]) == ("waits for approval", "system/*.rs", "open")
    assert shown["contacts"] == "it@partner.example"
    assert "waits for" in command("client", "list")[1]
    assert command("client", "approve", name, "--scope", "system/*.rs")[0] == 2  # whose data?
    assert command("client", "approve", name, "--scope", "system/*.rs", "--contract", "aco", "--everything")[0] == 2
    assert command("client", "approve", name, "--scope", "system/Group.rs", "--contract", "aco")[0] == 0
    assert command("client", "approve", name, "--scope", "system/*.rs", "--everything")[0] == 5
    code, out = command("client", "show", name)
    assert (code, "contract:aco" in out, "active" in out) == (0, True, True)
    assert command("client", "show", "nobody")[0] == 4


def test_keys_are_rotated_and_clients_invited(command: Command, gateway: Gateway, tmp_path: Path) -> None:
    key, other = tmp_path / "a.jwk", tmp_path / "b.jwk"
    command("client", "add", "app", "--scope", "system/*.rs", "--new-key", str(key))
    assert command("client", "rotate", "app", "--new-key", str(other))[0] == 0
    (now,) = (gateway.authorization.client("app").jwks or {})["keys"]
    assert now["kid"] == json.loads(other.read_text())["kid"] != json.loads(key.read_text())["kid"]
    assert command("client", "rotate", "app")[0] == 2
    assert command("client", "rotate", "nobody", "--new-key", str(tmp_path / "c.jwk"))[0] == 4
    assert not (tmp_path / "c.jwk").exists()
    assert command("client", "rotate", "app", "--jwks-url", "https://app.example/jwks")[0] == 0
    assert "https://app.example/jwks" in command("client", "show", "app")[1]
    code, token = command("client", "invite", "partners", "--uses", "2")
    assert (code, len(token.strip())) == (0, 43)
    assert command("client", "invite", "partners")[0] == 5
    assert command("client", "add", "outside", "--scope", "system/*.rs", "--outside")[0] == 2  # no issuer is trusted


def test_the_trail_is_searched(command: Command, gateway: Gateway) -> None:
    when = datetime(2026, 3, 1, tzinfo=UTC)
    rows = [
        Access("1", when, "payer", "read", "Patient", "p1", "", 200, "HPAYMT", persons=",p1,"),
        Access("2", when, "payer", "search-type", "Coverage", None, "status", 200, "HPAYMT", persons=",p1,p2,"),
        Access("3", when, None, "token", status=400, reason="replay: jti was used before"),
        Access("4", when, "plan", "$export", status=200, persons="*"),
    ]
    with transaction(gateway.engine) as connection:
        connection.execute(sa.insert(audit_events), [one.row() for one in rows])

    def found(*options: str) -> list[str]:
        """What is found beside the looks into the trail, which are in it too."""
        entries = json.loads(command("--json", "audit", *options)[1])
        return [one["request_id"] for one in entries if not (one["client_id"] or "").startswith("prompt/")]

    assert found() == ["4", "3", "2", "1"]
    looks = json.loads(command("--json", "audit", "--interaction", "command")[1])
    assert len(looks) == 2
    assert found("--client", "payer") == ["2", "1"]
    assert found("--patient", "p2") == ["4", "2"]
    assert found("--refused") == ["3"]
    assert found("--interaction", "$export") == ["4"]
    assert found("--resource", "Patient/p1", "--client", "payer") == ["2", "1"]
    assert found("--since", "2026-03-01", "--until", "2026-03-01", "--limit", "1") == ["4"]
    assert found("--since", "2026-03-02") == []
    assert "replay: jti was used before" in command("audit", "--refused")[1]
    assert command("audit", "--since", "soon")[0] == 2
