"""Arithmetic; a result that CQL cannot represent is null (CQL 1.5 appendix B, 16)."""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from typing import Any

import numpy as np
import pyarrow as pa

from fhir_gateway.cql.operators.intervals import extreme, neighbour
from fhir_gateway.cql.operators.ordering import as_decimal, span_of
from fhir_gateway.cql.operators.strings import texts
from fhir_gateway.cql.operators.temporal import add_quantity
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.typespec import local_name
from fhir_gateway.cql.units import common_scale, converted
from fhir_gateway.cql.values import (
    AnyArray,
    BoolArray,
    DateTimeVec,
    DateVec,
    DecVec,
    IntVec,
    LongVec,
    QuantityVec,
    StrVec,
    TemporalVec,
    TimeVec,
    UncertainVec,
    Vec,
    select,
)
from fhir_gateway.cql.values.scalars import ONE, SCALE, divide_half_up, magnitude, narrow, overflows, widen_if
from fhir_gateway.cql.values.uncertain import integer_between
from fhir_gateway.errors import MeasureError

_INT = 2**31
#: Largest magnitudes: 28 digits before the decimal point for decimals, as the official tests have them.
_LIMITS: dict[type[Vec], int] = {IntVec: _INT, LongVec: 2**63, DecVec: 10**28 * ONE + 1}


def number(kind: type[Any], values: AnyArray, valid: Any) -> Vec:
    """Numbers of the kind; out of its range gives null."""
    limit = _LIMITS[kind]
    inside = np.asarray((values < limit) & (values >= -limit), dtype=bool)
    return kind(narrow(np.where(inside, values, 0)), valid & inside)  # type: ignore[no-any-return]


def _pair(left: Vec, right: Vec) -> tuple[type[Any], AnyArray, AnyArray]:
    if isinstance(left, DecVec) or isinstance(right, DecVec):
        return DecVec, as_decimal(left).values, as_decimal(right).values
    kind = LongVec if isinstance(left, LongVec) or isinstance(right, LongVec) else IntVec
    if not isinstance(left, IntVec | LongVec) or not isinstance(right, IntVec | LongVec):
        raise MeasureError(f"arithmetic on {left.kind} and {right.kind}")
    return kind, left.values, right.values


def _add(call: Call, left: Vec, right: Vec, sign: int) -> Vec:
    if isinstance(left, TemporalVec) and isinstance(right, QuantityVec):
        result = add_quantity(left, right, sign)
        call.fail(left.valid & right.valid & ~result.valid, "a date or time before the first or after the last of CQL")
        return result
    if isinstance(left, UncertainVec) or isinstance(right, UncertainVec):
        (a_low, a_high), (b_low, b_high) = span_of(left), span_of(right)
        if sign < 0:
            b_low, b_high = -b_high, -b_low
        return integer_between(a_low + b_low, a_high + b_high, left.valid & right.valid)
    if isinstance(left, QuantityVec) and isinstance(right, QuantityVec):
        other, comparable = _in_unit_of(left, right)
        x, y = widen_if(overflows(magnitude(left.value.values) + magnitude(other)), left.value.values, other)
        total = number(DecVec, x + sign * y, left.valid & right.valid & comparable)
        return QuantityVec(total, left.unit)  # type: ignore[arg-type]
    kind, a, b = _pair(left, right)
    a, b = widen_if(overflows(magnitude(a) + magnitude(b)), a, b)
    return number(kind, a + sign * b, left.valid & right.valid)


@operator("Add", "16.2", uncertain=True)
def add(call: Call, left: Vec, right: Vec) -> Vec:
    """Sum; of a date and a quantity, the date so much later."""
    return _add(call, left, right, 1)


@operator("Subtract", "16.21", uncertain=True)
def subtract(call: Call, left: Vec, right: Vec) -> Vec:
    """Difference; of a date and a quantity, the date so much earlier."""
    return _add(call, left, right, -1)


def _multiply(kind: type[Any], a: AnyArray, b: AnyArray) -> AnyArray:
    a, b = widen_if(overflows(magnitude(a) * magnitude(b) * (2 if kind is DecVec else 1)), a, b)
    return divide_half_up(a * b, np.full(len(a), ONE, dtype=a.dtype)) if kind is DecVec else a * b


