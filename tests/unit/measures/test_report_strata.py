"""Strata and lists of subjects in MeasureReports: deqm-7, counts, and that the report types agree."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fhir_gateway.measures import MeasureResult, ResultStore, reports
from fhir_gateway.measures.dialect import DIALECTS, Family
from fhir_gateway.measures.model import GroupResult, PopulationResult, StratifierResult
from fhir_gateway.measures.strata import UNKNOWN
from tests.support.measures import REPORTER, result_of

CODES = ("initial-population", "denominator", "numerator")
COUNTS = ((1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0))
WOMAN = {"valueCodeableConcept": {"coding": [{"system": "urn:sex", "code": "f"}]}}


def strata(*numbers: int) -> dict[str, Any]:
    return {"boolean": np.array(numbers, np.int32)}


STRATIFIERS = (
    StratifierResult(
        "old", {"text": "Old"}, (), CODES, True, (({"valueBoolean": True},), ({"valueBoolean": False},)),
        strata(1, 1, 1, -1),
    ),
    StratifierResult("sex", {"text": "Sex"}, (), ("initial-population",), False, ((WOMAN,), (UNKNOWN,)),
                     strata(0, 1, 0, -1)),
    StratifierResult(
        "both", {"text": "Sex"}, (("s", {"text": "Sex"}), ("a", {"text": "Age"})), CODES, False,
        ((WOMAN, {"valueInteger": 3}), (UNKNOWN, {"valueString": "young"})), strata(0, 1, 0, -1),
    ),
)  # fmt: skip


def made() -> MeasureResult:
    columns = [np.array([row[n] for row in COUNTS], np.int64) for n in range(3)]
    populations = tuple(PopulationResult(c, c, v, v) for c, v in zip(CODES, columns, strict=True))
    group = GroupResult("g", None, "proportion", "increase", "boolean", populations, stratifiers=STRATIFIERS)
    members = pa.array(["a", "b", "c", "d"])
    return dataclasses.replace(result_of("diabetes-hba1c-poor-control"), members=members, groups=(group,))


def counts(stratum: dict[str, Any]) -> list[int]:
    return [population["count"] for population in stratum["population"]]


@pytest.mark.parametrize("family", ["us", "uv"])
def test_a_summary_recomputes_each_stratum(family: Family) -> None:
    (group,) = reports.summary(made(), REPORTER, family=family)["group"]
    old, sex, both = group["stratifier"]
    assert [(s["value"]["text"], counts(s)) for s in old["stratum"]] == [("true", [0, 0, 0]), ("false", [3, 2, 1])]
    assert "measureScore" not in old["stratum"][0]
    assert old["stratum"][1]["measureScore"] == group["measureScore"] == {"value": 0.5}
    assert [(s["value"]["coding"][0]["code"], counts(s)) for s in sex["stratum"]] == [("f", [2]), ("unknown", [1])]
    assert all("measureScore" not in stratum for stratum in sex["stratum"])  # it applies to one population only
    first, second = both["stratum"]
    assert [c["value"] for c in first["component"]] == [WOMAN["valueCodeableConcept"], {"text": "3"}]
    assert [c["code"]["text"] for c in second["component"]] == ["Sex", "Age"]
    assert (counts(first), counts(second)) == ([2, 1, 1], [1, 1, 0])
    for stratifier in group["stratifier"]:  # deqm-7
        components = any("component" in stratum for stratum in stratifier["stratum"])
        assert ("code" in stratifier) != components
        assert all(("value" in stratum) != ("component" in stratum) for stratum in stratifier["stratum"])
        assert ("extension" in stratifier) == (family == "uv")


def test_a_summary_of_some_leaves_out_values_nobody_has() -> None:
    mask = np.array([True, False, False, True])
    (group,) = reports.summary(made(), REPORTER, mask)["group"]
    assert [len(stratifier["stratum"]) for stratifier in group["stratifier"]] == [2, 1, 1]


def test_an_individual_report_shows_where_the_member_is() -> None:
    (group,) = reports.individual(made(), 1, REPORTER)["group"]
    old, sex, both = (stratifier["stratum"] for stratifier in group["stratifier"])
    assert [(s["value"]["text"], counts(s)) for s in old] == [("false", [1, 1, 0])]
    assert [s["value"] for s in sex] == [UNKNOWN["valueCodeableConcept"]]
    assert [counts(s) for s in both] == [[1, 1, 0]]


@pytest.mark.parametrize("family", ["us", "uv"])
def test_a_subject_list_names_the_individual_reports(family: Family) -> None:
    result = made()
    report = reports.subject_list(result, REPORTER, family=family)
    dialect = DIALECTS[family]
    assert (report["type"], report["meta"]) == ("subject-list", {"profile": [dialect.subject_list]})
    lists = {f"#{r['id']}": r for r in report["contained"] if r["resourceType"] == "List"}
    own = {
        reports.individual(result, index, REPORTER)["id"]: index
        for index in range(4)
        if reports.in_initial_population(result, index)
    }

    def subjects(population: dict[str, Any]) -> list[int]:
        found = lists[population["subjectResults"]["reference"]]
        assert (found["status"], found["mode"]) == ("current", "snapshot")
        assert found["meta"] == {"profile": [dialect.individual_list]}
        return [own[e["item"]["reference"].removeprefix("MeasureReport/")] for e in found.get("entry", ())]

    (group,) = report["group"]
    assert [subjects(population) for population in group["population"]] == [[0, 1, 2], [0, 1], [0]]
    assert len(lists) == 6  # the same subjects share a list: 012, 01, 0, nobody, 02, 1
    strata = [stratum for stratifier in group["stratifier"] for stratum in stratifier["stratum"]]
    for population in [*group["population"], *(p for stratum in strata for p in stratum["population"])]:
        assert len(subjects(population)) == population["count"]
    plain = reports.summary(result, REPORTER, family=family)["group"][0]
    assert [p["count"] for p in group["population"]] == [p["count"] for p in plain["population"]]
    (some,) = reports.subject_list(result, REPORTER, np.array([False, True, True, True]), family=family)["group"]
    assert [p["count"] for p in some["population"]] == [2, 1, 0]


def test_strata_come_back_from_the_store(tmp_path: Path) -> None:
    result = made()
    store = ResultStore(tmp_path)
    loaded = store.load(store.save(result))
    assert reports.subject_list(loaded, REPORTER) == reports.subject_list(result, REPORTER)
    assert reports.individual(loaded, 1, REPORTER) == reports.individual(result, 1, REPORTER)
