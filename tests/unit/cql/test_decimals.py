"""Decimals are exact to 28 digits and 8 places in every operator (values from 60-digit arithmetic)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.unit.cql.conftest import Evaluate, literal


def dec(text: str) -> dict[str, Any]:
    return literal("Decimal", text)


def op(kind: str, *operands: Any) -> dict[str, Any]:
    return {"type": kind, "operand": operands[0] if len(operands) == 1 else list(operands)}


def of(kind: str, *values: str) -> dict[str, Any]:
    return {"type": kind, "source": {"type": "List", "element": [dec(v) for v in values]}}


LARGE = "1234567890123456789.12345678"


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (op("Add", dec(LARGE), dec("0.00000001")), "1234567890123456789.12345679"),
        (op("Multiply", dec(LARGE), dec("1000000000.0")), "1234567890123456789123456780"),
        (op("Divide", dec(LARGE), dec("3.0")), "411522630041152263.04115226"),
        (op("Exp", dec("40.0")), "235385266837019985.40789991"),
        (op("Ln", dec(LARGE)), "41.65725270"),
        (op("Log", dec("1000000000000000000000000000.0"), dec("10.0")), "27"),
        (op("Power", dec("1.00000001"), dec("1000000000.0")), "22026.46469348"),
        (op("Power", dec("12345678.9"), dec("3.0")), "1881676371789154860897.069"),
        (op("Power", literal("Integer", 3), op("Negate", literal("Integer", 2))), "0.11111111"),
        (of("Sum", LARGE, LARGE, LARGE), "3703703670370370367.37037034"),
        (of("Avg", LARGE, LARGE, "0.0"), "823045260082304526.08230452"),
        (of("Product", "12345678.5", "87654321.25", "1000.0"), "1082152069288218125"),
        (of("Median", LARGE, "1234567890123456789.12345680"), "1234567890123456789.12345679"),
        (of("StdDev", LARGE, "1234567890123456789.12345680"), "0.00000001"),
        (of("GeometricMean", "1000000000000.0", "4000000000000.0"), "2000000000000"),
        (of("GeometricMean", "0.00000004", "1.0"), "0.0002"),
    ],
)
def test_all_digits(evaluate: Evaluate, node: dict[str, Any], expected: str) -> None:
    assert evaluate({"V": node}).values("V") == [Decimal(expected)]


@pytest.mark.parametrize(
    "node",
    [
        op("Ln", op("Negate", dec("1.0"))),
        op("Power", dec("10.0"), dec("30.0")),
        op("Power", op("Negate", dec("2.0")), dec("0.5")),
        op("Power", dec("0.0"), op("Negate", dec("1.0"))),
        op("Log", dec("10.0"), dec("1.0")),
    ],
)
def test_what_has_no_decimal_is_null(evaluate: Evaluate, node: dict[str, Any]) -> None:
    assert evaluate({"V": node}).values("V") == [None]
