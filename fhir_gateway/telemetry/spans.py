"""Spans of our own. While nobody listens, opening one is a comparison with None, and OpenTelemetry is not imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

Value = str | int
P = ParamSpec("P")
R = TypeVar("R")

ATTRIBUTES: Mapping[str, str] = {
    "interaction": "fhir.interaction",
    "resource_type": "fhir.resource_type",
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "server": "server.address",
    "error": "error.type",
    "job": "fhir_gateway.job.kind",
    "source": "fhir_gateway.source",
    "lake_version": "fhir_gateway.lake.version",
    "rows": "fhir_gateway.rows",
}
"""All that a span may say, by the name that it is given with. Each is a word of the code, of the operator's
configuration or of the specification, or a count: a new one has to be as well."""

_NOTHING: AbstractContextManager[None] = nullcontext()
_tracer: Tracer | None = None


def listen(tracer: Tracer | None) -> None:
    """From now on spans are this tracer's; None: nobody listens any more."""
    global _tracer
    _tracer = tracer


def on() -> bool:
    """Whether anybody listens."""
    return _tracer is not None


def span(name: str, **said: Value | None) -> AbstractContextManager[Any]:
    """A span around a ``with`` block, below the one that is open in this context.

    An error that leaves the block is named by its class alone: its words may hold what is nobody's business.
    """
    return _NOTHING if _tracer is None else _open(_tracer, name, _attributes(said))


def say(**said: Value | None) -> None:
    """Say more of the span that is open in this context."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes(_attributes(said))


def traced(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make each call of a function a span."""

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if _tracer is None:
                return function(*args, **kwargs)
            with _open(_tracer, name, {}):
                return function(*args, **kwargs)

        return call

    return wrap


def trace_id() -> str | None:
    """The trace of the span that is open in this context, for the log; None when there is none."""
    if _tracer is None:
        return None
    from opentelemetry.trace import format_trace_id, get_current_span

    context = get_current_span().get_span_context()
    return format_trace_id(context.trace_id) if context.is_valid else None


@contextmanager
def _open(tracer: Tracer, name: str, attributes: dict[str, Value]) -> Iterator[None]:
    from opentelemetry.trace import Status, StatusCode

    with tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as opened:
        try:
            yield
        except BaseException as error:
            opened.set_attributes(_attributes({"error": type(error).__name__}))
            opened.set_status(Status(StatusCode.ERROR))
            raise


def _attributes(said: Mapping[str, Value | None]) -> dict[str, Value]:
    return {ATTRIBUTES[name]: value for name, value in said.items() if value is not None}