@operator("Multiply", "16.15", uncertain=True)
def multiply(call: Call, left: Vec, right: Vec) -> Vec:
    """Product; a quantity keeps its unit when the other factor has none."""
    valid = left.valid & right.valid
    if isinstance(left, UncertainVec) or isinstance(right, UncertainVec):
        corners = np.stack([a * b for a in span_of(left) for b in span_of(right)])
        return integer_between(corners.min(axis=0), corners.max(axis=0), valid)
    if isinstance(left, QuantityVec) or isinstance(right, QuantityVec):
        a, b = (v.value if isinstance(v, QuantityVec) else as_decimal(v) for v in (left, right))
        value = number(DecVec, _multiply(DecVec, a.values, b.values), valid)
        return QuantityVec(value, _product_unit(call, left, right))  # type: ignore[arg-type]
    kind, x, y = _pair(left, right)
    return number(kind, _multiply(kind, x, y), valid)


def _product_unit(call: Call, left: Vec, right: Vec, *, quotient: bool = False) -> StrVec:
    """Unit of each product or quotient; a number has the unit ``1``."""
    one = StrVec.constant("1", call.n)
    units = [v.unit if isinstance(v, QuantityVec) else one for v in (left, right)]
    units = [
        StrVec(np.where(u.valid, u.codes, len(u.dictionary)), pa.concat_arrays([u.dictionary, _ONE])) for u in units
    ]
    return texts(call, _quotient if quotient else _times, *units)


_ONE = pa.array(["1"], pa.string())


def _times(left: str, right: str) -> str:
    return left if right == "1" else right if left == "1" else f"{left}.{right}"


def _quotient(left: str, right: str) -> str:
    return left if right == "1" else "1" if left == right else f"{left}/{right}"


def _divide(a: AnyArray, b: AnyArray) -> tuple[AnyArray, Any]:
    """Decimal quotient of scaled integers, rounded to 8 decimals; division by zero is null."""
    ok = np.asarray(b != 0, dtype=bool)
    a, b = widen_if(overflows(magnitude(a) * ONE * 2), a, b)
    safe = np.where(ok, b, 1)
    sign = np.where(safe < 0, -1, 1)
    return narrow(divide_half_up(a * sign * ONE, safe * sign)), ok


@operator("Divide", "16.5")
def divide(call: Call, left: Vec, right: Vec) -> Vec:
    """Decimal quotient; null for a zero divisor."""
    valid = left.valid & right.valid
    a, b = (v.value if isinstance(v, QuantityVec) else as_decimal(v) for v in (left, right))
    values, ok = _divide(a.values, b.values)
    value = number(DecVec, values, valid & ok)
    if isinstance(left, QuantityVec) or isinstance(right, QuantityVec):
        return QuantityVec(value, _product_unit(call, left, right, quotient=True))  # type: ignore[arg-type]
    return value


def _whole(left: Vec, right: Vec) -> tuple[type[Any], AnyArray, AnyArray, Any]:
    valid = left.valid & right.valid
    if isinstance(left, QuantityVec) and isinstance(right, QuantityVec):
        other, comparable = _in_unit_of(left, right)
        left, right, valid = left.value, DecVec(other, right.valid), valid & comparable
    kind, a, b = _pair(left, right)
    ok = np.asarray(b != 0, dtype=bool)
    return kind, a, np.where(ok, b, 1), valid & ok


def _in_unit_of(left: QuantityVec, right: QuantityVec) -> tuple[AnyArray, Any]:
    """Values of ``right`` in the units of ``left``, and where they convert."""
    scale = common_scale(right.unit, left.unit, where=left.valid & right.valid)
    return converted(right.value.values, scale), scale.comparable


