"""MeasureReports: invariants of the DEQM profiles, determinism, and what is left out."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fhir_gateway.errors import NotFoundError
from fhir_gateway.measures import MeasurePackage, MeasureResult, MemoryPopulation, evaluate, reports
from fhir_gateway.measures.dialect import DIALECTS, Family
from fhir_gateway.measures.model import GroupResult, Observations, PopulationResult
from tests.measures.published import rename
from tests.support.measures import MEASURES, NAMES, NOW, PERIOD, REPORTER, groups_of, result_of

Report = dict[str, Any]


def made(*groups: GroupResult, **changes: Any) -> MeasureResult:
    whole = result_of("diabetes-hba1c-poor-control")
    members = pa.array(["a", "b", "c"], pa.string())
    return dataclasses.replace(whole, members=members, groups=groups or whole.groups, **changes)


def counts(*values: int) -> Any:
    return np.array(values, np.int64)


def populations(*columns: tuple[str, Any]) -> tuple[PopulationResult, ...]:
    return tuple(PopulationResult(code, code, column, column) for code, column in columns)


THIRDS = GroupResult(
    id="main",
    code={"text": "Main rate"},
    scoring="proportion",
    improvement_notation="increase",
    basis="boolean",
    populations=populations(
        ("initial-population", counts(1, 1, 1)), ("denominator", counts(1, 1, 1)), ("numerator", counts(1, 0, 0))
    ),
)


def extension(node: Report, url: str) -> Any:
    found = [e for e in node.get("extension", ()) if e["url"] == url]
    assert len(found) <= 1
    return next((value for key, value in found[0].items() if key != "url"), None) if found else None


def check_deqm(report: Report, family: Family) -> None:
    """deqm-0, -1, -3, -4, -5, -6, -8 and the content rules."""
    dialect = DIALECTS[family]
    assert report["status"] in ("complete", "pending", "error")
    assert report["measure"].partition("|")[2]
    assert report["date"]
    assert report["reporter"] == REPORTER
    assert len(report["period"]["start"]) > 9
    assert len(report["period"]["end"]) > 9
    assert extension(report, dialect.scoring) is None
    for group in report["group"]:
        scoring = extension(group, dialect.scoring)["coding"][0]["code"]
        if scoring in ("proportion", "ratio", "continuous-variable"):
            assert extension(group, dialect.improvement_notation) is not None
        assert group["population"]
        assert all(isinstance(p["count"], int) and "subjectResults" not in p for p in group["population"])
        if scoring == "proportion" and "measureScore" in group:
            assert 0 <= group["measureScore"]["value"] <= 1
    contained = {f"#{resource['id']}" for resource in report["contained"]}
    used = {e["valueReference"]["reference"] for e in report["extension"] if "valueReference" in e}
    assert contained == used


@pytest.mark.parametrize("family", ["us", "uv"])
@pytest.mark.parametrize("name", NAMES)
def test_reports_keep_the_rules_of_deqm(name: str, family: Family) -> None:
    result = result_of(name)
    summary = reports.summary(result, REPORTER, family=family)
    check_deqm(summary, family)
    assert summary["type"] == "summary"
    assert "subject" not in summary
    assert "evaluatedResource" not in summary
    individual_counts = np.zeros(len(summary["group"][0]["population"]), np.int64)
    for index, member in enumerate(result.members.to_pylist()):
        if not reports.in_initial_population(result, index):
            with pytest.raises(NotFoundError):
                reports.individual(result, index, REPORTER)
            continue
        report = reports.individual(result, index, REPORTER, family=family)
        check_deqm(report, family)
        assert (report["type"], report["subject"]) == ("individual", {"reference": f"Patient/{member}"})
        assert report["id"] == f"{summary['id']}-{member}"
        individual_counts += [p["count"] for p in report["group"][0]["population"]]
    assert individual_counts.tolist() == [p["count"] for p in summary["group"][0]["population"]]


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_codes_are_those_of_the_measure_in_its_order(name: str) -> None:
    package = MeasurePackage.load(MEASURES / name)
    report = reports.summary(result_of(name), REPORTER)
    for group, defined in zip(report["group"], package.measure["group"], strict=True):
        assert group["id"] == defined["id"]
        assert [(p["id"], p["code"]) for p in group["population"]] == [
            (p["id"], p["code"]) for p in defined["population"]
        ]


def test_the_same_inputs_give_the_same_bytes() -> None:
    package = MeasurePackage.load(MEASURES / "readmission-30-day")
    population = MemoryPopulation(groups_of("readmission-30-day"))
    first, second = (evaluate(package, population, PERIOD, NOW) for _ in range(2))
    for render in (reports.summary, lambda result, reporter: reports.individual(result, 1, reporter)):
        assert json.dumps(render(first, REPORTER)) == json.dumps(render(second, REPORTER))


def test_a_report_names_what_it_was_made_from() -> None:
    result = made(lake_version=12)
    software, inputs = reports.summary(result, REPORTER)["contained"]
    assert software["version"] == [{"value": result.engine_version}]
    named = {p["name"]: next(v for k, v in p.items() if k != "name") for p in inputs["parameter"]}
    assert named == {
        "packageHash": result.package_hash,
        "terminologyHash": result.terminology_hash,
        "evaluatedAt": "2027-02-01T12:00:00.000+00:00",
        "lakeVersion": 12,
    }


def test_scores_are_fractions_and_rounded_at_output() -> None:
    result = made(THIRDS)
    (group,) = reports.summary(result, REPORTER)["group"]
    assert group["measureScore"] == {"value": 0.33333333}
    assert group["code"] == {"text": "Main rate"}
    (group,) = reports.summary(made(dataclasses.replace(THIRDS, scoring_precision=2)), REPORTER)["group"]
    assert group["measureScore"] == {"value": 0.33}
    whole = reports.summary(result, REPORTER, np.array([True, False, False]))
    assert whole["group"][0]["measureScore"] == {"value": 1}
    assert whole["id"] != reports.summary(result, REPORTER)["id"]


def test_without_a_denominator_there_is_no_score() -> None:
    nobody = populations(
        ("initial-population", counts(1, 0, 0)), ("denominator", counts(0, 0, 0)), ("numerator", counts(0, 0, 0))
    )
    (group,) = reports.summary(made(dataclasses.replace(THIRDS, populations=nobody)), REPORTER)["group"]
    assert "measureScore" not in group
    assert [p["count"] for p in group["population"]] == [1, 0, 0]


def test_a_rate_has_the_unit_of_its_measure() -> None:
    (group,) = reports.summary(result_of("ed-visits-per-1000"), REPORTER)["group"]
    score = group["measureScore"]
    assert score.pop("value") > 1
    assert score == {
        "unit": "visits per 1,000 member years",
        "system": "http://unitsofmeasure.org",
        "code": "/(10*3.a)",
    }


def test_a_continuous_variable_has_the_unit_of_its_observations() -> None:
    values = pa.array([2, 4], pa.decimal128(28, 8))
    observations = Observations("average", None, np.array([0, 2], np.int32), np.array([0, 2]), values, "d")
    group = dataclasses.replace(
        THIRDS,
        scoring="continuous-variable",
        populations=(
            *populations(("initial-population", counts(1, 0, 1)), ("measure-population", counts(1, 0, 1))),
            PopulationResult("obs", "measure-observation", counts(1, 0, 1), counts(1, 0, 1), observations),
        ),
    )
    assert reports.summary(made(group), REPORTER)["group"][0]["measureScore"] == {"value": 3, "unit": "d"}
    assert reports.individual(made(group), 2, REPORTER)["group"][0]["measureScore"] == {"value": 4, "unit": "d"}


def test_stays_are_listed_with_the_populations_they_count_in() -> None:
    case = json.loads((MEASURES.parent / "tests/measures/cases/readmission-30-day/thirty-days.json").read_text("utf-8"))
    package = MeasurePackage.load(MEASURES / "readmission-30-day")
    result = evaluate(package, MemoryPopulation([("case-0", rename(case, 0))]), PERIOD, NOW)
    listed = reports.individual(result, 0, REPORTER)["evaluatedResource"]
    criteria = {r["reference"]: [e["valueString"] for e in r["extension"]] for r in listed}
    assert criteria == {
        "Encounter/case-0-e1": ["initial-population", "denominator", "numerator"],
        "Encounter/case-0-e2": ["initial-population", "denominator"],
    }


def test_failed_members_are_reported_and_counted_nowhere() -> None:
    none = populations(*((p.code, counts(1, 0, 1)) for p in THIRDS.populations))
    result = made(dataclasses.replace(THIRDS, populations=none), failed={"b": "Main.Numerator (Main 3:1): too bad"})
    report = reports.individual(result, 1, REPORTER)
    assert (report["status"], "group" in report) == ("error", False)
    assert report["contained"][-1]["issue"] == [
        {"severity": "error", "code": "processing", "diagnostics": "Main.Numerator (Main 3:1): too bad"}
    ]
    summary = reports.summary(result, REPORTER)
    assert summary["contained"][-1]["issue"][0]["diagnostics"].startswith("1 subjects could not be evaluated")
    other = reports.summary(result, REPORTER, np.array([True, False, True]))
    assert [resource["id"] for resource in other["contained"]] == ["software", "inputs"]
    with_note = made(THIRDS, notes=("stratifiers are not computed: group main",))
    issue = reports.summary(with_note, REPORTER)["contained"][-1]["issue"][0]
    assert (issue["severity"], issue["diagnostics"]) == ("information", with_note.notes[0])


def test_link_ids_stand_on_universal_reports() -> None:
    (group,) = reports.summary(made(THIRDS), REPORTER, family="uv")["group"]
    base = "http://hl7.org/fhir/5.0/StructureDefinition/extension-MeasureReport."
    assert extension(group, base + "group.linkId") == "main"
    assert [extension(p, base + "group.population.linkId") for p in group["population"]] == [
        "initial-population",
        "denominator",
        "numerator",
    ]


def test_lists_of_a_result_that_is_not_stored_name_patients() -> None:
    report = reports.subject_list(made(THIRDS), REPORTER, stored=False)
    assert report["type"] == "subject-list"
    assert "meta" not in report
    lists = {f"#{r['id']}": r for r in report["contained"] if r["resourceType"] == "List"}
    assert all("meta" not in found for found in lists.values())
    found = {p["id"]: lists[p["subjectResults"]["reference"]] for p in report["group"][0]["population"]}
    assert [entry["item"]["reference"] for entry in found["numerator"]["entry"]] == ["Patient/a"]
    assert len(found["denominator"]["entry"]) == 3
