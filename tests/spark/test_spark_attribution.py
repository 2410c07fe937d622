"""Attribution by executors, a bucket a task: the same evidence and roster as by this process, whoever dies."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.cluster import Cluster
from fhir_gateway.config import Settings
from fhir_gateway.demo.sources import make_population
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.sources.models import StagedFile, StagedPull
from fhir_gateway.spark.cluster import SparkCluster
from tests.spark.mortal import Deaths, MortalCluster

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
CONTRACT = Path(__file__).parents[2] / "fhir_gateway/demo/contracts/shared-savings-2025.toml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a gateway with a small population, of two sources."""
    folder = tmp_path_factory.mktemp("attributed")
    make_population(folder / "population", 150, 1, 2025, lambda _done: None)
    gateway = Gateway(Settings(data_dir=folder / "data"))
    for source in ("ehr", "payer"):
        files = sorted((folder / "population" / source).glob("*.ndjson"))
        staged = tuple(StagedFile(one, one.name, None, None) for one in files)
        gateway.lake.commit(StagedPull(source, source, "files", None, staged), gateway.persons)
    gateway.engine.dispose()
    return folder / "data"


def attributed(folder: Path, cluster: Cluster | None) -> dict[str, Any]:
    """Everything that an attribution keeps and serves."""
    gateway = Gateway(Settings(data_dir=folder))
    report = attribute(gateway, str(CONTRACT), now=NOW, cluster=cluster)
    assert report.attribution.table.num_rows > 100
    assert 0 < len(report.members) < report.attribution.table.num_rows
    kept = {
        f"{name} {path.name}": path.read_bytes()
        for name in ("attributions", "attribution-runs")
        for path in (folder / name).rglob("*.parquet")
    }
    served = {name: dict(gateway.resources.read("Group", name).json()) for name in gateway.resources.ids("Group")}
    gateway.engine.dispose()
    for group in served.values():
        group["meta"] = {name: value for name, value in group["meta"].items() if name != "lastUpdated"}
    return {**kept, **served}


def test_the_same_evidence_and_roster_though_an_executor_is_lost(
    cluster: SparkCluster, data: Path, tmp_path: Path
) -> None:
    here, there = (Path(shutil.copytree(data, tmp_path / name)) for name in ("here", "there"))
    counted = tmp_path / "answers"
    counted.mkdir()
    deaths = Deaths(counted, "executor", frozenset({3}))
    found = attributed(there, MortalCluster(cluster, deaths))
    assert deaths.answers > 8  # of eight buckets, one at least twice
    expected = attributed(here, None)
    assert found.keys() == expected.keys()
    assert len(expected) > 6
    assert found == expected
