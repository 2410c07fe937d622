"""Spark in local-cluster mode: a driver and two executors, each a JVM of its own with Python processes below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fhir_gateway.spark.cluster import SparkCluster
from fhir_gateway.spark.session import spark_context

#: Executors, cores of each, megabytes of each.
MASTER = "local-cluster[2,1,1024]"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without Spark the tests of this folder are skipped and say so."""
    if "FHIR_GATEWAY_TEST_SPARK" in os.environ:
        return
    skipped = pytest.mark.skip(reason="Spark is not set up: make test-spark")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(skipped)


@pytest.fixture(scope="session")
def cluster() -> Iterator[SparkCluster]:
    """Two executors; what tests send to them is found below the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        checkout = str(Path(__file__).parents[2])
        patch.setenv("SPARK_CONF_DIR", str(Path(__file__).parent / "conf"))
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("PYTHONPATH", os.pathsep.join([checkout, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
        with spark_context(MASTER) as context:
            yield SparkCluster(context)
