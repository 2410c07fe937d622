"""``roster`` as a user types it: add, look, compare, remove; mistakes are told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.attribution import entries
from fhir_gateway.attribution.roster import NPI_SYSTEM, TIN_SYSTEM
from fhir_gateway.cli import main
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    """One list with one member, and another member beside it."""
    gateway = Gateway(Settings(data_dir=tmp_path / "data"))
    period = {"start": "2025-01-01", "end": "2025-12-31"}
    listed = entries.entry("Patient/p1", {"reference": "Organization/one"}, None, period)
    group: dict[str, Any] = {
        "resourceType": "Group",
        "id": "aco",
        "type": "person",
        "actual": True,
        "extension": [{"url": entries.TERM, "valuePeriod": period}, {"url": entries.STATUS, "valueCode": "draft"}],
        "identifier": [{"system": TIN_SYSTEM, "value": "111"}],
        "member": [listed],
    }
    number = [{"system": "https://payer.example", "value": "M-1"}]
    gateway.resources.put_many(
        [
            {"resourceType": "Organization", "id": "one", "identifier": [{"system": TIN_SYSTEM, "value": "111"}]},
            {"resourceType": "Practitioner", "id": "amy", "identifier": [{"system": NPI_SYSTEM, "value": "100"}]},
            {"resourceType": "Patient", "id": "p1", "identifier": number},
            {"resourceType": "Patient", "id": "p2", "identifier": [number[0] | {"value": "M-2"}]},
            group,
        ]
    )
    return gateway


@pytest.fixture
def command(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run ``fhir-gateway`` with these arguments; exit code, output, errors."""

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


def test_a_list_is_corrected_and_its_decisions_shown(command: Command, gateway: Gateway) -> None:
    number = "https://payer.example|M-2"
    code, out, _ = command(
        "roster", "add", "aco", "--member", number, "--provider", "Organization/one", "--why", "seen"
    )
    assert (code, "added" in out) == (0, True)
    _, out, _ = command("roster", "add", "aco", "--member", number, "--provider", "Organization/one")
    assert "on the list already" in out
    code, out, _ = command("--json", "roster", "decisions", "aco")
    (decision,) = json.loads(out)
    assert (decision["act"], decision["patient"], decision["why"]) == ("member-add", "p2", "seen")
    assert decision["by"].startswith("prompt:")
    code, _, _ = command("roster", "remove", "aco", "--patient", "p1")
    assert code == 0
    assert set(entries.active(gateway.resources.read("Group", "aco").json())) == {("Patient/p2", "Organization/one")}
    code, _, said = command("roster", "withdraw", decision["decision"])
    assert (code, "by its opposite" in said) == (5, True)


def test_a_roster_is_compared(command: Command, tmp_path: Path) -> None:
    roster = tmp_path / "roster.csv"
    roster.write_text("member_id,provider_tin,start,end\nM-1,111,2025-01-01,2025-12-31\nM-2,111,,\nM-9,111,,\n")
    code, out, _ = command("--json", "roster", "reconcile", "aco", "--csv", str(roster))
    assert code == 0
    found = json.loads(out)
    assert found["counts"]["same"] == 1
    assert {one["named"]: one["finding"] for one in found["differences"]} == {
        "M-2": "only-theirs",
        "M-9": "unknown-member",
    }
    code, out, _ = command("roster", "reconcile", "aco", "--csv", str(roster))
    assert "only-theirs: 1" in out.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("add", "aco", "--provider", "Organization/one"), 2, "--member or --patient"),
        (("add", "aco", "--patient", "p2", "--npi", "100", "--provider", "Organization/one"), 2, "--npi or --provider"),
        (("add", "aco", "--patient", "p2", "--npi", "999"), 2, "no such provider"),
        (("add", "aco", "--patient", "p2", "--npi", "100"), 2, "does not belong to this list"),
        (("remove", "aco", "--patient", "p2"), 2, "no such active entry"),
        (("remove", "nowhere", "--patient", "p2"), 4, "no such Group"),
        (("reconcile", "aco"), 2, "--csv or --source"),
        (("reconcile", "aco", "--csv", "nowhere.csv"), 2, "no such file"),
        (("withdraw", "decision-0"), 4, "no such decision"),
    ],
)
def test_mistakes_are_told(command: Command, arguments: tuple[str, ...], code: int, said: str) -> None:
    ended, _, err = command("roster", *arguments)
    assert (ended, said in " ".join(err.split())) == (code, True), err
