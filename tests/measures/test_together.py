"""Measures evaluated together share what they read, and nothing that is not the same for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.measures import Evaluator, MeasurePackage, MeasureResult, MemoryPopulation, ResultStore
from fhir_gateway.measures.evaluate import evaluate_together
from tests.measures.published import NOW, read_cases, rename
from tests.support.measures import COHORT, PERIOD, library, write

SYSTEM = "http://codes.example"
VALUE_SET = "http://values.example/ValueSet/findings"


def _package(folder: Path, *codes: str) -> MeasurePackage:
    """Everybody with a Condition in a value set, whose content is that of this package."""
    folder.mkdir()
    retrieve = {
        "type": "Retrieve",
        "dataType": "{http://hl7.org/fhir}Condition",
        "codeProperty": "code",
        "codes": {"type": "ExpandValueSet", "operand": {"type": "ValueSetRef", "name": "Findings", "preserve": True}},
    }
    statements = {"Initial Population": {"type": "Exists", "operand": retrieve}}
    contains = [{"system": SYSTEM, "code": code} for code in codes]
    value_set = {"resourceType": "ValueSet", "url": VALUE_SET, "version": "1", "expansion": {"contains": contains}}
    main = library("Main", statements, value_sets={"Findings": VALUE_SET})
    return MeasurePackage.load(write(folder, COHORT, main, value_set))


def _person(name: str, code: str) -> list[dict[str, Any]]:
    condition = {
        "resourceType": "Condition",
        "id": f"{name}-{code}",
        "subject": {"reference": f"Patient/{name}"},
        "code": {"coding": [{"system": SYSTEM, "code": code}]},
    }
    return [{"resourceType": "Patient", "id": name}, condition]


def test_value_sets_of_one_name_stay_apart(tmp_path: Path) -> None:
    packages = [_package(tmp_path / "older", "a"), _package(tmp_path / "newer", "a", "b")]
    packages.append(_package(tmp_path / "same", "a"))
    people = MemoryPopulation.from_resources([*_person("one", "a"), *_person("two", "b"), *_person("three", "c")])
    results = evaluate_together([Evaluator(package) for package in packages], people, PERIOD, NOW)
    assert [result.groups[0].count("initial-population") for result in results] == [1, 2, 1]


def _saved(folder: Path, results: Sequence[MeasureResult]) -> dict[str, bytes]:
    for result in results:
        ResultStore(folder).save(result)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


@pytest.mark.shared
def test_published_measures_answer_alike_together_and_alone(shared: Path, tmp_path: Path) -> None:
    """Medications by reference, subjects that fail, observations, strata, and shared libraries in two versions."""
    names = ("CMS347FHIR*", "CMS1218FHIR*", "CMS155FHIR*", "CMS190FHIR*", "CMS122FHIR*")
    folders = [next((shared / "data" / "ecqm" / "dqm2025").glob(name)) for name in names]
    cases = [case for folder in folders for case in read_cases(folder)[::3]]
    people = MemoryPopulation([(f"case-{number:04}", rename(case, number)) for number, case in enumerate(cases)])
    evaluators = [Evaluator(MeasurePackage.load(folder)) for folder in folders]
    period = (date(2026, 1, 1), date(2026, 12, 31))
    together = evaluate_together(evaluators, people, period, NOW)
    alone = [evaluator.evaluate(people, period, NOW) for evaluator in evaluators]
    assert [result.failed for result in together] == [result.failed for result in alone]
    assert _saved(tmp_path / "together", together) == _saved(tmp_path / "alone", alone)
