"""Sends spans and metrics to a collector by OTLP over HTTP, when the environment names one.

The variables are OpenTelemetry's own: ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``..._TRACES_ENDPOINT``,
``..._METRICS_ENDPOINT``) turns it on, ``OTEL_SDK_DISABLED=true`` off; ``OTEL_TRACES_EXPORTER=none`` and
``OTEL_METRICS_EXPORTER=none`` leave one out.
The SDK reads the others (headers, certificates, sampler, batches, attributes of the resource).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version

from fhir_gateway.errors import ConfigurationError

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
_SIGNALS = ("traces", "metrics")


def wanted(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Which of traces and metrics are to be sent; ConfigurationError for a way that we do not know."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    found = []
    for signal in _SIGNALS:
        named = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
        by = environment.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower() or "otlp"
        if by not in ("otlp", "none"):
            raise ConfigurationError(f"OTEL_{signal.upper()}_EXPORTER is otlp or none")
        if by == "otlp" and (environment.get(_ENDPOINT) or environment.get(named)):
            found.append(signal)
            protocol = environment.get(
                f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
            )
            if protocol not in ("", "http/protobuf"):
                raise ConfigurationError("OTEL_EXPORTER_OTLP_PROTOCOL: spans and metrics are sent by http/protobuf")
    return tuple(found)


@contextmanager
def exporting() -> Iterator[None]:
    """Export while a ``with`` block lasts, and what is left at its end; nothing is imported where nothing is asked."""
    signals = wanted(os.environ)
    if not signals:
        yield
        return
    with ExitStack() as held:
        _begin(signals, held)
        yield


def _begin(signals: tuple[str, ...], held: ExitStack) -> None:
    from opentelemetry.sdk.resources import Resource

    ours = {
        "service.version": version("fhir-gateway"),
        "service.instance.id": secrets.token_hex(8),
        **({} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "fhir-gateway"}),
    }
    resource = Resource(ours).merge(Resource.create()) if "service.name" not in ours else Resource.create(ours)
    if "metrics" in signals:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        from fhir_gateway.telemetry import meters
        from fhir_gateway.telemetry.bridge import MetricsExport

        held.enter_context(MetricsExport(OTLPMetricExporter(), resource, meters.registries, _interval()))
    if "traces" in signals:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from fhir_gateway.telemetry import spans

        # Not the provider of the whole process: libraries with spans of their own would say whose resources they are.
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        spans.listen(provider.get_tracer("fhir_gateway", version("fhir-gateway")))
        held.callback(provider.shutdown)
        held.callback(spans.listen, None)


def _interval() -> float:
    try:
        return max(float(os.environ.get(_INTERVAL, "") or 60_000), 100.0) / 1000
    except ValueError:
        raise ConfigurationError(f"{_INTERVAL} is a number of milliseconds") from None
