"""The command that runs published measures, on a made-up one."""

from __future__ import annotations

import gzip
import json
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fhir_gateway.measures.model import GroupResult, Observations, PopulationResult
from fhir_gateway.measures.observed_units import VALUE_TYPE
from tests.measures import published
from tests.measures.expectations import compare_group
from tests.measures.published import main, rename
from tests.support.measures import COHORT, in_value_set, library, measure, population, true, write

NOBODY = {"type": "Not", "operand": true()}
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
        "to be explained:",
        "    one b Case b: g initial-population got 1 expected 0",
        "cases 1/2 passed",
    ]


def test_a_measure_that_cannot_run_fails_all_its_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = package(tmp_path, "one", case("a", 1), case("b", 1))
    value_sets = {"Codes": "http://measures.example/ValueSet/gone"}
    write(folder, COHORT, library("Main", {"Initial Population": in_value_set("Codes")}, value_sets=value_sets))
    assert main([str(folder), str(package(tmp_path, "two", case("a", 1)))]) == 1
    printed = capsys.readouterr().out
    assert "one: TerminologyError: value set http://measures.example/ValueSet/gone is missing" in printed
    assert printed.splitlines()[1:] == [
        "one 0/2",
        "two 1/1",
        "to be explained:",
        "    one a Case a: not evaluated",
        "    one b Case b: not evaluated",
        "cases 1/3 passed",
    ]


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
    listed = tomllib.loads(published.EXCLUSIONS.read_text("utf-8"))
    assert set(listed) <= {"case", "stratum", "observation", "habit", "content"}
    for entry in (entry for entries in listed.values() for entry in entries):
        assert len(entry.get("cql", entry.get("data", ""))) > 40
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


def stratum(value: str, initial: int, numerator: int = 0) -> dict[str, object]:
    return {"value": value, "population": {"initial-population": initial, "numerator": numerator}}


def stratified(name: str, *stratifiers: list[dict[str, object]]) -> dict[str, object]:
    made: Any = case(name, 1)
    (group,) = made["expected"]["groups"]
    group["population"] = {"initial-population": 1, "numerator": 0}
    group["stratifier"] = [{"id": f"s{number}", "strata": rows} for number, rows in enumerate(stratifiers, 1)]
    return made


def stratified_package(tmp_path: Path, *cases: dict[str, object]) -> Path:
    """A proportion of 0/1 for everybody, stratified by a criterion that everybody meets and one that nobody meets."""
    folder = package(tmp_path, "one", *cases)
    expressions = {"initial-population": "Everybody", "denominator": "Everybody", "numerator": "Nobody"}
    made = measure("proportion", [population(code, name) for code, name in expressions.items()])
    made["group"][0]["stratifier"] = [
        {"id": f"s{number}", "criteria": {"language": "text/cql-identifier", "expression": name}}
        for number, name in ((1, "Everybody"), (2, "Nobody"))
    ]
    return write(folder, made, library("Main", {"Everybody": true(), "Nobody": NOBODY}))


def test_strata_that_differ_fail_unless_they_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    listed = tmp_path / "exclusions.toml"
    listed.write_text(
        '[[stratum]]\nmeasure = "one"\nid = "wrong"\nstratifiers = ["s1"]\n'
        '[[habit]]\nkind = "complement"\nmeasures = { one = 2 }\n'
        '[[habit]]\nkind = "overlap"\nmeasures = { one = 1 }\n'
    )
    monkeypatch.setattr(published, "EXCLUSIONS", listed)
    cases = [
        stratified("right", [stratum("true", 1), stratum("false", 0)]),
        stratified("label", [stratum("Strata-1", 1)]),
        stratified("wrong", [stratum("true", 0)]),
        stratified("complement", [stratum("true", 1), stratum("false", 0, 1)]),
        stratified("overlap", [stratum("true", 1)], [stratum("true", 1)]),
        stratified("new", [], [stratum("true", 1), stratum("false", 1)]),
    ]
    assert main([str(stratified_package(tmp_path, *cases))]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "one 6/6",
        "to be explained:",
        "    one new Case new: g s2=true initial-population got 0 expected 1",
        "    one differs by complement 1 times, not 2 as listed",
        "strata 6/10 as expected, 3 excluded with proof",
        "cases 6/6 passed",
    ]


def test_an_excluded_stratum_must_not_be_met(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    listed = tmp_path / "exclusions.toml"
    listed.write_text('[[stratum]]\nmeasure = "one"\nid = "right"\nstratifiers = ["s1"]\n')
    monkeypatch.setattr(published, "EXCLUSIONS", listed)
    folder = stratified_package(tmp_path, stratified("right", [stratum("true", 1)]))
    assert main([str(folder)]) == 1
    assert "one right strata s1 passes although it is excluded" in capsys.readouterr().out


def test_published_observations_are_compared_by_population() -> None:
    group = GroupResult("g", None, "continuous-variable", None, "boolean", (observed("obs", 4, 4, 9),))
    named = [{"id": f"obs_{number}", "value": value} for number, value in enumerate((9, 4, 4), 1)]
    assert not compare_group(group, {"population": {}, "observations": named}).differences
    other = [{"id": "another", "value": 4}]
    (difference,) = compare_group(group, {"population": {}, "observations": other}).differences
    assert difference.text == "g observations got [4, 4, 9] expected [4]"


def observed(name: str, *values: int) -> PopulationResult:
    count = np.array([len(values)], np.int64)
    observations = Observations(
        "sum",
        None,
        np.zeros(len(values), np.int32),
        np.zeros(len(values), np.int64),
        pa.array([Decimal(value) for value in values], VALUE_TYPE),
    )
    return PopulationResult(name, "measure-observation", count, count, observations)
