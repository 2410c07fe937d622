"""Observations in several units, and durations of which only a range is known."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fhir_gateway.cql.values import DecVec, QuantityVec, StrVec, UncertainVec, Vec
from fhir_gateway.errors import MeasureError
from fhir_gateway.measures.definition import GroupDefinition, read_measure
from fhir_gateway.measures.merge import merge_groups
from fhir_gateway.measures.model import GroupResult, PartResult, RunHeader
from fhir_gateway.measures.populations import evaluate_group
from fhir_gateway.measures.store import ResultStore
from tests.support.measures import NOW, PERIOD, FakeEvaluation, measure, population

NOBODY = np.zeros(0, np.intp)
SCORING_UNIT = "http://hl7.org/fhir/uv/cqm/StructureDefinition/cqm-scoringUnit"


def definition(method: str = "sum", unit: str | None = None) -> GroupDefinition:
    made = measure(
        "continuous-variable",
        [
            population("initial-population", "IP"),
            population("measure-population", "IP"),
            population("measure-observation", "Obs", aggregateMethod=method),
        ],
    )
    if unit:
        concept = {"coding": [{"system": "http://unitsofmeasure.org", "code": unit}]}
        made["group"][0]["extension"].append({"url": SCORING_UNIT, "valueCodeableConcept": concept})
    return read_measure(made).groups[0]


def quantities(*rows: tuple[str, str | None]) -> QuantityVec:
    values = np.array([int(Decimal(value).scaleb(8)) for value, _ in rows], np.int64)
    return QuantityVec(DecVec(values), StrVec.of_arrow(pa.array([unit for _, unit in rows], pa.string())))


def evaluation(vector: Vec) -> FakeEvaluation:
    return FakeEvaluation({"IP": [True] * len(vector)}, functions={"Obs": vector})


def batches(rows: Sequence[tuple[str, str | None]], cuts: Sequence[int]) -> list[GroupResult]:
    parts = [rows[start:end] for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    return [evaluate_group(definition(), evaluation(quantities(*part)), len(part), NOBODY) for part in parts]


def observed(group: GroupResult) -> tuple[str | None, list[Decimal]]:
    found = group.populations[2].observations
    assert found is not None
    assert found.units is None
    return found.unit, found.value.to_pylist()


MIXED = [("90", "min"), ("1", "d"), ("2", "h"), ("0.00000002", "d"), ("1", "min"), ("-1.5", "day")]
IN_DAYS = ["0.0625", "1", "0.08333333", "0.00000002", "0.00069444", "-1.5"]


@pytest.mark.parametrize("cuts", [[], [1], [2, 3], [1, 2, 3, 4, 5], [0, 6]])
def test_all_values_are_in_one_unit_however_the_population_is_cut(cuts: list[int], tmp_path: Path) -> None:
    found = batches(MIXED, cuts)
    sizes = [len(group.populations[0].counts) for group in found]
    merged = merge_groups([[group] for group in found], sizes)[0]
    assert observed(merged) == ("d", [Decimal(value).quantize(Decimal("1e-8")) for value in IN_DAYS])
    header = RunHeader("u", "1", "n", "t", PERIOD, NOW, "1", "p", "t", None)
    with ResultStore(tmp_path).writing(header) as writer:
        for group, size in zip(found, sizes, strict=True):
            members = pa.array([f"{id(group)}-{number}" for number in range(size)], pa.string())
            writer.add(PartResult(members, (group,), {}, (), (), 0.0))
        run = writer.finish()
    stored = ResultStore(tmp_path).load(run).groups[0]
    assert observed(stored) == observed(merged)
    assert stored.score() == merged.score()


def test_merging_refuses_units_that_do_not_convert() -> None:
    found = batches([("1", "mg"), ("1", "d")], [1])
    with pytest.raises(MeasureError, match="observation measure-observation gave quantities in 2 units"):
        merge_groups([[group] for group in found], [1, 1])


def test_temperatures_have_another_zero() -> None:
    merged = merge_groups([batches([("98.6", "[degF]"), ("37", "Cel")], [])], [2])[0]
    assert observed(merged) == ("Cel", [Decimal(37), Decimal(37)])


def test_the_unit_of_the_score_is_that_of_the_values_and_others_fail_their_members() -> None:
    rows = evaluation(quantities(("120", "min"), ("1", "mg"), ("1", "h")))
    group = evaluate_group(definition("average", "h"), rows, 3, NOBODY)
    assert observed(group) == ("h", [Decimal(2), Decimal(1)])
    assert {index: failure.reason for index, failure in rows.failures.items()} == {
        1: "an observation does not convert to 'h'"
    }


def test_a_duration_that_is_not_certain_is_null() -> None:
    ends: dict[str, Any] = {"low": np.array([3, 10, 0]), "high": np.array([3, 40, 0])}
    vector = UncertainVec(ends["low"], ends["high"], np.array([True, True, False]))
    group = evaluate_group(definition(), evaluation(vector), 3, NOBODY)
    assert observed(group) == (None, [Decimal(3)])
    assert group.score() == 3
