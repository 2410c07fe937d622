"""What the prompt shows of people and money is in the audit trail, whoever adds a command."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import typer
from pydantic import SecretStr

from fhir_gateway.cli import main
from fhir_gateway.cli.app import app
from fhir_gateway.cli.audited import SHOWN
from fhir_gateway.config import Settings
from fhir_gateway.db.engine import transaction
from fhir_gateway.factory import Gateway
from fhir_gateway.server.audit import audit_events

#: Commands that show nobody's data and no money: they configure, compute, count or say how things are.
SILENT = {
    *("alerts add", "alerts channels", "alerts remove", "claims edits", "claims import", "claims keep"),
    *("claims tables", "client add", "client approve", "client disable", "client invite", "client list"),
    *("client rotate", "client show", "client token", "contract check", "contract finalise", "contract schema"),
    *("endpoint add", "endpoint check", "endpoint jwks", "endpoint list", "endpoint remove", "endpoint rotate"),
    *("endpoint update", "endpoint vendors", "equity import", "equity tables", "experience instruments"),
    *("guide add", "guide check", "guide list", "guide lock", "jobs cancel", "jobs list", "jobs retry", "jobs show"),
    *("lake compact", "lake retain", "ledger", "measure lock", "outreach block", "outreach mark", "outreach refresh"),
    *("outreach unblock", "persons accept", "persons apply", "persons estimate", "persons link", "persons reject"),
    *("persons revoke", "predict models", "predict retire", "predict scores", "pull", "quarantine replay"),
    *("quarantine summary", "restore", "risk import", "risk runs", "roster deselect", "roster select"),
    *("roster withdraw", "serve", "status", "terminology coverage", "terminology date", "terminology expand"),
    *("terminology import", "terminology list", "terminology lock", "terminology lookup", "user add", "user code"),
    *("user disable", "user enable", "user list", "user password", "utilization import", "utilization metrics"),
    *("lake rebucket", "migrate", "worker"),
}

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fhir-gateway", "--data-dir", str(tmp_path), *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, capsys.readouterr().out

    return run


@pytest.fixture
def trail(tmp_path: Path) -> Callable[[], list[Any]]:
    gateway = Gateway(Settings(data_dir=tmp_path, database_url=SecretStr(f"sqlite:///{tmp_path}/control.db")))

    def read() -> list[Any]:
        with transaction(gateway.engine) as connection:
            return list(connection.execute(sa.select(audit_events).order_by(audit_events.c.id)).all())

    return read


def _commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from _commands(one, (*words, name))
        else:
            yield " ".join((*words, name)), one


def test_each_command_says_whether_it_shows_people_or_money() -> None:
    commands = dict(_commands(typer.main.get_command(app)))
    assert set(commands) == SILENT | set(SHOWN)
    assert not SILENT & set(SHOWN)
    for words, shown in SHOWN.items():
        names = {one.name for one in commands[words].params}
        assert {one for one in (shown.person, shown.of) if one} <= names, words


def test_what_is_shown_is_in_the_trail_with_who_and_what(command: Command, trail: Callable[[], list[Any]]) -> None:
    assert command("alerts", "list")[0] == 0
    assert command("contract", "settlements", "savings")[0] == 0
    assert command("status")[0] == 0
    listed, settled = trail()
    assert {one.client_id for one in (listed, settled)} == {f"prompt/{getpass.getuser()}"}
    assert (listed.interaction, listed.resource_id, listed.persons, listed.status) == (
        "command",
        "alerts list",
        "*",
        200,
    )
    assert (settled.resource_id, settled.persons) == ("contract settlements savings", None)
    assert settled.parameters == "contract"


def test_reports_that_fail_say_so(command: Command, trail: Callable[[], list[Any]], tmp_path: Path) -> None:
    out = tmp_path / "board.html"
    assert command("report", "quality", "--period", "2025", "--out", str(tmp_path / "report.html"))[0] != 0
    assert command("report", "board", "--period", "2025", "--out", str(out))[0] == 0
    assert out.exists()
    asked, failed, board = trail()
    assert asked.request_id == failed.request_id != board.request_id
    assert (asked.status, failed.status, failed.reason) == (200, 404, "not-found")
    assert [one.resource_id for one in (asked, failed, board)] == ["report quality", "report quality", "report board"]
    assert board.parameters == "out,period"


def test_who_was_asked_about_is_named(command: Command, trail: Callable[[], list[Any]]) -> None:
    assert command("risk", "explain", "p0123", "CMS-HCC-V28", "2025")[0] != 0
    found = json.loads(command("--json", "audit", "--patient", "p0123")[1])
    assert [(one["resource_id"], one["persons"]) for one in found] == [
        ("audit", "p0123"),
        ("risk explain", "p0123"),
    ]
    assert len(trail()) == 3
