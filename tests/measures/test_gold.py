"""Published expectations: the nine patients of the Quality Measure IG, and two eCQMs with their test cases."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fhir_gateway.cql.values import IntVec
from fhir_gateway.measures.definition import read_measure
from fhir_gateway.measures.model import GroupResult
from fhir_gateway.measures.populations import evaluate_group
from tests.measures.published import main
from tests.support.measures import FakeEvaluation

pytestmark = pytest.mark.shared

#: What each criterion of the IG's measures asks for (Quality Measure IG, section on examples).
_CRITERIA = {
    "Initial Population": "Encounter",
    "Initial Population 1": "Encounter",
    "Initial Population 2": "Immunization",
    "Denominator": "Procedure",
    "Measure Population": "Procedure",
    "Numerator": "Observation",
    "Numerator Exclusion": "ResearchStudy",
    "Denominator Exception": "Condition",
}
#: Populations in Measure order, observations included, and the score.
SUMMARIES = {
    "IGProportion": ([7, 6, 1, 3, 1, 1], Decimal("0.5")),
    "IGRatio": ([7, 5, 6, 1, 5, 1], Decimal("0.8")),
    "IGContinuousVariable": ([7, 6, 1, 5], Decimal(1)),
    "IGCohort": ([7], Decimal(7)),
}


def evaluate_example(folder: Path, name: str) -> tuple[GroupResult, list[Path]]:
    definition = read_measure(json.loads((folder / "measure" / f"Measure-{name}.json").read_text("utf-8")))
    patients = sorted((folder / "tests" / "measure" / name).iterdir())
    resources = [[json.loads(p.read_text("utf-8")) for p in patient.glob("*.json")] for patient in patients]
    types = [[resource["resourceType"] for resource in found] for found in resources]
    deceased = [any(r.get("deceasedBoolean") is True for r in found) for found in resources]
    columns: dict[str, Any] = {
        criterion: [wanted in found for found in types] for criterion, wanted in _CRITERIA.items()
    }
    columns |= {"Denominator Exclusion": deceased, "Measure Population Exclusion": deceased}
    counted = IntVec(np.array([found.count("Observation") for found in types], np.int64))
    evaluation = FakeEvaluation(columns, functions={"Measure Observation": counted})
    return evaluate_group(definition.groups[0], evaluation, len(patients), np.zeros(0, np.intp)), patients


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_nine_patients_of_the_guide(shared: Path, name: str) -> None:
    result, patients = evaluate_example(shared / "data" / "ig-examples" / "cqm-2.0.0", name)
    counts, score = SUMMARIES[name]
    assert [int(p.counts.sum()) for p in result.populations] == counts
    assert result.score() == score
    for index, patient in enumerate(patients):
        report = json.loads((patient / f"MeasureReport-{name}-{patient.name}.json").read_text("utf-8"))
        expected = [(p["code"]["coding"][0]["code"], p["count"]) for p in report["group"][0]["population"]]
        got = [(p.code, int(p.counts[index])) for p in result.populations]
        assert got[: len(expected)] == expected, patient.name


@pytest.mark.parametrize("name", ["CMS122FHIRDiabetesAssessGT9Pct", "CMS165FHIRControllingHighBP"])
def test_published_measures_give_their_expected_results(
    shared: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "data" / "ecqm" / "dqm2025" / name
    code = main(["-v", str(folder)])
    printed = capsys.readouterr().out
    assert code == 0, printed
    lines = printed.splitlines()
    passed, _, total = lines[0].removeprefix(f"{name} ").partition("/")
    assert passed == total
    assert lines[-1] == f"cases {passed}/{total} passed"
