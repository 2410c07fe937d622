"""What Prometheus scrapes and what a collector is sent are the same numbers."""

from __future__ import annotations

from contextlib import nullcontext

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from fhir_gateway.sources.models import LedgerEntry
from fhir_gateway.telemetry import meters
from fhir_gateway.telemetry.bridge import metrics_data
from fhir_gateway.telemetry.scrape import ScrapePort, exposition
from tests.support.waiting import HANG


def test_counters_gauges_and_histograms_become_points() -> None:
    registry = CollectorRegistry()
    counter = Counter("c", "Counted.", ["kind"], registry=registry)
    counter.labels("a").inc(2)
    counter.labels("b").inc()
    Gauge("g", "Now.", registry=registry).set(5)
    histogram = Histogram("h_seconds", "How long.", ["kind"], buckets=(1, 5), registry=registry)
    for seconds in (0.5, 2, 3, 100):
        histogram.labels("a").observe(seconds)
    message = encode_metrics(metrics_data(registry.collect(), Resource({"service.name": "x"}), 1, 2))
    assert isinstance(message, ExportMetricsServiceRequest)
    found = {one.name: one for one in message.resource_metrics[0].scope_metrics[0].metrics}
    points = {point.attributes[0].value.string_value: point.as_double for point in found["c"].sum.data_points}
    assert points == {"a": 2, "b": 1}
    assert found["c"].sum.is_monotonic
    assert [point.as_double for point in found["g"].gauge.data_points] == [5]
    (distribution,) = found["h_seconds"].histogram.data_points
    assert list(distribution.bucket_counts) == [1, 2, 1]
    assert list(distribution.explicit_bounds) == [1, 5]
    assert (distribution.count, distribution.sum) == (4, 105.5)
    assert found["h_seconds"].unit == "s"


def value(name: str, **labels: str) -> float:
    return meters.REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize(
    ("error", "outcome"), [(None, "done"), (ValueError("x"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_jobs_are_counted_by_how_they_end(error: BaseException | None, outcome: str) -> None:
    before = value("fhir_gateway_job_seconds_count", kind="test", outcome=outcome)
    with nullcontext() if error is None else pytest.raises(type(error)), meters.job("test"):
        assert value("fhir_gateway_jobs_in_process", kind="test") == 1
        if error is not None:
            raise error
    assert value("fhir_gateway_job_seconds_count", kind="test", outcome=outcome) == before + 1
    assert value("fhir_gateway_jobs_in_process", kind="test") == 0


def test_rows_of_a_commit_are_counted_by_what_became_of_them() -> None:
    outcomes = {"stored": 5, "replaced": 4, "unchanged": 3, "quarantined": 2, "deleted": 1}
    before = {name: value("fhir_gateway_lake_rows_total", resource_type="Basic", outcome=name) for name in outcomes}
    meters.committed([LedgerEntry("Basic", None, 14, 5, 4, 3, 2, 1)])
    after = {name: value("fhir_gateway_lake_rows_total", resource_type="Basic", outcome=name) for name in outcomes}
    assert {name: after[name] - before[name] for name in outcomes} == outcomes


def test_a_worker_answers_scrapers_who_may_and_probes() -> None:
    with (
        ScrapePort(0, "open-sesame") as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port.port}", timeout=HANG) as http,
    ):
        assert http.get("/health").json() == {"status": "ok"}
        assert http.get("/metrics").status_code == 401
        assert http.get("/elsewhere").status_code == 404
        allowed = {"Authorization": "Bearer open-sesame"}
        text = http.get("/metrics", headers=allowed).text
        assert "fhir_gateway_job_seconds" in {family.name for family in text_string_to_metric_families(text)}
        accept = {"Accept": "application/openmetrics-text; version=1.0.0", **allowed}
        assert http.get("/metrics", headers=accept).text.endswith("# EOF\n")


def test_without_a_token_only_this_machine_is_answered() -> None:
    with ScrapePort(0, None) as port, httpx.Client(base_url=f"http://127.0.0.1:{port.port}", timeout=HANG) as http:
        assert http.get("/metrics").status_code == 200
        assert http.get("/metrics", headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 401


def test_registries_written_out_one_by_one_end_once() -> None:
    assert exposition([b"a 1\n# EOF\n", b"b 2\n# EOF\n"]) == b"a 1\nb 2\n# EOF\n"
    assert exposition([b"a 1\n", b"b 2\n"]) == b"a 1\nb 2\n"
