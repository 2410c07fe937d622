"""Dates, date-times and times: what texts mean at -05:00, and arithmetic over the calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.cql.values.temporal import parse_dates, parse_datetimes, parse_times
from tests.unit.cql.conftest import Evaluate, literal

OFFSET = -5 * 3_600_000


def texts(*values: str | None) -> Any:
    return pa.array(values, pa.string())


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("2026-03-01T12:00:00Z", "2026-03-01T07:00:00.000"),
        ("2026-03-01T12:00:00+02:00", "2026-03-01T05:00:00.000"),
        ("2026-03-01T00:30:00Z", "2026-02-28T19:30:00.000"),
        ("2026-03-01T12:00:00-05:00", "2026-03-01T12:00:00.000"),
        ("2026-03-01T12:00:00", "2026-03-01T12:00:00.000"),
        ("2026-03-01T12:00:00.1Z", "2026-03-01T07:00:00.100"),
        ("2026-03-01T12:00:00.123456789-05:00", "2026-03-01T12:00:00.123"),
        ("2026-03-01T12:05-05:00", "2026-03-01T12:05"),
        ("2026-03-01T12", "2026-03-01T12"),
        ("2026-03-01", "2026-03-01"),
        ("2026-03", "2026-03"),
        ("2026", "2026"),
    ],
)
def test_a_date_time_is_read_on_the_clock_of_the_request(text: str, local: str) -> None:
    assert parse_datetimes(texts(None, text), OFFSET).pylist() == [None, local]


def test_a_coarse_value_is_the_span_it_can_mean() -> None:
    dates = parse_dates(texts("2024-02", "2026", None))
    assert (dates.high - dates.low + 1)[:2].tolist() == [29, 365]
    times = parse_times(texts("10:30:00.5", "T10:30", "10"))
    assert (times.high - times.low + 1).tolist() == [1, 60_000, 3_600_000]
    assert times.pylist()[0] == "10:30:00.500"


FIRST = datetime(1, 1, 2, tzinfo=UTC)
MILLISECONDS = st.integers(0, 9998 * 365 * 86_400_000).map(lambda ms: FIRST + timedelta(milliseconds=ms))


@given(st.lists(MILLISECONDS, max_size=20))
def test_reading_what_was_written_gives_the_same_instant(moments: list[datetime]) -> None:
    zone = timezone(timedelta(hours=-5))
    read = parse_datetimes(pa.array([m.isoformat() for m in moments], pa.string()), OFFSET)
    assert read.pylist() == [
        m.astimezone(zone).replace(tzinfo=None).isoformat(timespec="milliseconds") for m in moments
    ]


def moment(text: str) -> dict[str, Any]:
    return {"type": "ToDateTime", "operand": literal("String", text)}


def day(text: str) -> dict[str, Any]:
    return {"type": "ToDate", "operand": literal("String", text)}


def quantity(value: float, unit: str) -> dict[str, Any]:
    return {"type": "Quantity", "value": value, "unit": unit}


@pytest.mark.parametrize(
    ("start", "value", "unit", "end"),
    [
        (day("2026-01-31"), 1, "month", "2026-02-28"),
        (day("2024-02-29"), 1, "year", "2025-02-28"),
        (day("2024-02-29"), -4, "years", "2020-02-29"),
        (day("2026-03"), 1, "month", "2026-04"),
        (day("2026"), 18, "months", "2027"),
        (day("2026-03-01"), 2, "weeks", "2026-03-15"),
        (day("2026-03-01"), 1.9, "days", "2026-03-02"),
        (moment("2026-03-01"), 25, "hours", "2026-03-02"),
        (moment("2026-03-01"), 5, "hours", "2026-03-01"),
        (moment("2026-03-01T10"), 90, "minutes", "2026-03-01T11"),
        (moment("2026-03-01T10:00:00"), 90, "minutes", "2026-03-01T11:30:00.000"),
    ],
)
def test_adding_a_span_of_time(evaluate: Evaluate, start: Any, value: float, unit: str, end: str) -> None:
    run = evaluate({"V": {"type": "Add", "operand": [start, quantity(value, unit)]}})
    assert run.values("V") == [end]


@pytest.mark.parametrize(
    ("node", "precision", "start", "end", "expected"),
    [
        ("DurationBetween", "Year", day("2000-02-29"), day("2001-02-28"), 0),
        ("DurationBetween", "Year", day("2000-03-01"), day("2026-03-01"), 26),
        ("DurationBetween", "Month", day("2026-01-31"), day("2026-02-28"), 0),
        ("DurationBetween", "Month", day("2026-03-15"), day("2026-01-15"), -2),
        ("DurationBetween", "Week", day("2026-03-01"), day("2026-03-14"), 1),
        ("DurationBetween", "Day", moment("2026-03-01T23:00:00"), moment("2026-03-02T22:59:59"), 0),
        ("DifferenceBetween", "Day", moment("2026-03-01T23:59:59"), moment("2026-03-02T00:00:00"), 1),
        ("DifferenceBetween", "Week", day("2026-02-28"), day("2026-03-01"), 1),
        ("DifferenceBetween", "Year", day("2025-12-31"), day("2026-01-01"), 1),
        ("DurationBetween", "Year", day("2000"), day("2026-06-01"), {"low": 25, "high": 26}),
        ("DifferenceBetween", "Month", day("2026"), day("2026-06"), {"low": -6, "high": 5}),
    ],
)
def test_counting_periods(
    evaluate: Evaluate, node: str, precision: str, start: Any, end: Any, expected: object
) -> None:
    run = evaluate({"V": {"type": node, "precision": precision, "operand": [start, end]}})
    assert run.values("V") == [expected]


@pytest.mark.parametrize(
    ("node", "limit", "expected"),
    [("GreaterOrEqual", 25, True), ("GreaterOrEqual", 26, None), ("Less", 25, False), ("Equal", 30, False)],
)
def test_an_uncertain_age_is_compared_as_far_as_it_goes(
    evaluate: Evaluate, node: str, limit: int, expected: bool | None
) -> None:
    age = {"type": "CalculateAgeAt", "precision": "Year", "operand": [day("2000"), day("2026-06-01")]}
    run = evaluate({"V": {"type": node, "operand": [age, literal("Integer", limit)]}})
    assert run.values("V") == [expected]


def test_what_cannot_reckon_with_a_range_sees_only_what_is_certain(evaluate: Evaluate) -> None:
    age = {"type": "CalculateAgeAt", "precision": "Year", "operand": [day("2000"), day("2026-06-01")]}
    certain = {"type": "CalculateAgeAt", "precision": "Year", "operand": [day("2000-01-01"), day("2026-06-01")]}
    run = evaluate({"A": {"type": "ToString", "operand": age}, "B": {"type": "ToString", "operand": certain}})
    assert (run.values("A"), run.values("B")) == ([None], ["26"])


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("2026-03-01T10:00:00", "2026-03-01T10:00:00.000", True),
        ("2026-03-01", "2026-03-01T10:00:00", None),
        ("2026-03", "2026-04-01", False),
        ("2026-03-01T12:00:00Z", "2026-03-01T07:00:00-05:00", True),
    ],
)
def test_equality_of_unequal_precisions(evaluate: Evaluate, left: str, right: str, same: bool | None) -> None:
    run = evaluate({"V": {"type": "Equal", "operand": [moment(left), moment(right)]}})
    assert run.values("V") == [same]
