"""``--on spark``: who computes, for commands over a whole population."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from fhir_gateway.cluster import Cluster
from fhir_gateway.errors import ConfigurationError

On = Annotated[str, typer.Option("--on", help="Who computes: `here` (this machine) or `spark`.")]
SparkMaster = Annotated[
    str | None,
    typer.Option(help="Spark master URL; default: what spark-submit, the platform or spark-defaults.conf says."),
]


@contextmanager
def cluster_of(on: str, master: str | None) -> Iterator[Cluster | None]:
    """The cluster that was asked for, for as long as the block lasts; None is this machine."""
    if on not in ("here", "spark"):
        raise ConfigurationError("--on is here or spark")
    if on == "here":
        if master is not None:
            raise ConfigurationError("--spark-master goes with --on spark")
        yield None
        return
    from fhir_gateway.spark.cluster import SparkCluster
    from fhir_gateway.spark.session import spark_context

    with spark_context(master) as running:
        yield SparkCluster(running)


def refuse_in_background(on: str) -> None:
    """ConfigurationError: workers compute with what their own machine has."""
    if on != "here":
        raise ConfigurationError("--on spark is driven by the command itself, not in the background")
