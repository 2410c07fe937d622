"""Claims of a lake and of files are checked with what the lake knows of their patients; denials out of answers."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import SecretStr

from fhir_gateway.claim_edits import Checked
from fhir_gateway.claim_edits.denials import EOB_ANSWER, RESPONSE_ANSWER, denied_lines
from fhir_gateway.cli import main
from fhir_gateway.config import Settings
from fhir_gateway.errors import ResourceError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.claim_checks import check_files, check_lake, claim_tables
from fhir_gateway.jobs.denials import denials
from fhir_gateway.jobs.pull import pull_files
from tests.support.claim_story import story
from tests.support.claims import GOOD_NPI, TABLES, line, professional

ANSWERS = {"ExplanationOfBenefit": EOB_ANSWER, "ClaimResponse": RESPONSE_ANSWER}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("claims")


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Gateway:
    settings = Settings(data_dir=folder / "data", lake_buckets=2, database_url=SecretStr(f"sqlite:///{folder}/c.db"))
    made = Gateway(settings)
    sent = folder / "sent.ndjson"
    sent.write_text("".join(json.dumps(one) + "\n" for one in story()))
    assert pull_files(made, [sent], "ehr").quarantined == 0, made.lake.quarantined()
    return made


def named(checked: Checked) -> set[tuple[str, str]]:
    keys = checked.claims["key"].to_pylist()
    return {(keys[one["rid"]], one["edit"]) for one in checked.findings.to_pylist()}


def test_claims_of_the_lake_are_judged_beside_each_other(gateway: Gateway) -> None:
    checked = check_lake(gateway)
    assert checked.claims.num_rows == 4
    found = {(key.removeprefix("ehr-"), edit) for key, edit in named(checked)}
    # c2 is a replacement that does not say so
    assert found == {("c2", "duplicate-service"), ("c4", "duplicate-service")}
    lacking = set(checked.unchecked["ground"].to_pylist())
    assert {"patient", "coverage", "history"}.isdisjoint(lacking)
    assert {"ncci-ptp", "attribution"} <= lacking
    assert check_lake(gateway, source="nobody").claims.num_rows == 0


def test_files_are_judged_beside_the_lake(gateway: Gateway, tmp_path: Path) -> None:
    late = professional(line(1, "93000", "2025-05-01", "50.00"), identifier="new", created="2025-07-01")
    early = professional(line(1, "99213", "2023-05-01"), identifier="early", created="2023-06-01")
    file = tmp_path / "new.ndjson"
    file.write_text("\n".join(json.dumps(one) for one in (late, early)))
    assert named(check_files(gateway, [file], "ehr")) == {
        ("new", "duplicate-service"),
        ("early", "coverage-not-active"),
    }
    alone = check_files(gateway, [file])
    assert named(alone) == set()
    assert "coverage" in alone.unchecked["ground"].to_pylist()
    future = check_files(gateway, [file], submitted=date(2025, 4, 30))
    assert ("new", "service-in-future") in named(future)


def test_what_the_payer_denied_may_be_billed_again(gateway: Gateway, tmp_path: Path) -> None:
    """Of c1 the first line was denied and the second paid; c4 was denied by a ClaimResponse, c3 paid for the same."""
    file = tmp_path / "again.ndjson"
    codes = {"denied-before": "99213", "paid-before": "11042"}
    file.write_text("\n".join(json.dumps(professional(line(1, code), identifier=name)) for name, code in codes.items()))
    assert named(check_files(gateway, [file], "ehr")) == {("paid-before", "duplicate-service")}

    def denied(*kinds: str) -> list[tuple[str, int | None]]:
        rows = {kind: gateway.lake.read(kind, columns) for kind, columns in ANSWERS.items()}
        told = [rows[kind].slice(0, rows[kind].num_rows if kind in kinds else 0) for kind in ANSWERS]
        return [(one["claim"], one["line"]) for one in denied_lines(*told, lambda source, name: name).to_pylist()]

    assert denied("ExplanationOfBenefit") == [("c1", 1)]
    assert denied("ClaimResponse") == [("c4", 1)]


def test_batches_of_files_keep_members_together(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = [
        professional(identifier=f"c{number:02d}", patient={"reference": f"Patient/x{number % 5}"}, created="2025-03-20")
        for number in range(15)
    ]
    file = tmp_path / "many.ndjson"
    file.write_text("\n".join(json.dumps(one) for one in claims))
    whole = check_files(gateway, [file])
    monkeypatch.setattr("fhir_gateway.jobs.claim_checks.BATCH", 2)
    parts = check_files(gateway, [file])
    assert parts.claims.equals(whole.claims)
    assert named(parts) == named(whole) == {(f"c{number:02d}", "duplicate-service") for number in range(5, 15)}


def test_a_line_that_is_no_claim_is_named(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "bad.ndjson"
    file.write_text(json.dumps(professional()) + "\n" + json.dumps(professional() | {"status": 7}))
    with pytest.raises(ResourceError) as refused:
        check_files(gateway, [file])
    assert (refused.value.location.line, refused.value.location.path) == (2, "Claim.status")


def test_denials_of_all_answers(gateway: Gateway) -> None:
    with denials(gateway) as found:
        overall = found.overall()
        reasons = {
            one["reason"]: (one["denied_lines"], one["denied_amount"], one["edits"]) for one in found.by("reason")
        }
        providers, months, codes = found.by("provider"), found.by("month"), found.by("code")
        avoidable = found.top_avoidable()
        lines = found.lines()
    assert (overall["claims"], overall["denied_at_first"], overall["overturned"]) == (3, 2, 1)
    assert (overall["first_pass_denial_rate"], overall["overturn_rate"]) == (0.6667, 0.5)
    assert overall["denied_amount"] == Decimal(175)
    assert (overall["claims_with_days"], overall["median_days_to_payment"]) == (2, 12.5)  # 15 and 10 days
    assert {name: (count, money) for name, (count, money, _) in reasons.items()} == {
        "97": (1, Decimal(125)),
        "N19": (1, Decimal(125)),
        "18": (1, Decimal(50)),
    }
    assert reasons["18"][2] == "duplicate-service, duplicate-line"
    assert [(one["provider"], one["lines"], one["denied_lines"]) for one in providers] == [(GOOD_NPI, 6, 2)]
    assert {one["month"]: one["denied_lines"] for one in months} == {"2025-03": 1, "2025-06": 1}
    assert {one["code"]: one["denial_rate"] for one in codes} == {"99213": 0.5, "93000": 0.5}
    assert [one["reason"] for one in avoidable] == ["97", "18"]
    assert lines.num_rows == 6


def test_denials_of_some_persons_and_days(gateway: Gateway) -> None:
    person = gateway.persons.lookup("ehr", pa.array(["p1"])).to_pylist()
    with denials(gateway, person, date(2025, 5, 1)) as found:
        assert found.overall()["claims"] == 2
    with denials(gateway, ["p0000000000000000"]) as found:
        assert found.overall()["claims"] == 0
        assert found.by("payer") == []


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(
    gateway: Gateway, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fhir-gateway", "--data-dir", str(folder / "data"), *arguments])
        monkeypatch.setenv("FHIR_GATEWAY_DATABASE_URL", f"sqlite:///{folder}/c.db")
        monkeypatch.setenv("FHIR_GATEWAY_LAKE_BUCKETS", "2")
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, capsys.readouterr().out

    return run


def test_claims_at_the_prompt(command: Command, gateway: Gateway, tmp_path: Path) -> None:
    good = tmp_path / "good.ndjson"
    good.write_text(json.dumps(professional(identifier="good")))
    assert command("claims", "check", str(good))[0] == 0
    code, out = command("claims", "check", "--lake", "--csv")
    assert code == 1
    assert {(one["claim"], one["edit"]) for one in csv.DictReader(io.StringIO(out))} == {
        ("ehr-c2", "duplicate-service"),
        ("ehr-c4", "duplicate-service"),
    }
    answered = json.loads(command("--json", "claims", "check", "--lake", "--rates", "provider")[1])
    assert answered["rates"][0] | {"provider": GOOD_NPI, "claims": 4, "clean": 2} == answered["rates"][0]
    assert "clean claim rate" in command("claims", "check", "--lake")[1]
    assert command("claims", "check")[0] == 2
    assert command("claims", "check", str(good), "--edit", "no-such-edit")[0] == 2
    assert command("claims", "check", str(good), "--submitted", "soon")[0] == 2
    assert "duplicate-service" in command("claims", "denials")[1]
    assert json.loads(command("--json", "claims", "denials", "--by", "month")[1])["month"][0]["month"] == "2025-03"
    assert command("claims", "denials", "--by", "code", "--csv")[1].splitlines()[0].startswith("code,lines")
    assert command("claims", "denials", "--by", "weather")[0] == 2
    assert len(json.loads(command("--json", "claims", "edits")[1])) > 60


def test_tables_at_the_prompt(command: Command, gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "modifiers.csv"
    file.write_text(TABLES["modifier-codes"])
    arguments = ("claims", "import", "modifier-codes", str(file), "--version", "2025", "--from", "2025-01-01")
    assert command(*arguments)[0] == 0
    assert [one.version for one in claim_tables(gateway).versions()] == ["2025"]
    listed = json.loads(command("--json", "claims", "tables")[1])
    assert [(one["name"], one["rows"]) for one in listed if "version" in one] == [("modifier-codes", 12)]
    assert command("claims", "import", "modifier-codes", str(file), "--version", "x", "--from", "soon")[0] == 2
    claim_tables(gateway).remove("modifier-codes", "2025")