@operator("TruncatedDivide", "16.22")
def truncated_divide(call: Call, left: Vec, right: Vec) -> Vec:
    """Integer quotient towards zero."""
    kind, a, b, ok = _whole(left, right)
    quotient = np.where((a < 0) != (b < 0), -(abs(a) // abs(b)), abs(a) // abs(b))
    return _with_unit(number(kind, quotient * (ONE if kind is DecVec else 1), ok), left)


@operator("Modulo", "16.13")
def modulo(call: Call, left: Vec, right: Vec) -> Vec:
    """Remainder with the sign of the dividend."""
    kind, a, b, ok = _whole(left, right)
    return _with_unit(number(kind, np.where(a < 0, -(abs(a) % abs(b)), abs(a) % abs(b)), ok), left)


def _with_unit(value: Vec, like: Vec) -> Vec:
    return QuantityVec(value, like.unit) if isinstance(like, QuantityVec) and isinstance(value, DecVec) else value


def _each(operand: Vec, function: Any) -> Vec:
    if isinstance(operand, QuantityVec):
        return QuantityVec(number(DecVec, function(operand.value.values), operand.valid), operand.unit)  # type: ignore[arg-type]
    if isinstance(operand, IntVec | LongVec | DecVec):
        return number(type(operand), function(operand.values), operand.valid)
    raise MeasureError(f"arithmetic on {operand.kind}")


@operator("Negate", "16.16")
def negate(call: Call, operand: Vec) -> Vec:
    """Minus."""
    return _each(operand, lambda values: -values)


@operator("Abs", "16.1")
def abs_(call: Call, operand: Vec) -> Vec:
    """Absolute value."""
    return _each(operand, abs)


def _to_integer(operand: Vec, function: Any) -> Vec:
    return number(IntVec, function(as_decimal(operand).values), operand.valid)


@operator("Ceiling", "16.4")
def ceiling(call: Call, operand: Vec) -> Vec:
    """Smallest integer not below."""
    return _to_integer(operand, lambda v: -((-v) // ONE))


@operator("Floor", "16.7")
def floor(call: Call, operand: Vec) -> Vec:
    """Largest integer not above."""
    return _to_integer(operand, lambda v: v // ONE)


@operator("Truncate", "16.23")
def truncate(call: Call, operand: Vec) -> Vec:
    """Integer part."""
    return _to_integer(operand, lambda v: np.where(v < 0, -(-v // ONE), v // ONE))


@operator("Round", "16.20", fields=("operand", "precision"))
def round_(call: Call, operand: Vec, precision: Vec | None = None) -> Vec:
    """Half away from zero to a number of decimals (0 when not given)."""
    values = as_decimal(operand).values
    places = precision.values if isinstance(precision, IntVec) else np.zeros(call.n, dtype=np.int64)
    step = np.array([10 ** int(8 - p) for p in range(9)], dtype=np.int64)[np.clip(places, 0, 8)]
    return number(DecVec, divide_half_up(values, step) * step, operand.valid)


@operator("Power", "16.18")
def power(call: Call, left: Vec, right: Vec) -> Vec:
    """Power: a whole number of whole numbers with exponents that are not negative, else a decimal."""
    valid = left.valid & right.valid
    if not isinstance(left, IntVec) or not isinstance(right, IntVec):
        return by_decimals(_raised, valid, left, right)
    size = np.abs(left.values.astype(float)) ** np.maximum(right.values, 0)
    whole = valid & (right.values >= 0) & (size < 2.0**63)
    base, exponent = (np.where(whole, v.values, 1).astype(object) for v in (left, right))
    exact = number(IntVec, base**exponent, whole)
    negative = valid & (right.values < 0)
    if not negative.any():
        return exact
    rows = np.flatnonzero(negative)
    fractions = by_decimals(_raised, np.ones(len(rows), dtype=bool), left.take(rows), right.take(rows))
    rest = np.flatnonzero(~negative)
    return select(call.n, [(rows, fractions), (rest, exact.take(rest))])


#: Digits to reckon with for 28 before and 8 after the point, and some that rounding may use up.
_DIGITS = Context(prec=60, rounding=ROUND_HALF_UP)


def _raised(base: Decimal, exponent: Decimal) -> Decimal:
    return Decimal(1) if exponent == 0 else _DIGITS.power(base, exponent)


def by_decimals(function: Callable[..., Decimal], valid: BoolArray, *operands: Vec) -> Vec:
    """A function of decimals, computed to all of their digits once for each distinct value; null where it has none."""
    columns = [as_decimal(operand).values for operand in operands]
    known: dict[tuple[int, ...], int | None] = {}
    results = np.zeros(len(valid), dtype=object)
    ok = valid.copy()
    for row in np.flatnonzero(valid).tolist():
        key = tuple(int(column[row]) for column in columns)
        if key not in known:
            try:
                value = function(*(Decimal(k).scaleb(-SCALE, _DIGITS) for k in key))
                finite = value.is_finite() and (
                    not value or value.adjusted() < 29
                )  # no more digits before the point than there are
                known[key] = int(_DIGITS.to_integral_value(value.scaleb(SCALE, _DIGITS))) if finite else None
            except (InvalidOperation, DivisionByZero, Overflow):
                known[key] = None
        found = known[key]
        ok[row] = found is not None
        results[row] = found or 0
    return number(DecVec, results, ok)


@operator("Ln", "16.10")
def ln(call: Call, operand: Vec) -> Vec:
    """Natural logarithm; null for a negative number, a run-time error for zero."""
    zero = np.asarray(as_decimal(operand).values == 0, dtype=bool)
    call.fail(operand.valid & zero, "logarithm of zero")
    return by_decimals(_DIGITS.ln, operand.valid & ~zero, operand)


@operator("Exp", "16.6")
def exp(call: Call, operand: Vec) -> Vec:
    """Exponential; too large a result is a run-time error."""
    result = by_decimals(_DIGITS.exp, operand.valid, operand)
    call.fail(operand.valid & ~result.valid, "exponential of a number that is too large")
    return result


@operator("Log", "16.11")
def log(call: Call, operand: Vec, base: Vec) -> Vec:
    """Logarithm to a base."""
    return by_decimals(
        lambda value, of: _DIGITS.divide(_DIGITS.ln(value), _DIGITS.ln(of)), operand.valid & base.valid, operand, base
    )


@operator("Successor", "16.21")
def successor(call: Call, operand: Vec) -> Vec:
    """Next value of the type; of the last one a run-time error."""
    return _next(call, operand, up=True)


@operator("Predecessor", "16.19")
def predecessor(call: Call, operand: Vec) -> Vec:
    """Previous value of the type; of the first one a run-time error."""
    return _next(call, operand, up=False)


def _next(call: Call, operand: Vec, up: bool) -> Vec:
    result = neighbour(operand, up=up)
    if isinstance(operand, IntVec | LongVec | DecVec):
        limit = extreme(operand, up).values[0]  # type: ignore[attr-defined]
        call.fail(operand.valid & np.asarray(operand.values == limit, dtype=bool), "no further value of the type")
    elif isinstance(operand, TemporalVec) and isinstance(result, TemporalVec):
        wrapped = (result.low < operand.low) if up else (result.low > operand.low)
        call.fail(operand.valid & (~result.valid | wrapped), "no further value of the type")
    return result


_TYPED: dict[str, Vec] = {
    "Integer": IntVec(np.zeros(1, dtype=np.int64)),
    "Long": LongVec(np.zeros(1, dtype=np.int64)),
    "Decimal": DecVec(np.zeros(1, dtype=np.int64)),
    "Date": DateVec.exact(np.zeros(1, dtype=np.int64)),
    "DateTime": DateTimeVec.exact(np.zeros(1, dtype=np.int64)),
    "Time": TimeVec.exact(np.zeros(1, dtype=np.int64)),
    "Quantity": QuantityVec(DecVec(np.zeros(1, dtype=np.int64)), StrVec.constant("1", 1)),
}


def _limit(call: Call, largest: bool) -> Vec:
    name = local_name(call.node.elm["valueType"])
    if name not in _TYPED:
        raise MeasureError(f"{name} has no smallest or largest value")
    return extreme(_TYPED[name], largest).take(np.zeros(call.n, dtype=np.int64))


@operator("MinValue", "16.12", nulls="handled", fields=())
def min_value(call: Call) -> Vec:
    """Smallest value of a type."""
    return _limit(call, largest=False)


@operator("MaxValue", "16.9", nulls="handled", fields=())
def max_value(call: Call) -> Vec:
    """Largest value of a type."""
    return _limit(call, largest=True)
