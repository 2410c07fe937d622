"""Reports of every scoring keep the DEQM rules, as the guides' own examples do; the three types of report agree."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fhir_gateway.measures import Evaluator, MeasurePackage, MeasureResult, MemoryPopulation, reports
from fhir_gateway.measures.dialect import Family
from fhir_gateway.measures.model import Composite, GroupResult, Observations, PopulationResult
from fhir_gateway.measures.observed_units import VALUE_TYPE
from fhir_gateway.r4.models import validate
from tests.measures.agreement import disagreement
from tests.measures.deqm_rules import problems
from tests.measures.published import NOW, read_cases, rename
from tests.support.measures import REPORTER, result_of

FAMILIES: tuple[Family, ...] = ("us", "uv")
MEMBERS = ("a", "b", "c")
NO_VERSION, NO_SCORING = "deqm-0", "deqm-3"
#: What is wrong with examples of the guides themselves (rules by the name before the colon).
DEFECTS: dict[tuple[str, str], set[str]] = {
    ("us", "ratio-measurereport01"): {NO_VERSION, NO_SCORING, "date", "reporter"},
    ("us", "sde-example"): {NO_VERSION, NO_SCORING, "reporter"},
    ("us", "summ-contained-supplemental"): {"deqm-2"},
    ("uv", "attestation-boolean"): {"linkId"},
    ("uv", "non-cql"): {NO_VERSION, NO_SCORING},
    ("uv", "ratio-measurereport01"): {NO_SCORING, "date", "linkId", "reporter"},
    ("uv", "sde-example"): {NO_VERSION, NO_SCORING, "linkId", "reporter"},
}


@pytest.mark.shared
@pytest.mark.parametrize(("family", "folder"), [("us", "deqm-us-5.0.0"), ("uv", "deqm-uv-1.0.0")])
def test_the_rules_find_the_known_defects_of_the_guides_examples(shared: Path, family: Family, folder: str) -> None:
    found = {}
    for file in sorted((shared / "data" / "ig-examples" / folder).glob("MeasureReport-*.json")):
        report = json.loads(file.read_text("utf-8"))
        if report["resourceType"] == "MeasureReport" and report["type"] != "data-collection":
            rules = {problem.partition(":")[0] for problem in problems(report, family)}
            if rules:
                found[family, file.stem.removeprefix("MeasureReport-")] = rules
    assert found == {key: rules for key, rules in DEFECTS.items() if key[0] == family}


def counted(code: str, *counts: int) -> PopulationResult:
    column = np.array(counts, np.int64)
    return PopulationResult(code, code, column, column)


def observed(name: str, of: str, *values: int) -> PopulationResult:
    member = np.arange(len(values), dtype=np.int32)
    counts = np.array([1] * len(values) + [0] * (len(MEMBERS) - len(values)), np.int64)
    amounts = pa.array([Decimal(value) for value in values], VALUE_TYPE)
    observations = Observations("sum", of, member, member.astype(np.int64), amounts, "d")
    return PopulationResult(name, "measure-observation", counts, counts, observations)


def group(scoring: str, *populations: PopulationResult, **changes: Any) -> GroupResult:
    notation = None if scoring in ("cohort", "composite") else "increase"
    return GroupResult(scoring, {"text": scoring}, scoring, notation, "boolean", populations, **changes)


GROUPS = {
    "proportion": group(
        "proportion",
        counted("initial-population", 1, 1, 1),
        counted("denominator", 1, 1, 0),
        counted("denominator-exclusion", 0, 0, 0),
        counted("numerator", 1, 0, 0),
    ),
    "ratio": group(
        "ratio",
        counted("initial-population", 1, 1, 0),
        counted("denominator", 1, 1, 0),
        counted("numerator", 1, 0, 0),
        observed("days", "denominator", 3, 4),
        observed("events", "numerator", 1),
    ),
    "continuous-variable": group(
        "continuous-variable",
        counted("initial-population", 1, 1, 1),
        counted("measure-population", 1, 1, 0),
        observed("days", "measure-population", 3, 4),
    ),
    "cohort": group("cohort", counted("initial-population", 1, 0, 1)),
    "composite": group(
        "composite",
        counted("initial-population", 1, 1, 1),
        counted("denominator", 2, 1, 0),
        counted("numerator", 1, 1, 0),
        composite=Composite("linear"),
    ),
}


def result(scoring: str) -> MeasureResult:
    from dataclasses import replace

    whole = result_of("diabetes-hba1c-poor-control")
    return replace(whole, members=pa.array(MEMBERS, pa.string()), groups=(GROUPS[scoring],), supplemental=())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scoring", GROUPS)
def test_reports_of_every_scoring_keep_the_rules(scoring: str, family: Family) -> None:
    made = result(scoring)
    written = [
        reports.summary(made, REPORTER, family=family),
        reports.subject_list(made, REPORTER, family=family),
        reports.individual(made, 0, REPORTER, family=family),
    ]
    for report in written:
        assert problems(report, family) == []
        validate(report)
        assert {r["id"] for r in report["contained"]} >= {"software", "inputs"}
    assert disagreement(made, family) is None


@pytest.mark.shared
@pytest.mark.parametrize(
    "measure",
    [
        "CMS1017FHIRHHFI",  # ratio of observations, episodes
        "CMS1244FHIRECATHOQR",  # episodes in strata
        "CMS155FHIRWgtAssessCounseling",  # three rates in strata
        "CMS986FHIRMalnutritionScore",  # continuous variable, six groups
    ],
)
def test_the_three_reports_of_a_published_measure_agree(shared: Path, measure: str) -> None:
    folder = shared / "data" / "ecqm" / "dqm2025" / measure
    cases = read_cases(folder)
    start, end = (date.fromisoformat(cases[0]["measurementPeriod"][key][:10]) for key in ("start", "end"))
    population = MemoryPopulation((f"case-{n}", rename(case, n)) for n, case in enumerate(cases))
    made = Evaluator(MeasurePackage.load(folder)).evaluate(population, (start, end), NOW)
    assert disagreement(made) is None
    for family in FAMILIES:
        summary = reports.summary(made, REPORTER, family=family)
        assert problems(summary, family) == []
        validate(summary)
