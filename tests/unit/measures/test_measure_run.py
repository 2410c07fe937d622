"""Many measures in one run over a lake: the same bytes as one at a time, by one process or several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.errors import ConfigurationError, GatewayError
from fhir_gateway.lake.store import Lake
from fhir_gateway.measures import Evaluator, LakePopulation, MeasurePackage, ResultStore, population, processes
from fhir_gateway.measures.evaluate import evaluate_together
from fhir_gateway.measures.processes import evaluate_slices, free_memory, processes_for
from fhir_gateway.measures.run import evaluate_lake, recipe_of
from tests.support.clusters import PickledCluster
from tests.support.lake_pulls import People
from tests.support.measures import (
    MEASURES,
    NAMES,
    NOW,
    PERIOD,
    groups_of,
    library,
    measure,
    saved,
    stage_cases,
    true,
    write,
)
from tests.support.measures import population as stated

COPIES = 2
#: Less than a bucket has.
SIZE = 12


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("run")
    lake = Lake.open(folder / "lake", buckets=3)
    lake.commit(stage_cases(folder, COPIES), People())
    return lake


@pytest.fixture(scope="module")
def evaluators() -> list[Evaluator]:
    return [Evaluator(MeasurePackage.load(MEASURES / name)) for name in NAMES]


def run(evaluators: Sequence[Evaluator], lake: Lake, folder: Path, **options: Any) -> tuple[str, ...]:
    return evaluate_lake(evaluators, lake, PERIOD, NOW, ResultStore(folder), **{"batch_members": SIZE, **options})


def test_together_is_as_one_at_a_time(tmp_path: Path, lake: Lake, evaluators: list[Evaluator]) -> None:
    told: list[tuple[int, int]] = []
    runs = run(evaluators, lake, tmp_path / "many", tell=lambda done, total: told.append((done, total)))
    alone = [run([evaluator], lake, tmp_path / "one")[0] for evaluator in evaluators]
    assert list(runs) == alone
    assert len(set(runs)) == len(NAMES)
    assert saved(tmp_path / "many") == saved(tmp_path / "one")
    total = COPIES * sum(len(groups_of(name)) for name in NAMES)
    assert told[0] == (0, total)
    assert told[-1] == (total, total)
    assert len(told) > 4


def test_saved_parts_are_what_is_evaluated_in_memory(tmp_path: Path, lake: Lake, evaluators: list[Evaluator]) -> None:
    runs = run(evaluators, lake, tmp_path / "parts", batch_members=10**6)
    whole = ResultStore(tmp_path / "whole")
    results = evaluate_together(evaluators, LakePopulation(lake, batch_members=10**6), PERIOD, NOW)
    assert tuple(map(whole.save, results)) == runs
    assert saved(tmp_path / "parts") == saved(tmp_path / "whole")


def test_processes_change_nothing(tmp_path: Path, lake: Lake, evaluators: list[Evaluator]) -> None:
    assert run(evaluators[:2], lake, tmp_path / "one") == run(evaluators[:2], lake, tmp_path / "two", processes=2)
    assert saved(tmp_path / "one") == saved(tmp_path / "two")


def test_a_cluster_changes_nothing(tmp_path: Path, lake: Lake, evaluators: list[Evaluator]) -> None:
    """What goes to other machines comes back the same; tests/spark has real ones."""
    cluster = PickledCluster()
    assert run(evaluators[:2], lake, tmp_path / "one") == run(evaluators[:2], lake, tmp_path / "two", cluster=cluster)
    assert saved(tmp_path / "one") == saved(tmp_path / "two")
    assert cluster.said == ["evaluate 2 measures"]


DAY = {"type": "Quantity", "value": 1, "unit": "d"}
MILLIGRAM = {"type": "Quantity", "value": 1000, "unit": "mg"}
VISITED = {"type": "Exists", "operand": {"type": "Retrieve", "dataType": "{http://hl7.org/fhir}Encounter"}}
OBSERVED = {"type": "If", "condition": VISITED, "then": DAY, "else": MILLIGRAM}


@pytest.mark.parametrize("processes", [1, 2])
def test_members_whose_observation_is_in_an_odd_unit_fail_and_the_others_are_evaluated(
    tmp_path: Path, lake: Lake, processes: int
) -> None:
    made = measure(
        "continuous-variable",
        [
            stated("initial-population", "All"),
            stated("measure-population", "All"),
            stated("measure-observation", "Observed", aggregateMethod="sum", criteriaReference="measure-population"),
        ],
    )
    write(
        tmp_path,
        made,
        library("Main", {"All": true(), "Observed": OBSERVED}, functions=["Observed"]),
    )
    evaluator = Evaluator(MeasurePackage.load(tmp_path))
    cut = LakePopulation(lake, batch_members=SIZE)
    whole = evaluator.evaluate(cut, PERIOD, NOW)
    assert 0 < len(whole.failed) < len(whole.members) / 2
    group = whole.groups[0]
    assert group.score() == len(whole.members) - len(whole.failed)
    assert group.count("initial-population") == len(whole.members) - len(whole.failed)
    assert {r.split(": ")[1] for r in whole.failed.values()} == {
        "its unit does not convert to that of the other members' values"
    }
    (first,) = run([evaluator], lake, tmp_path / "results", processes=processes)
    assert ResultStore(tmp_path / "results").load(first).failed == whole.failed
    again = Evaluator(MeasurePackage.load(tmp_path)).evaluate(LakePopulation(lake, batch_members=5), PERIOD, NOW)
    assert again.failed == whole.failed
    assert again.groups[0].score() == group.score()


def test_errors_of_a_process_arrive(lake: Lake, evaluators: list[Evaluator]) -> None:
    cut = LakePopulation(lake, batch_members=SIZE)
    recipe = recipe_of(evaluators[:1], lake, cut, PERIOD, NOW)
    changed = replace(recipe, packages=tuple((path, "another", *rest) for path, _, *rest in recipe.packages))
    with pytest.raises(ConfigurationError, match="was changed during the evaluation") as raised:
        list(evaluate_slices(changed, cut.slices(), 1))
    assert raised.value.location.file == str(MEASURES / NAMES[0])


def die(cut: population.Slice) -> list[Any]:
    os._exit(9)


def test_a_process_that_dies_leaves_nothing(
    tmp_path: Path, lake: Lake, evaluators: list[Evaluator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_evaluate", die)
    with pytest.raises(GatewayError, match="nothing was stored"):
        run(evaluators[:1], lake, tmp_path / "died", processes=2)
    assert saved(tmp_path / "died") == {}
    assert ResultStore(tmp_path / "died").runs() == ()


def test_nobody(tmp_path: Path, evaluators: list[Evaluator]) -> None:
    runs = run(evaluators, Lake.open(tmp_path / "empty"), tmp_path / "results")
    result = ResultStore(tmp_path / "results").load(runs[0])
    assert len(result.members) == 0
    assert [group.count("initial-population") for group in result.groups] == [0] * len(result.groups)


@pytest.mark.parametrize(
    ("batches", "measures", "cores", "gigabytes", "expected"),
    [(0, 1, 8, 64, 1), (1, 1, 8, 64, 1), (2, 1, 8, 64, 2), (40, 1, 8, 64, 8), (40, 1, 1, 64, 1), (40, 1, 64, 4, 6)],
)
def test_a_process_has_a_full_batch_and_room(
    batches: int, measures: int, cores: int, gigabytes: int, expected: int
) -> None:
    assert processes_for(batches, measures, cores, gigabytes << 30) == expected
    assert processes_for(batches, 100, cores, 4) == 1


def test_there_is_memory() -> None:
    assert free_memory() > 1 << 20
