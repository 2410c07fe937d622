"""The span of an HTTP request: named by method and template of its route, below the caller's where it says so."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isroutine
from typing import TYPE_CHECKING, Any

from fhir_gateway.telemetry import spans
from fhir_gateway.telemetry.spans import ATTRIBUTES

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


class RequestSpan:
    """Opened at a request's head; work done in its context nests below it."""

    def __init__(self, tracer: Tracer, scope: Mapping[str, Any], started: int | None = None) -> None:
        from opentelemetry.context import attach
        from opentelemetry.trace import SpanKind, set_span_in_context

        self._scope = scope
        self._method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        attributes = {ATTRIBUTES["method"]: self._method}
        self._span: Span = tracer.start_span(
            self._method, _caller(scope), kind=SpanKind.SERVER, attributes=attributes, start_time=started
        )
        self._token = attach(set_span_in_context(self._span))

    def end(self, interaction: str, resource_type: str | None, status: int, route: str | None = None) -> None:
        """The answer is out, or nobody takes it."""
        from opentelemetry.context import detach
        from opentelemetry.trace import Status, StatusCode

        detach(self._token)
        route = route or template(self._scope)
        said = {"interaction": interaction, "resource_type": resource_type, "status": status, "route": route}
        self._span.set_attributes({ATTRIBUTES[name]: value for name, value in said.items() if value is not None})
        self._span.update_name(f"{self._method} {route}" if route else self._method)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def begin(scope: Mapping[str, Any], started: int | None = None) -> RequestSpan | None:
    """The span of a request that began at an instant (nanoseconds since 1970; default: now); None: nobody listens."""
    tracer = spans._tracer
    return None if tracer is None else RequestSpan(tracer, scope, started)


def template(scope: Mapping[str, Any]) -> str | None:
    """The template of the route that a request was given to: its path with names in the place of parameters' values.

    None where no route took it, or where a value is not a whole segment: then nothing of the path may be said.
    """
    if not isroutine(scope.get("endpoint")):  # none, or an application that is mounted and may not know the rest
        return None
    names = {str(value): f"{{{name}}}" for name, value in scope["path_params"].items()}
    segments = scope["path"].split("/")
    return "/".join(names.get(one, one) for one in segments) if names.keys() <= set(segments) else None


def _caller(scope: Mapping[str, Any]) -> Context:
    """What ``traceparent`` says (W3C Trace Context).

    Its companions ``tracestate`` and ``baggage`` carry anything that a caller likes: they are not taken.
    """
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    for name, value in scope["headers"]:
        if name == b"traceparent":
            return TraceContextTextMapPropagator().extract({"traceparent": value.decode("latin-1")}, Context())
    return Context()
