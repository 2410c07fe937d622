"""What jobs do in this process, counted for Prometheus: one registry for the process, whatever carries out its jobs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakSet

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fhir_gateway.telemetry.spans import span

REGISTRY = CollectorRegistry()
"""Of jobs. ``/metrics`` of the server holds it as well as what the server counts."""

_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14_400, 43_200)
_seconds = Histogram(
    "fhir_gateway_job_seconds",
    "Seconds from the beginning of a job to its end in this process, by how it ended.",
    ["kind", "outcome"],
    buckets=_BUCKETS,
    registry=REGISTRY,
)
_running = Gauge("fhir_gateway_jobs_in_process", "Jobs under way in this process.", ["kind"], registry=REGISTRY)
_rows = Counter(
    "fhir_gateway_lake_rows",
    "Rows that commits of this process brought, by what became of them.",
    ["resource_type", "outcome"],
    registry=REGISTRY,
)
_others: WeakSet[CollectorRegistry] = WeakSet()


class Committed(Protocol):
    """What a ledger says of one type."""

    @property
    def resource_type(self) -> str | None: ...  # noqa: D102
    @property
    def rows_stored(self) -> int: ...  # noqa: D102
    @property
    def rows_replaced(self) -> int: ...  # noqa: D102
    @property
    def rows_unchanged(self) -> int: ...  # noqa: D102
    @property
    def rows_quarantined(self) -> int: ...  # noqa: D102
    @property
    def rows_deleted(self) -> int: ...  # noqa: D102


@contextmanager
def job(kind: str) -> Iterator[None]:
    """A job of this process: a span, how long it took, and how it ended."""
    began = time.perf_counter()
    outcome = "failed"
    try:
        with _running.labels(kind).track_inprogress(), span(f"job {kind}", job=kind):
            yield
        outcome = "done"
    except Exception:
        raise
    except BaseException:  # the worker leaves, or the job was cancelled: it has not failed
        outcome = "interrupted"
        raise
    finally:
        _seconds.labels(kind, outcome).observe(time.perf_counter() - began)


def committed(entries: Iterable[Committed]) -> None:
    """Count the rows of a commit."""
    for entry in entries:
        for outcome, rows in (
            ("stored", entry.rows_stored),
            ("replaced", entry.rows_replaced),
            ("unchanged", entry.rows_unchanged),
            ("quarantined", entry.rows_quarantined),
            ("deleted", entry.rows_deleted),
        ):
            if rows:
                _rows.labels(entry.resource_type or "", outcome).inc(rows)


def also(registry: CollectorRegistry) -> None:
    """What a server of this process counts is exported too, as long as it is there."""
    _others.add(registry)


def registries() -> list[CollectorRegistry]:
    """All of this process."""
    return [REGISTRY, *_others]
