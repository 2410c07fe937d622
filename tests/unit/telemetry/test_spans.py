"""Spans are nothing while nobody listens, nest, and name errors by class; the environment says whether any leave."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.trace import StatusCode

from fhir_gateway.errors import ConfigurationError, InputError
from fhir_gateway.telemetry import spans
from fhir_gateway.telemetry.export import wanted
from fhir_gateway.telemetry.spans import ATTRIBUTES, say, span, traced
from tests.support.traces import listening, said

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@traced("twice")
def twice(number: int) -> int:
    """Twice a number."""
    with span("inner", rows=number):
        return 2 * number


def test_while_nobody_listens_nothing_is_opened_nor_loaded() -> None:
    assert span("a", rows=1) is span("b")  # one thing for all: none is made
    assert twice(2) == 4
    say(rows=1)
    code = (
        "import sys; from fhir_gateway.telemetry import export, spans\n"
        "with export.exporting(), spans.span('a', rows=1): spans.say(rows=2)\n"
        "print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"opentelemetry", "prometheus_client", "requests"} & set(ran.stdout.split()) == set()


def test_spans_nest_and_say_what_they_may() -> None:
    with listening() as heard, span("outer", source="ehr", lake_version=None):
        assert twice(3) == 6
        say(rows=7)
    inner, outer_call, outer = heard.get_finished_spans()
    assert [one.name for one in (inner, outer_call, outer)] == ["inner", "twice", "outer"]
    assert inner.parent is not None
    assert inner.parent.span_id == outer_call.context.span_id
    assert {one.context.trace_id for one in (inner, outer_call)} == {outer.context.trace_id}
    assert dict(outer.attributes or {}) == {"fhir_gateway.source": "ehr", "fhir_gateway.rows": 7}


def test_an_attribute_that_is_not_listed_cannot_be_said() -> None:
    with listening(), pytest.raises(KeyError):
        span("a", patient="p1")
    assert not any("id" in name.split(".")[-1].split("_") for name in ATTRIBUTES.values())


def test_an_error_is_named_by_its_class_alone() -> None:
    with listening() as heard, pytest.raises(InputError), span("a"):
        raise InputError("Ada Lovelace has no such thing")
    (found,) = heard.get_finished_spans()
    assert found.status.status_code is StatusCode.ERROR
    assert dict(found.attributes or {}) == {"error.type": "InputError"}
    assert "Ada" not in said(found)


def test_the_trace_is_known_to_the_log() -> None:
    assert spans.trace_id() is None
    with listening() as heard:
        assert spans.trace_id() is None
        with span("a"):
            known = spans.trace_id()
    assert known == f"{heard.get_finished_spans()[0].context.trace_id:032x}"


@pytest.mark.parametrize(
    ("environment", "signals"),
    [
        ({}, ()),
        ({ENDPOINT: ""}, ()),
        ({ENDPOINT: "http://c:4318"}, ("traces", "metrics")),
        ({ENDPOINT: "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, ()),
        ({ENDPOINT: "http://c:4318", "OTEL_METRICS_EXPORTER": "none"}, ("traces",)),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/v1/metrics"}, ("metrics",)),
        ({ENDPOINT: "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ("traces", "metrics")),
    ],
)
def test_the_environment_says_what_is_sent(environment: dict[str, str], signals: tuple[str, ...]) -> None:
    assert wanted(environment) == signals


@pytest.mark.parametrize(
    "more",
    [{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {"OTEL_TRACES_EXPORTER": "zipkin"}, {"OTEL_METRICS_EXPORTER": "x"}],
)
def test_a_way_that_is_not_ours_is_refused_rather_than_left_out(more: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="OTEL_"):
        wanted({ENDPOINT: "http://c:4317", **more})
