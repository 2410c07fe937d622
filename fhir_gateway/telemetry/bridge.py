"""Metrics as OpenTelemetry has them, out of the registries that Prometheus scrapes: what is counted is counted once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from types import TracebackType
from typing import Any, Self

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

_SCOPE = InstrumentationScope("fhir_gateway")
_log = logging.getLogger("fhir_gateway.telemetry")


class MetricsExport:
    """Sends all registries of the process every so often while a ``with`` block lasts, and once more at its end."""

    def __init__(
        self,
        exporter: MetricExporter,
        resource: Resource,
        registries: Callable[[], Iterable[CollectorRegistry]],
        interval: float,
    ) -> None:
        self._exporter, self._resource, self._registries, self._interval = exporter, resource, registries, interval
        self._began = time.time_ns()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="metrics-export", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        self._thread.join()
        self._send()
        self._exporter.shutdown()

    def _go_on(self) -> None:
        while not self._leaving.wait(self._interval):
            self._send()

    def _send(self) -> None:
        try:
            families = [family for registry in self._registries() for family in registry.collect()]
            self._exporter.export(metrics_data(families, self._resource, self._began, time.time_ns()))
        except Exception:  # noqa: BLE001 - a control plane that is away for a while must not end the export
            _log.exception("metrics were not sent this time")


def metrics_data(families: Iterable[Family], resource: Resource, began: int, now: int) -> MetricsData:
    """Families of Prometheus as they stand ``now``; counters count since ``began`` (nanoseconds of the epoch)."""
    metrics = [
        Metric(one.name, one.documentation, _unit(one), _points(one, began, now)) for one in families if one.samples
    ]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(_SCOPE, metrics, "")], "")])


def _unit(family: Family) -> str:
    return "s" if family.name.endswith("_seconds") else "1"


def _points(family: Family, began: int, now: int) -> Sum | Gauge | Histogram:
    if family.type == "histogram":
        return Histogram(list(_distributions(family, began, now)), AggregationTemporality.CUMULATIVE)
    counts = family.type == "counter"
    points = [
        NumberDataPoint(dict(one.labels), began, now, one.value)
        for one in family.samples
        if not one.name.endswith("_created")
    ]
    return Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True) if counts else Gauge(points)


def _distributions(family: Family, began: int, now: int) -> Iterator[HistogramDataPoint]:
    def labels(sample: Sample) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))

    for key, found in groupby(sorted(family.samples, key=labels), labels):
        samples = list(found)
        totals: dict[str, Any] = {one.name.removeprefix(f"{family.name}_"): one.value for one in samples}
        reached = sorted((float(one.labels["le"]), int(one.value)) for one in samples if one.name.endswith("_bucket"))
        up_to = [count for _, count in reached]
        yield HistogramDataPoint(
            attributes=dict(key),
            start_time_unix_nano=began,
            time_unix_nano=now,
            count=int(totals["count"]),
            sum=totals["sum"],
            bucket_counts=[count - before for before, count in zip([0, *up_to[:-1]], up_to, strict=True)],
            explicit_bounds=[bound for bound, _ in reached[:-1]],
            min=None,  # type: ignore[arg-type]  # Prometheus does not keep them; optional on the wire
            max=None,  # type: ignore[arg-type]
        )
