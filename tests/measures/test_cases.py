"""Our own packages against hand-made cases: one JSON file each, in the layout of published test cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fhir_gateway.measures import MeasurePackage
from tests.measures.published import run

MEASURES = Path(__file__).parents[2] / "measures"
CASES = Path(__file__).parent / "cases"
PACKAGES = sorted(folder.name for folder in CASES.iterdir())


@pytest.mark.parametrize("name", PACKAGES)
def test_every_case_has_the_expected_populations(name: str) -> None:
    cases = [json.loads(file.read_text("utf-8")) for file in sorted((CASES / name).glob("*.json"))]
    outcomes = run(MeasurePackage.load(MEASURES / name), cases)
    assert len(outcomes) == len(cases)
    assert [f"{o.case}: {'; '.join(o.differences)}" for o in outcomes if o.differences] == []
