"""Conversions and the tests for them, and a few operators of single texts and intervals."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.cql.conftest import SYSTEM, Evaluate, literal

NULL = {"type": "Null"}


def one(evaluate: Evaluate, node: dict[str, Any], **sections: Any) -> Any:
    return evaluate({"V": node}, **sections).values("V")[0]


@pytest.mark.parametrize(
    ("node", "text", "expected"),
    [
        ("ConvertsToInteger", "12", True),
        ("ConvertsToInteger", "1.5", False),
        ("ConvertsToDecimal", "1.5", True),
        ("ConvertsToDate", "2026-02", True),
        ("ConvertsToDate", "2026-13", False),
        ("ConvertsToDateTime", "2026-02-03T10", True),
        ("ConvertsToTime", "10:30", True),
        ("ConvertsToBoolean", "perhaps", False),
        ("ConvertsToQuantity", "5 'mg'", True),
        ("ConvertsToRatio", "1 'mg':2 'mL'", True),
        ("ConvertsToRatio", "1 'mg'", False),
    ],
)
def test_whether_a_text_converts(evaluate: Evaluate, node: str, text: str, expected: bool) -> None:
    assert one(evaluate, {"type": node, "operand": literal("String", text)}) is expected
    assert one(evaluate, {"type": node, "operand": NULL}) is None


def test_a_type_without_conversion_does_not_convert(evaluate: Evaluate) -> None:
    assert one(evaluate, {"type": "ConvertsToDate", "operand": literal("Integer", 5)}) is False


def test_convert_fails_the_patient_where_can_convert_says_no(evaluate: Evaluate) -> None:
    def node(kind: str, text: str) -> dict[str, Any]:
        return {"type": kind, "operand": literal("String", text), "toType": SYSTEM + "Integer"}

    assert one(evaluate, node("CanConvert", "x")) is False
    assert one(evaluate, node("Convert", "7")) == 7


def test_convert_quantity(evaluate: Evaluate) -> None:
    def node(kind: str, unit: str) -> dict[str, Any]:
        return {"type": kind, "operand": [{"type": "Quantity", "value": 37, "unit": "Cel"}, literal("String", unit)]}

    assert one(evaluate, node("CanConvertQuantity", "[degF]")) is True
    assert one(evaluate, node("CanConvertQuantity", "mg")) is False
    assert str(one(evaluate, node("ConvertQuantity", "[degF]"))["value"]) == "98.6"
    assert one(evaluate, node("ConvertQuantity", "mg")) is None


def test_ratio_chars_and_parts(evaluate: Evaluate) -> None:
    ratio = one(evaluate, {"type": "ToRatio", "operand": literal("String", "1 'mg' : 2 'mL'")})
    assert [str(ratio[k]["value"]) + ratio[k]["unit"] for k in ("numerator", "denominator")] == ["1mg", "2mL"]
    assert one(evaluate, {"type": "ToChars", "operand": literal("String", "abc")}) == ["a", "b", "c"]
    parts = {
        "type": "SplitOnMatches",
        "stringToSplit": literal("String", "a1b22c"),
        "separatorPattern": literal("String", r"\d+"),
    }
    assert one(evaluate, parts) == ["a", "b", "c"]


def test_size_of_an_interval(evaluate: Evaluate) -> None:
    interval = {"type": "Interval", "low": literal("Integer", 3), "high": literal("Integer", 5)}
    assert one(evaluate, {"type": "Size", "operand": interval}) == 3
    assert one(evaluate, {"type": "Width", "operand": interval}) == 2


VALUE_SET = {
    "resourceType": "ValueSet",
    "url": "http://example.org/vs",
    "expansion": {"contains": [{"system": "s", "code": "b"}, {"system": "s", "code": "a"}]},
}
CODE_SYSTEM = {"resourceType": "CodeSystem", "url": "s", "content": "complete", "concept": [{"code": "a"}]}


def test_value_sets_and_code_systems(evaluate: Evaluate) -> None:
    sections: dict[str, Any] = {
        "value_sets": [VALUE_SET, CODE_SYSTEM],
        "valueSets": {"def": [{"name": "VS", "id": "http://example.org/vs"}]},
        "codeSystems": {"def": [{"name": "S", "id": "s"}]},
        "codes": {"def": [{"name": "B", "id": "b", "codeSystem": {"name": "S"}}]},
    }
    codes = one(evaluate, {"type": "ExpandValueSet", "operand": {"type": "ValueSetRef", "name": "VS"}}, **sections)
    assert [code["code"] for code in codes] == ["a", "b"]
    inside = {"type": "InCodeSystem", "codesystem": {"name": "S"}}
    a = {"type": "Code", "code": "a", "system": {"name": "S"}}
    assert one(evaluate, {**inside, "code": a}, **sections) is True
    assert one(evaluate, {**inside, "code": {"type": "CodeRef", "name": "B"}}, **sections) is False
