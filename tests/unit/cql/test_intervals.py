"""Intervals: open, closed and unknown boundaries, and lists of intervals put together."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.cql.conftest import Evaluate, literal

NULL = {"type": "As", "asType": "{urn:hl7-org:elm-types:r1}Integer", "operand": {"type": "Null"}}


def moment(text: str) -> dict[str, Any]:
    return {"type": "ToDateTime", "operand": literal("String", text)}


def interval(text: str, point: Any = None) -> dict[str, Any]:
    """``[1,5)`` and the like; an empty boundary is null."""
    make = point or (lambda value: literal("Integer", value))
    low, high = text[1:-1].split(",")
    return {
        "type": "Interval",
        "low": make(low) if low else NULL,
        "high": make(high) if high else NULL,
        "lowClosed": text[0] == "[",
        "highClosed": text[-1] == "]",
    }


def one(evaluate: Evaluate, node: dict[str, Any]) -> Any:
    return evaluate({"V": node}).values("V")[0]


@pytest.mark.parametrize(
    ("point", "within", "expected"),
    [
        (5, "[1,5]", True),
        (5, "[1,5)", False),
        (1, "(1,5]", False),
        (9, "[1,]", True),
        (9, "[1,)", None),
        (0, "[1,)", False),
        (0, "[,5]", True),
        (0, "(,5]", None),
    ],
)
def test_a_closed_null_boundary_bounds_nothing_an_open_one_is_unknown(
    evaluate: Evaluate, point: int, within: str, expected: bool | None
) -> None:
    node = {"type": "In", "operand": [literal("Integer", point), interval(within)]}
    assert one(evaluate, node) is expected


def test_nothing_is_in_a_null_interval(evaluate: Evaluate) -> None:
    assert one(evaluate, {"type": "In", "operand": [literal("Integer", 1), interval("[,]")]}) is False


@pytest.mark.parametrize(
    ("at", "precision", "expected"),
    [
        ("2026-03-01T20:00:00", None, True),
        ("2026-03-01T20:00:00", "Day", False),
        ("2026-03-02T01:00:00", "Day", True),
        ("2026-03-05T23:00:00", "Day", True),
        ("2026-03-05T23:00:00", None, False),
    ],
)
def test_an_open_boundary_excludes_its_whole_day_at_the_precision_of_days(
    evaluate: Evaluate, at: str, precision: str | None, expected: bool
) -> None:
    between = interval("(2026-03-01T10:00:00,2026-03-05T10:00:00]", moment)
    node = {"type": "In", "operand": [moment(at), between], **({"precision": precision} if precision else {})}
    assert one(evaluate, node) is expected


@pytest.mark.parametrize(
    ("node", "left", "right", "expected"),
    [
        ("Overlaps", "[1,5]", "[5,9]", True),
        ("Overlaps", "[1,5)", "[5,9]", False),
        ("Overlaps", "[1,)", "[5,9]", None),
        ("Overlaps", "[1,]", "[5,9]", True),
        ("Before", "[1,4]", "[5,9]", True),
        ("MeetsBefore", "[1,4]", "[5,9]", True),
        ("MeetsAfter", "(,5]", "[11,)", False),
        ("Starts", "[1,3]", "[1,9]", True),
        ("Ends", "[3,9]", "[1,9]", True),
        ("IncludedIn", "[2,3]", "[1,9]", True),
        ("ProperIncludedIn", "[1,9]", "[1,9]", False),
        ("SameAs", "[1,10)", "[1,9]", True),
    ],
)
def test_relations(evaluate: Evaluate, node: str, left: str, right: str, expected: bool | None) -> None:
    assert one(evaluate, {"type": node, "operand": [interval(left), interval(right)]}) is expected


def shown(value: Any) -> Any:
    if value is None:
        return None
    return (value["low"], value["high"], value["lowClosed"], value["highClosed"])


@pytest.mark.parametrize(
    ("node", "left", "right", "expected"),
    [
        ("Union", "[1,4]", "[5,9]", (1, 9, True, True)),
        ("Union", "[1,3]", "[5,9]", None),
        ("Intersect", "[1,6]", "[5,9]", (5, 6, True, True)),
        ("Intersect", "[1,10]", "[5,)", (5, None, True, False)),
        ("Except", "[1,6]", "[5,9]", (1, 4, True, True)),
        ("Except", "[1,9]", "[3,4]", None),
    ],
)
def test_set_operators(evaluate: Evaluate, node: str, left: str, right: str, expected: object) -> None:
    assert shown(one(evaluate, {"type": node, "operand": [interval(left), interval(right)]})) == expected


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["[1,3]", "[2,5]", "[6,7]", "[9,9]"], [(1, 7, True, True), (9, 9, True, True)]),
        (["(,4]"], [(None, 4, False, True)]),
        (["(,4]", "[3,6]", "[8,9]"], [(None, 6, False, True), (8, 9, True, True)]),
        (["[1,2]", "[8,)"], [(1, 2, True, True), (8, None, True, False)]),
    ],
)
def test_collapse_joins_what_surely_touches(evaluate: Evaluate, items: list[str], expected: list[object]) -> None:
    node = {
        "type": "Collapse",
        "operand": [{"type": "List", "element": [interval(i) for i in items]}, {"type": "Null"}],
    }
    assert [shown(v) for v in one(evaluate, node)] == expected


def test_expand_cuts_points_to_the_precision_of_the_step(evaluate: Evaluate) -> None:
    span = interval("[2026-03-01T10:30:00,2026-03-01T13:00:00]", moment)
    per = {"type": "Quantity", "value": 1, "unit": "hour"}
    hours = one(evaluate, {"type": "Expand", "operand": [span, per]})
    assert hours == ["2026-03-01T10", "2026-03-01T11", "2026-03-01T12", "2026-03-01T13"]
    months = one(evaluate, {"type": "Expand", "operand": [interval("[1,7]"), {"type": "Quantity", "value": 3}]})
    assert months == [1, 4]
