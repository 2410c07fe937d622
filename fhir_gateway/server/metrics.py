"""Numbers about this process and its control plane for Prometheus, at ``/metrics``.

They name interactions, resource types, endpoints we pull from and states; never clients, persons or values. Whoever
asks from this machine may read them, anybody else with the token of the setting ``metrics_token``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from importlib.metadata import version
from threading import Lock

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.server.audit import Access
from fhir_gateway.telemetry import meters
from fhir_gateway.telemetry.scrape import admit, exposition


class Metrics:
    """What happens in this process, counted as it happens, and what the control plane says when it is asked."""

    def __init__(self, gateway: Gateway) -> None:
        self.registry = CollectorRegistry()
        named = ["interaction", "resource_type", "status"]
        self._requests = Counter("fhir_gateway_requests", "Requests answered.", named, registry=self.registry)
        self._seconds = Histogram(
            "fhir_gateway_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ["interaction"],
            registry=self.registry,
        )
        self.under_way = Gauge("fhir_gateway_requests_under_way", "Requests being answered.", registry=self.registry)
        self.registry.register(_ControlPlane(gateway))
        meters.also(self.registry)
        self._counter = cache(lambda *named: self._requests.labels(*map(str, named)))  # as many as are exposed
        self._timer = cache(self._seconds.labels)

    def answered(self, access: Access, seconds: float) -> None:
        """Count a request that has ended."""
        self._counter(access.interaction, access.resource_type or "", access.status).inc()
        self._timer(access.interaction).observe(seconds)

    def router(self, token: str | None) -> APIRouter:
        """``GET /metrics`` in the format that the scraper asks for."""
        routes = APIRouter(tags=["operation of the gateway"])

        @routes.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
        async def metrics(request: Request) -> Response:
            host = request.client.host if request.client else ""
            admit(request.headers, host, token)
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
            parts = [await run_in_threadpool(encode, registry) for registry in (self.registry, meters.REGISTRY)]
            return Response(exposition(parts), headers={"Content-Type": content_type})

        return routes


class _ControlPlane(Collector):
    """Asked at each scrape."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._opening = Lock()
        self._book: JobBook | None = None

    def _jobs(self) -> Mapping[tuple[str, str], int]:
        """Jobs that wait or run, by kind and state."""
        with self._opening:
            self._book = self._book or JobBook(self._gateway)
            return self._book.under_way()

    def collect(self) -> Iterator[Metric]:
        """The state of the gateway now."""
        gateway = self._gateway
        about = GaugeMetricFamily("fhir_gateway", "The software that answers.", labels=["version"])
        about.add_metric([version("fhir-gateway")], 1)
        yield about
        tokens = CounterMetricFamily(
            "fhir_gateway_token_answers",
            "Answers of the authorization server by the check that failed (ok: none).",
            labels=["endpoint", "check"],
        )
        for (endpoint, check), count in sorted(gateway.authorization.counts().items()):
            tokens.add_metric([endpoint, check], count)
        yield tokens
        yield GaugeMetricFamily("fhir_gateway_lake_version", "Newest version of the lake.", gateway.lake.version)
        jobs = GaugeMetricFamily("fhir_gateway_jobs", "Jobs that wait or run.", labels=["kind", "state"])
        for labels, count in sorted(self._jobs().items()):
            jobs.add_metric(labels, count)
        yield jobs
        pulls = GaugeMetricFamily("fhir_gateway_pulls", "The newest 1,000 pulls by state.", labels=["source", "state"])
        counted: dict[tuple[str, str], int] = {}
        for row in gateway.pulls.recent(1000):
            counted[row.source, row.state] = counted.get((row.source, row.state), 0) + 1
        for labels, count in sorted(counted.items()):
            pulls.add_metric(labels, count)
        yield pulls
        marks = GaugeMetricFamily(
            "fhir_gateway_source_watermark_seconds",
            "Up to when a source's changes were pulled, in seconds of the Unix epoch: the oldest of its watermarks.",
            labels=["source"],
        )
        oldest: dict[str, float] = {}
        for mark in gateway.pulls.watermarks():
            at = datetime.fromisoformat(mark.transaction_time).timestamp()
            oldest[mark.source] = min(at, oldest.get(mark.source, at))
        for source, at in sorted(oldest.items()):
            marks.add_metric([source], at)
        yield marks
