"""Measures evaluated by executors: the same bytes as by this process, whoever dies meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.cluster import Cluster
from fhir_gateway.errors import ConfigurationError, GatewayError
from fhir_gateway.lake.store import Lake
from fhir_gateway.measures import Evaluator, LakePopulation, MeasurePackage, ResultStore, reports
from fhir_gateway.measures.remote import evaluate_on
from fhir_gateway.measures.run import evaluate_lake, recipe_of
from fhir_gateway.spark.cluster import SparkCluster
from tests.spark.mortal import Deaths, MortalCluster, Victim, stumbling
from tests.support.lake_pulls import People
from tests.support.measures import MEASURES, NAMES, NOW, PERIOD, saved, stage_cases

#: Less than a bucket has: some buckets are cut.
SIZE = 20


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("spark")
    lake = Lake.open(folder / "lake", buckets=5)
    lake.commit(stage_cases(folder, copies=2), People())
    return lake


@pytest.fixture(scope="module")
def evaluators() -> list[Evaluator]:
    return [Evaluator(MeasurePackage.load(MEASURES / name)) for name in NAMES]


Run = Callable[..., dict[str, bytes]]


@pytest.fixture
def run(tmp_path: Path, lake: Lake, evaluators: list[Evaluator]) -> Run:
    """Evaluate into a store of its own: all its files, and the summary reports."""

    def made(name: str, cluster: Cluster | None, measures: int = len(NAMES), **options: Any) -> dict[str, bytes]:
        store = ResultStore(tmp_path / name)
        runs = evaluate_lake(
            evaluators[:measures],
            lake,
            PERIOD,
            NOW,
            store,
            cluster=cluster,
            processes=1,
            **{"batch_members": SIZE, **options},
        )
        found = saved(tmp_path / name)
        for one in runs:
            report = reports.summary(store.load(one), {"reference": "Organization/us"})
            found[f"MeasureReport/{one}"] = json.dumps(report, sort_keys=True).encode()
        return found

    return made


def test_the_same_bytes_as_here(cluster: SparkCluster, run: Run) -> None:
    told: list[tuple[int, int]] = []
    found = run("spark", cluster, tell=lambda done, total: told.append((done, total)))
    assert found == run("here", None)
    assert len([name for name in found if name.startswith("MeasureReport/")]) == len(NAMES)
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("victim", ["python", "executor"])
def test_a_lost_executor_loses_nothing_and_counts_nothing_twice(
    cluster: SparkCluster, run: Run, lake: Lake, tmp_path: Path, victim: Victim
) -> None:
    counted = tmp_path / "answers"
    counted.mkdir()
    deaths = Deaths(counted, victim, frozenset({1, 4}))
    found = run("spark", MortalCluster(cluster, deaths), measures=1)
    tasks = len(LakePopulation(lake, batch_members=SIZE).slices())
    assert tasks > 6  # there was work before each death and after it
    assert deaths.answers >= tasks + 2  # what died with them was computed again
    assert found == run("here", None, measures=1)


def test_deaths_without_end_end_the_run_and_store_nothing(cluster: SparkCluster, run: Run, tmp_path: Path) -> None:
    counted = tmp_path / "answers"
    counted.mkdir()
    deaths = Deaths(counted, "python", frozenset(range(10_000)))
    with pytest.raises(GatewayError, match=r"Spark gave up on a task .* nothing was stored"):
        run("spark", MortalCluster(cluster, deaths), measures=1, batch_members=10**6)
    assert not [name for name in saved(tmp_path / "spark") if name.endswith("header.json")]


def test_an_error_of_ours_is_told_as_it_is_and_not_tried_again(
    cluster: SparkCluster, lake: Lake, evaluators: list[Evaluator], tmp_path: Path
) -> None:
    population = LakePopulation(lake, batch_members=SIZE)
    recipe = replace(recipe_of(evaluators, lake, population, PERIOD, NOW), lake=str(tmp_path / "elsewhere"))
    with pytest.raises(ConfigurationError, match="every machine has to see it under the same path"):
        list(evaluate_on(cluster, recipe, evaluators, population.slices()))
    assert not (tmp_path / "elsewhere").exists()


def test_what_a_task_stumbles_over_is_told_without_its_text(cluster: SparkCluster) -> None:
    with pytest.raises(GatewayError) as caught:
        list(cluster.each(stumbling, "Jane Doe", [1], "stumble"))
    assert "ValueError in " in str(caught.value)
    assert "Jane" not in str(caught.value)
