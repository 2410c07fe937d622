"""The command that runs published measures, on a made-up one."""

from __future__ import annotations

import gzip
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.measures import published
from tests.measures.published import main, rename
from tests.support.measures import COHORT, in_value_set, library, true, write

PATIENT = {"resourceType": "Patient", "id": "p"}


def case(name: str, expected: int, group: str = "g") -> dict[str, object]:
    return {
        "id": name,
        "title": f"Case {name}",
        "measurementPeriod": {"start": "2026-01-01", "end": "2026-12-31"},
        "resources": [PATIENT],
        "expected": {"groups": [{"id": group, "population": {"initial-population": expected}}]},
    }


def package(folder: Path, name: str, *cases: dict[str, object]) -> Path:
    target = folder / name
    target.mkdir()
    lines = "".join(json.dumps(one) + "\n" for one in cases)
    (target / "cases.ndjson.gz").write_bytes(gzip.compress(lines.encode()))
    return write(target, COHORT, library("Main", {"Initial Population": true()}))


def test_all_cases_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        package(tmp_path, "one", case("a", 1), case("b", 1)),
        package(tmp_path, "two", case("a", 1, "old-id")),
    ]
    assert main([str(folder) for folder in folders]) == 0
    assert capsys.readouterr().out.splitlines() == ["one 2/2", "two 1/1", "cases 3/3 passed"]


def test_a_failing_case_is_listed_with_what_it_got(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-v", str(package(tmp_path, "one", case("a", 1), case("b", 0)))]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "one 1/2",
        "    b Case b: g initial-population got 1 expected 0",
        "cases 1/2 passed",
    ]


def test_a_measure_that_cannot_run_fails_all_its_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = package(tmp_path, "one", case("a", 1), case("b", 1))
    value_sets = {"Codes": "http://measures.example/ValueSet/gone"}
    write(folder, COHORT, library("Main", {"Initial Population": in_value_set("Codes")}, value_sets=value_sets))
    assert main([str(folder), str(package(tmp_path, "two", case("a", 1)))]) == 1
    printed = capsys.readouterr().out
    assert "one: TerminologyError: value set http://measures.example/ValueSet/gone is missing" in printed
    assert printed.splitlines()[1:] == ["one 0/2", "two 1/1", "cases 1/3 passed"]


@pytest.mark.parametrize(("expected", "code", "says"), [(0, 0, "excluded with proof: 1"), (1, 1, "one a passes")])
def test_an_excluded_case_must_not_pass(
    expected: int, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    listed = tmp_path / "exclusions.toml"
    listed.write_text('[[case]]\nmeasure = "one"\nid = "a"\ncql = "says"\nwhy = "proof"\n')
    monkeypatch.setattr(published, "EXCLUSIONS", listed)
    folder = package(tmp_path, "one", case("a", expected), case("b", 1))
    assert main([str(folder), str(listed)]) == code
    assert says in capsys.readouterr().out


def test_every_exclusion_says_what_the_cql_says() -> None:
    for entry in tomllib.loads(published.EXCLUSIONS.read_text("utf-8"))["case"]:
        assert len(entry["cql"]) > 40
        assert len(entry["why"]) > 40


def test_ids_that_recur_are_told_apart() -> None:
    resources = [
        PATIENT,
        {
            "resourceType": "Encounter",
            "id": "e",
            "subject": {"reference": "Patient/p"},
            "diagnosis": [{"condition": {"reference": "Condition/elsewhere"}}],
        },
    ]
    renamed = rename({"resources": resources}, 4)
    assert [resource["id"] for resource in renamed] == ["case-4", "case-4-e"]
    assert renamed[1]["subject"] == {"reference": "Patient/case-4"}
    assert renamed[1]["diagnosis"] == resources[1]["diagnosis"]


def test_weaker_expectations_are_compared_and_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stratum(value: str, count: int) -> dict[str, object]:
        return {"value": value, "population": {"initial-population": count}}

    def stratified(name: str, *strata: dict[str, object]) -> dict[str, object]:
        made: Any = case(name, 1)
        made["expected"]["groups"][0]["stratifier"] = [{"id": "s", "strata": list(strata)}]
        return made

    cases = [
        stratified("right", stratum("true", 1), stratum("false", 0)),
        stratified("label", stratum("Strata-1", 1)),
        stratified("repeated", stratum("true", 1), stratum("false", 1)),
        stratified("complement", stratum("true", 0), stratum("false", 1)),
    ]
    folder = package(tmp_path, "one", *cases)
    criteria = {"language": "text/cql-identifier", "expression": "Initial Population"}
    made = json.loads(json.dumps(COHORT))
    made["group"][0]["stratifier"] = [{"id": "s", "criteria": criteria}]
    write(folder, made, library("Main", {"Initial Population": true()}))
    assert main(["--stratifiers", "--observations", "-v", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "one 4/4",
        "    stratifiers repeated Case repeated: g s=false initial-population got 0 expected 1 (the case's own counts)",
        "    stratifiers complement Case complement: "
        "g s=true initial-population got 1 expected 0 (unexplained); "
        "g s=false initial-population got 0 expected 1 (complement of true)",
        "stratifiers 4/7 as expected",
        "    differ: 1 (complement of true), 1 (the case's own counts), 1 (unexplained)",
        "observations 0/0 as expected",
        "cases 4/4 passed",
    ]
