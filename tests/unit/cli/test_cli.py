"""Commands as a user types them: what they print, what they return, and how mistakes read."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.cli import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``fhir-gateway`` with these arguments; exit code, output, errors."""
    monkeypatch.setenv("FHIR_GATEWAY_LAKE_BUCKETS", "2")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fhir-gateway", "--data-dir", str(tmp_path / "data"), *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    good = {"resourceType": "Patient", "id": "one", "gender": "female"}
    bad = {"resourceType": "Patient", "id": "two", "gender": "Jane Roe"}
    path = tmp_path / "patients.ndjson"
    path.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
    return path


def test_endpoint_story(command: Command) -> None:
    code, out, _ = command("endpoint", "add", "ehr", "https://ehr.example/fhir/", "--client-id", "us", "--alg", "RS384")
    assert code == 0
    assert "ehr registered: https://ehr.example/fhir" in out
    code, out, _ = command("--json", "endpoint", "list")
    (listed,) = json.loads(out)
    assert (listed["name"], listed["vendor"]) == ("ehr", "generic")
    _, out, _ = command("endpoint", "jwks", "ehr")
    (key,) = json.loads(out)["keys"]
    assert key["alg"] == "RS384"
    assert "d" not in key
    _, out, _ = command("--json", "endpoint", "rotate", "ehr")
    assert [one["state"] for one in json.loads(out)] == ["active", "next"]
    new = json.loads(out)[1]["kid"]
    command("endpoint", "rotate", "ehr", "--activate", new)
    code, out, _ = command("--json", "endpoint", "rotate", "ehr", "--remove", key["kid"])
    assert [one["kid"] for one in json.loads(out)] == [new]


def test_an_endpoint_whose_client_id_comes_later(command: Command, tmp_path: Path) -> None:
    _, out, _ = command("endpoint", "add", "epic", "https://epic.example/r4", "--vendor", "epic", "--jku")
    assert "endpoint update epic --client-id ID" in out
    code, _, err = command("endpoint", "check", "epic")
    assert (code, "url failed" in err) == (6, True)
    assert command("endpoint", "update", "epic", "--client-id", "us", "--group", "g1", "--no-jku")[0] == 0
    _, out, _ = command("--json", "endpoint", "list")
    assert json.loads(out)[0]["client_id"] == "us"
    assert command("endpoint", "remove", "epic")[0] == 0
    assert command("endpoint", "check", "epic")[0] == 4


