"""What `--on spark` says where Spark cannot be had; tests/spark is about where it can."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fhir_gateway.cli.elsewhere import cluster_of, refuse_in_background
from fhir_gateway.errors import ConfigurationError
from fhir_gateway.lake.store import Lake


def test_without_pyspark_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    monkeypatch.setitem(sys.modules, "pyspark.errors", None)
    with pytest.raises(ConfigurationError, match=r"fhir-gateway\[spark\]"), cluster_of("spark", "local[1]"):
        pass


def test_this_machine_is_no_cluster() -> None:
    with cluster_of("here", None) as cluster:
        assert cluster is None


@pytest.mark.parametrize(("on", "master"), [("moon", None), ("here", "local[2]")])
def test_what_does_not_go_together_is_refused(on: str, master: str | None) -> None:
    with pytest.raises(ConfigurationError, match="--on"), cluster_of(on, master):
        pass


def test_workers_do_not_drive_a_cluster() -> None:
    refuse_in_background("here")
    with pytest.raises(ConfigurationError, match="not in the background"):
        refuse_in_background("spark")


def test_a_lake_that_has_to_be_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="every machine has to see it"):
        Lake.existing(str(tmp_path / "lake"))
    assert not (tmp_path / "lake").exists()
    assert Lake.existing(Lake.open(tmp_path / "lake", buckets=3).url).buckets == 3
