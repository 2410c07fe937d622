"""Member months by each counting rule."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from fhir_gateway.attribution import member_months
from fhir_gateway.attribution.eligibility import covered_days

YEAR = (date(2024, 1, 1), date(2024, 12, 31))
SPANS = [
    ("a", "2024-01-01", "2024-12-31", "AB", "active"),
    ("b", "2024-03-10", "2024-09-20", "AB", "active"),
    ("c", "2024-03-16", "2024-09-14", "AB", "active"),
]


def months(coverage: pa.Table, rule: Any, **options: Any) -> dict[str, Decimal]:
    total: dict[str, Decimal] = {}
    for row in member_months(coverage, YEAR, rule, **options).to_pylist():
        total[row["member"]] = total.get(row["member"], Decimal(0)) + row["months"]
    return total


@pytest.mark.parametrize(
    ("rule", "b", "c"),
    [
        ("snapshot_15th", "7", "5"),
        ("snapshot_1st", "6", "6"),
        ("snapshot_last", "6", "6"),
        ("any_day", "7", "7"),
        ("mid_month", "7", "5"),
        ("prorated", "6.37634409", "5.98279570"),
    ],
)
def test_rules(rule: str, b: str, c: str, make_coverage: Any) -> None:
    assert months(make_coverage(*SPANS), rule) == {"a": 12, "b": Decimal(b), "c": Decimal(c)}


def test_overlapping_and_adjacent_spans_count_once(make_coverage: Any) -> None:
    coverage = make_coverage(
        ("a", "2024-01-01", "2024-06-30", "AB", "active"),
        ("a", "2024-04-01", "2024-05-01", "AB", "active"),
        ("a", "2024-07-01", None, "AB", "active"),
        ("a", "2024-01-01", None, "AB", "cancelled"),
    )
    assert months(coverage, "prorated") == {"a": 12}
    assert months(coverage, "any_day") == {"a": 12}


def test_partial_dates_and_open_ends(make_coverage: Any) -> None:
    coverage = make_coverage(("a", "2024-11", None, "AB", "active"), ("b", None, "2024-02", "AB", "active"))
    assert months(coverage, "snapshot_last") == {"a": 2, "b": 2}


def test_leap_day(make_coverage: Any) -> None:
    coverage = make_coverage(("a", "2024-02-29", "2024-02-29", "AB", "active"))
    assert months(coverage, "prorated") == {"a": Decimal("0.03448276")}
    assert months(coverage, "snapshot_last") == {"a": 1}


def test_death_ends_coverage(make_coverage: Any) -> None:
    deaths = pa.table({"member": ["a"], "died": pa.array([date(2024, 3, 14)], pa.date32())})
    coverage = make_coverage(("a", "2024-01-01", None, "AB", "active"))
    assert months(coverage, "snapshot_15th", deaths=deaths) == {"a": 2}


def test_days_covered_by_all_parts_and_nothing_excluded(make_coverage: Any) -> None:
    coverage = make_coverage(
        ("a", "2024-01-01", "2024-06-30", "A", "active"),
        ("a", "2024-02-01", "2024-03-31", "B", "active"),
        ("a", "2024-04-01", "2024-12-31", "B", "active"),
        ("a", "2024-05-01", "2024-05-31", "MA", "active"),
        ("b", "2024-01-01", None, "A", "active"),
        ("c", "2024-01-01", "2024-01-31", "B", "cancelled"),
    )
    deaths = pa.table({"member": ["a"], "died": pa.array([date(2024, 6, 20)], pa.date32())})
    parts = {"A": ["A"], "B": ["B"]}
    found = covered_days(coverage, ["A", "B"], ["MA"], deaths, parts).to_pylist()
    assert [(one["member"], one["start"], one["end"]) for one in found] == [
        ("a", date(2024, 2, 1), date(2024, 4, 30)),
        ("a", date(2024, 6, 1), date(2024, 6, 20)),
    ]
    alone = covered_days(coverage, ["B"]).to_pylist()
    assert [(one["member"], one["start"], one["end"]) for one in alone] == [("a", date(2024, 2, 1), date(2024, 12, 31))]


def test_types(make_coverage: Any) -> None:
    coverage = make_coverage(
        ("a", "2024-01-01", "2024-06-30", "AB", "active"), ("a", "2024-07-01", None, "MA", "active")
    )
    assert months(coverage, "any_day", exclude_types=["MA"]) == {"a": 6}
    assert months(coverage, "any_day", include_types=["MA"]) == {"a": 6}