def test_a_payer_with_a_client_secret(command: Command, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    words = ("endpoint", "add", "payer", "https://payer.example/api/v2", "--vendor", "bcda", "--client-id", "us")
    assert command(*words)[0] == 2
    code, out, err = command(*words, "--client-secret-file", str(secret))
    assert code == 0
    assert "s3cret" not in out + err
    assert b"s3cret" not in (tmp_path / "data" / "control.db").read_bytes()


def test_vendors_say_why(command: Command) -> None:
    _, out, _ = command("--json", "endpoint", "vendors")
    assert {"epic", "oracle-health", "bcda", "ab2d", "dpc", "hapi"} <= {one["vendor"] for one in json.loads(out)}
    _, out, _ = command("--json", "endpoint", "vendors", "epic")
    assert {"levels", "since_trusted"} <= {one["value"] for one in json.loads(out)}


def test_mistakes_have_exit_codes_and_one_line(command: Command, tmp_path: Path) -> None:
    assert command("endpoint", "add", "ehr", "https://ehr.example", "--vendor", "nobody")[0] == 2
    command("endpoint", "add", "ehr", "https://ehr.example", "--client-id", "us")
    code, _, err = command("endpoint", "add", "ehr", "https://ehr.example", "--client-id", "us")
    assert code == 5
    assert err == "error: endpoint ehr is registered already\n"
    assert command("pull", "nobody")[0] == 4
    assert command("pull")[0] == 2
    assert command("pull", "ehr", "--mode", "magic")[0] == 2
    assert command("evaluate", "all")[0] == 2
    assert command("evaluate", "all", "--period", "soon")[0] == 2
    assert command("evaluate", "nothing", "--period", "2025")[0] == 2
    assert command("evaluate", "", "--period", "2025")[0] == 2
    assert command("settle", "nothing")[0] == 2
    code, _, err = command(
        "endpoint", "add", "other", "https://other.example", "--client-id", "us", "--key", "absent.pem"
    )
    assert (code, err) == (2, "error: absent.pem: the key cannot be read (No such file or directory)\n")
    unused = tmp_path / "unused.jwk"
    assert command("client", "add", "app", "--scope", "everything", "--new-key", str(unused))[0] == 2
    assert not unused.exists()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, out, err = command("serve", "--port", str(taken.getsockname()[1]))
    assert (code, out) == (2, "")
    assert err.startswith("error: cannot listen on 127.0.0.1 port ")
    code, _, err = command("--json", "pull", "--files", str(tmp_path / "absent.ndjson"))
    assert code == 2
    assert json.loads(err)["error"]["file"] == "absent.ndjson"


def test_wrong_settings_are_named_without_their_value(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_GATEWAY_TOKEN_LIFETIME_SECONDS", "secret-value")
    code, _, err = command("status")
    assert code == 2
    assert "FHIR_GATEWAY_TOKEN_LIFETIME_SECONDS" in err
    assert "secret-value" not in err


def test_pull_of_files_and_quarantine(command: Command, patients: Path) -> None:
    code, out, _ = command("--json", "pull", "--files", str(patients), "--source", "demo")
    assert code == 0
    report = json.loads(out)
    arrived, entry = report["ledger"]  # files of no promised type arrive under none
    assert (arrived["type"], arrived["files"], arrived["lines"]) == (None, 1, 2)
    assert (entry["type"], entry["read"], entry["stored"], entry["quarantined"]) == ("Patient", 2, 1, 1)
    assert report["persons"] == 1
    code, out, err = command("quarantine", "list", report["pull"])
    assert code == 0
    assert "patients.ndjson:2" in out
    assert "Patient.gender" in out
    assert "Jane Roe" not in out + err
    code, out, _ = command("--json", "quarantine", "summary")
    assert json.loads(out)[0]["lines"] == 1
    code, out, _ = command("--json", "status")
    status = json.loads(out)
    assert status["members"] == 1
    assert status["pulls"][0]["state"] == "committed"
    assert status["served"] == [{"type": "Organization", "resources": 1}, {"type": "Patient", "resources": 1}]
    _, out, err = command("pull", "--files", str(patients), "--source", "demo")
    assert "2 lines in" in out
    assert "1 lines are in quarantine" in err


def test_what_is_kept_is_for_its_owner_alone(command: Command, patients: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert command("pull", "--files", str(patients))[0] == 0
    finally:
        os.umask(before)
    kept = list((tmp_path / "data").rglob("*"))
    assert len(kept) > 5
    assert [path for path in kept if path.stat().st_mode & 0o077] == []


def test_bad_source_names_are_refused_before_anything_is_read(command: Command, patients: Path) -> None:
    assert command("pull", "--files", str(patients), "--source", "Not A Name")[0] == 2


def test_client_story(command: Command, tmp_path: Path) -> None:
    key = tmp_path / "app.jwk"
    code, out, _ = command("client", "add", "app", "--scope", "system/*.rs", "--new-key", str(key))
    assert code == 0
    assert key.stat().st_mode & 0o777 == 0o600
    assert json.loads(key.read_text())["d"] not in out
    assert command("client", "add", "other", "--scope", "system/*.rs", "--new-key", str(key))[0] == 2
    assert command("client", "add", "other", "--scope", "system/*.rs")[0] == 2
    public = tmp_path / "public.json"
    public.write_text("{")
    code, _, err = command("client", "add", "other", "--scope", "system/*.rs", "--jwks", str(public))
    assert code == 2
    assert "public.json" in err
    command("client", "disable", "app")
    _, out, _ = command("--json", "client", "list")
    (listed,) = json.loads(out)
    assert (listed["client_id"], listed["disabled"]) == ("app", True)
    code, _, err = command("client", "token", "app", "--key", str(key), "--url", "http://127.0.0.1:9/auth/token")
    assert code == 2
    assert "is the gateway served" in err


def test_version_and_help(command: Command) -> None:
    assert command("--version")[1].strip()
    assert "pull" in command("--help")[1]


def flatten(app: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [(*path, info.name or info.callback.__name__) for info in app.registered_commands]
    for group in app.registered_groups:
        found += flatten(group.typer_instance, (*path, group.name))
    return found


def test_every_command_explains_itself(command: Command) -> None:
    from fhir_gateway.cli.app import app

    for path in flatten(app):
        words = [word.removesuffix("_endpoints").removesuffix("_clients") for word in path]
        code, out, _ = command(*words, "--help")
        assert code == 0, path
        assert "Usage" in out
