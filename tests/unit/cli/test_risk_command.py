"""``risk`` as a user types it: score, explain, gaps, import; mistakes are told."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from fhir_gateway.cli import main
from fhir_gateway.factory import Gateway
from tests.support.risk_lake import SYSTEM, lake_of, person


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    return lake_of(tmp_path_factory.mktemp("command"))


@pytest.fixture
def typed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*words: str, json_wanted: bool = True) -> tuple[int, str, str]:
        before = ["--json"] if json_wanted else []
        monkeypatch.setenv("FHIR_GATEWAY_LAKE_BUCKETS", str(gateway.settings.lake_buckets))
        folder = str(gateway.settings.data_dir)
        monkeypatch.setattr(sys, "argv", ["fhir-gateway", *before, "--data-dir", folder, "risk", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_score_explain_and_gaps(gateway: Gateway, typed, tmp_path: Path) -> None:
    code, out, err = typed("score", "CMS-HCC", "2026", "--output", str(tmp_path / "scores.csv"))
    assert code == 0, err
    report = json.loads(out)
    assert (report["scored"], report["unscored"]) == (4, {"esrd": 1})
    with (tmp_path / "scores.csv").open() as written:
        rows = {row["member"]: row["score"] for row in csv.DictReader(written)}
    assert rows[person(gateway, "a")] == "0.91200000"
    code, out, err = typed("explain", person(gateway, "a"), "CMS-HCC", "2026")
    assert code == 0, err
    assert {one["variable"] for one in json.loads(out)["components"]} >= {"37", "226", "DIABETES_HF_V28", "M70_74"}
    asked = ("gaps", "2026", "--as-of", "2025-12-31")
    code, out, err = typed(*asked, "--rate", "1000", "--output", str(tmp_path / "g.csv"))
    assert code == 0, err
    assert json.loads(out)["open"][0]["cc"] == "17"  # the most valuable first
    with (tmp_path / "g.csv").open() as written:
        assert {row["references"].partition("/")[0] for row in csv.DictReader(written)} == {"ExplanationOfBenefit"}
    code, out, _ = typed(*asked, json_wanted=False)
    assert (code, "Open gaps" in out) == (0, True)


def test_imports_are_listed(typed, tmp_path: Path) -> None:
    head = "member_id,member_system,model,version,period_start,period_end,raw"
    (tmp_path / "s.csv").write_text(f"{head}\nM-a,{SYSTEM},ACG,13,2026-01-01,2026-12-31,1.1\n")
    code, out, _ = typed("import", str(tmp_path / "s.csv"))
    assert (code, json.loads(out)[0]["rows"]) == (0, 1)
    _, out, _ = typed("runs")
    assert {one["model"] for one in json.loads(out)} >= {"ACG"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("score", "ACG", "2026"), "import its scores"),
        (("score", "CMS-HCC", "2027"), "proposed"),
        (("score", "CMS-HCC", "1999"), "no CMS-HCC tables for payment year 1999"),
        (("gaps", "2026", "--rate", "much"), "--rate is an amount"),
        (("gaps", "2026", "--model", "V30"), "V30 has no tables"),
        (("explain", "nobody", "CMS-HCC-V24", "2024"), "risk score makes them"),
        (("import", "/nowhere.csv"), "no such file"),
    ],
)
def test_mistakes_are_told(typed, words: tuple[str, ...], told: str) -> None:
    code, _, err = typed(*words)
    assert code in (2, 4)
    assert told in err
