"""Whoever listens to spans in this process, and a collector that takes OTLP over HTTP, as a test sees them."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fhir_gateway.telemetry import spans


@contextmanager
def listening() -> Iterator[InMemorySpanExporter]:
    """Spans that end while a ``with`` block lasts, in memory."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans.listen(provider.get_tracer("tests"))
    try:
        yield exporter
    finally:
        spans.listen(None)
        provider.shutdown()


def said(span: ReadableSpan) -> str:
    """Everything that a span would tell a collector, as one text."""
    events = [(event.name, dict(event.attributes or {})) for event in span.events]
    state = span.context.trace_state.to_header() if span.context else ""
    return f"{span.name} {dict(span.attributes or {})} {events} {span.status.description} {state}"


class Collector:
    """What arrived: resource spans and metrics, as the protocol's own messages, and the bytes of all bodies."""

    def __init__(self) -> None:
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.raw: list[bytes] = []
        self.url = ""

    def spans(self) -> dict[str, list[dict[str, str]]]:
        """Attributes of the spans of each name."""
        found: dict[str, list[dict[str, str]]] = {}
        for request in self.traces:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        told = [(one.key, one.value) for one in span.attributes]
                        attributes = {key: value.string_value or str(value.int_value) for key, value in told}
                        found.setdefault(span.name, []).append(attributes)
        return found

    def points(self) -> dict[str, int]:
        """Metrics of the last export, and how many points each has."""
        found: dict[str, int] = {}
        for resource in self.metrics[-1].resource_metrics if self.metrics else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = len(getattr(metric, str(metric.WhichOneof("data"))).data_points)
        return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector at a free port of this machine."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.headers["Content-Type"] == "application/x-protobuf"
            collector.raw.append(body)
            if self.path == "/v1/traces":
                collector.traces.append(ExportTraceServiceRequest.FromString(body))
            elif self.path == "/v1/metrics":
                collector.metrics.append(ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Tests read what arrived, nobody reads this."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
