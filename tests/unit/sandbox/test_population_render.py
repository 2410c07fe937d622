"""Templates rendered by the column."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fhir_gateway.sandbox.population.columns import Coded, Dates, Decimals, Instants, Numbered, words
from fhir_gateway.sandbox.population.render import Each, Field, Maybe, Nested, Raw, Sheet, Template, Text


def render(template: Template, rows: int, fields: dict[str, Field], chunk: int = 2) -> list[object]:
    return [json.loads(line) for part in Sheet(template, rows, fields).lines(chunk) for line in part.splitlines()]


def test_constants_text_and_raw() -> None:
    fields: dict[str, Field] = {
        "id": Numbered("x", np.array([1, 20, 300]), 4),
        "n": Decimals(np.array([5, -1234, 100])),
    }
    template = {"id": Text("id"), "constant": {"a": [1, True]}, "amount": Raw("n"), "reference": Text("id", "Type/")}
    assert render(template, 3, fields) == [
        {"id": f"x{n:04}", "constant": {"a": [1, True]}, "amount": amount, "reference": f"Type/x{n:04}"}
        for n, amount in ((1, 0.05), (20, -12.34), (300, 1.0))
    ]


def test_optional_members_are_left_out() -> None:
    fields: dict[str, Field] = {
        "id": Numbered("", np.arange(4)),
        "color": Coded(words(["red", "blue"]), np.array([0, -1, 1, -1])),
        "shown": np.array([False, True, True, False]),
    }
    template = {
        "id": Raw("id"),
        "color": Maybe("color", Text("color")),
        "list": ["a", Maybe("shown", {"b": Text("id")})],
        "end": 1,
    }
    assert render(template, 4, fields) == [
        {"id": 0, "color": "red", "list": ["a"], "end": 1},
        {"id": 1, "list": ["a", {"b": "1"}], "end": 1},
        {"id": 2, "color": "blue", "list": ["a", {"b": "2"}], "end": 1},
        {"id": 3, "list": ["a"], "end": 1},
    ]


def test_nested_rows() -> None:
    items = Nested(np.array([0, 2, 3, 6]), {"n": Numbered("", np.arange(6))})
    template = {"id": Raw("id"), "item": Each("items", {"n": Raw("n")})}
    assert render(template, 3, {"id": Numbered("", np.arange(3)), "items": items}) == [
        {"id": 0, "item": [{"n": 0}, {"n": 1}]},
        {"id": 1, "item": [{"n": 2}]},
        {"id": 2, "item": [{"n": 3}, {"n": 4}, {"n": 5}]},
    ]


def test_a_null_where_none_may_be_is_an_error() -> None:
    with pytest.raises(ValueError, match="color"):
        render({"color": Text("color")}, 1, {"color": Coded(words(["red"]), np.array([-1]))})


def test_a_first_member_cannot_be_optional() -> None:
    with pytest.raises(ValueError, match="first"):
        render({"a": Maybe("a", Text("a"))}, 1, {})


def test_dates_and_instants() -> None:
    days = np.array([0, -1, 20_000, 7])
    assert Dates(days, 7).text(0, 4).to_pylist() == ["1970-01-01", "1969-12-31", "2024-10-04", None]
    assert Instants(np.array([61])).text(0, 1).to_pylist() == ["1970-01-01T01:01:00-07:00"]
