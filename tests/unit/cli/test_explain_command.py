"""The command ``explain`` over a lake."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fhir_gateway.cli import main
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway

CASE = Path(__file__).parents[2] / "measures" / "cases" / "diabetes-hba1c-poor-control" / "day-before.json"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``fhir-gateway`` over a lake that holds the person of the case."""
    monkeypatch.setenv("FHIR_GATEWAY_LAKE_BUCKETS", "2")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fhir-gateway", "--data-dir", str(tmp_path / "data"), *arguments])
        code, before = 0, os.umask(0o022)
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            os.umask(before)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    lines = [json.dumps(resource) for resource in json.loads(CASE.read_text("utf-8"))["resources"]]
    (tmp_path / "case.ndjson").write_text("\n".join(lines))
    assert run("pull", "--files", str(tmp_path / "case.ndjson"), "--source", "demo")[0] == 0
    return run


def test_explain_story(command: Command, tmp_path: Path) -> None:
    person = Gateway(Settings(data_dir=tmp_path / "data", lake_buckets=2)).lake.members()[0].as_py()
    asked = ("explain", "diabetes-hba1c-poor-control", person, "--period", "2026", "--now", "2027-02-01T00:00:00+00:00")
    html = tmp_path / "page.html"
    code, out, _ = command(*asked, "--html", str(html))
    assert code == 0
    assert "main: open-gap" in out
    assert 'decided by HbA1c Results: date from Common."Observed"(O) during Common."Measurement Days" (false)' in out
    assert "Observation/o1 2025-12-31T23:59:59.000 8 %: stopped at" in out
    assert 'class="clause-false"' in html.read_text("utf-8")
    assert html.stat().st_mode & 0o077 == 0
    code, out, _ = command(*asked, "--json")
    document = json.loads(out)
    assert (code, document["person"], document["gaps"][0]["status"]) == (0, person, "open-gap")
    assert command("--json", *asked)[1] == out


def test_mistakes(command: Command) -> None:
    assert command("explain", "diabetes-hba1c-poor-control", "nobody", "--period", "2026")[0] == 4
    assert command("explain", "diabetes-hba1c-poor-control", "nobody")[0] == 2
