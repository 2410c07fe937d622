"""Precision, LowBoundary and HighBoundary (CQL 1.5 appendix B, 16).

Precisions are counted as the specification does: digits after the decimal point for decimals; digits for dates and
times (year 4, month 6, day 8, hour 10, minute 12, millisecond 17; of times hour 2, minute 4, millisecond 9).
"""

from __future__ import annotations

import numpy as np

from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.values import (
    DateTimeVec,
    DateVec,
    DecVec,
    IntArray,
    IntVec,
    NullVec,
    QuantityVec,
    TemporalVec,
    TimeVec,
    Vec,
)
from fhir_gateway.cql.values.scalars import ONE, SCALE
from fhir_gateway.cql.values.temporal import (
    DAY,
    DAY_MS,
    HOUR,
    MILLISECOND,
    MINUTE,
    MONTH,
    MS_OF,
    SECOND,
    YEAR,
    span_of_days,
    year_month,
)
from fhir_gateway.errors import MeasureError

#: digits -> precision
_DATED = {4: YEAR, 6: MONTH, 8: DAY, 10: HOUR, 12: MINUTE, 14: SECOND, 17: MILLISECOND}
_TIMED = {2: HOUR, 4: MINUTE, 6: SECOND, 9: MILLISECOND}


def decimal_digits(values: IntArray) -> IntArray:
    """Digits after the decimal point, without trailing zeros."""
    digits = np.zeros(len(values), dtype=np.int64)
    for place in range(1, SCALE + 1):
        digits = np.where(np.asarray(values % 10 ** (SCALE - place + 1) != 0, dtype=bool), place, digits)
    return digits


def _digits_of(vec: TemporalVec) -> IntArray:
    table = _TIMED if isinstance(vec, TimeVec) else _DATED
    digits = {precision: count for count, precision in table.items()}
    digits[SECOND] = digits[MILLISECOND]  # seconds and milliseconds are one precision
    known = np.array([digits.get(p, 0) for p in range(MILLISECOND + 1)], dtype=np.int64)
    return known[vec.precision]


@operator("Precision", "16.20")
def precision(call: Call, operand: Vec) -> Vec:
    """Digits of precision. Trailing zeros of a decimal are not kept, so they do not count."""
    if isinstance(operand, DecVec):
        return IntVec(decimal_digits(operand.values), operand.valid)
    if isinstance(operand, TemporalVec):
        return IntVec(_digits_of(operand), operand.valid)
    raise MeasureError(f"precision of a {operand.kind}")


def _boundary(call: Call, operand: Vec, wanted: Vec | None, *, high: bool) -> Vec:
    if isinstance(operand, NullVec):
        return operand
    finest = SCALE if isinstance(operand, DecVec | QuantityVec) else 9 if isinstance(operand, TimeVec) else 17
    if isinstance(operand, DateVec):
        finest = 8
    digits = np.full(call.n, finest, dtype=np.int64)
    if isinstance(wanted, IntVec):
        digits = np.where(wanted.valid, wanted.values, digits)
    if isinstance(operand, QuantityVec):
        value = _decimal_boundary(operand.value, digits, high=high)
        return QuantityVec(value, operand.unit)
    if isinstance(operand, DecVec):
        return _decimal_boundary(operand, digits, high=high)
    if isinstance(operand, TemporalVec):
        return _temporal_boundary(operand, digits, high=high)
    raise MeasureError(f"boundary of a {operand.kind}")


def _decimal_boundary(vec: DecVec, digits: IntArray, *, high: bool) -> DecVec:
    known = (digits >= 0) & (digits <= SCALE)
    step = np.array([ONE // 10**d for d in range(SCALE + 1)], dtype=np.int64)
    own = step[decimal_digits(vec.values)]
    asked = step[np.clip(digits, 0, SCALE)]
    values = vec.values + (own - asked) * high * (asked < own)
    return DecVec(np.where(asked > own, values // asked * asked, values), vec.valid & known)


def _temporal_boundary(vec: TemporalVec, digits: IntArray, *, high: bool) -> TemporalVec:
    table = _TIMED if isinstance(vec, TimeVec) else _DATED
    size = max(table) + 1
    level_of = np.full(size, -1, dtype=np.int64)
    for count, own in table.items():
        level_of[count] = own
    level = np.where((digits >= 0) & (digits < size), level_of[np.clip(digits, 0, size - 1)], -1)
    edge = vec.high if high else vec.low
    known = vec.valid & (level >= 0) & (level <= (DAY if isinstance(vec, DateVec) else MILLISECOND))
    level = np.where(level < 0, MILLISECOND, level)
    if isinstance(vec, TimeVec):
        low, top = _within_day(edge, level)
        return TimeVec(low, top, np.where(level == SECOND, MILLISECOND, level), known)
    per_day = DAY_MS // vec.unit_ms
    days = edge // per_day
    year, month = year_month(days)
    start = days - span_of_days(year, month, np.ones(len(days), dtype=np.int64), np.full(len(days), MONTH))[0] + 1
    first, last = span_of_days(year, month, start, np.minimum(level, DAY))
    if isinstance(vec, DateVec):
        return DateVec(first, last, np.minimum(level, DAY), known)
    low, top = _within_day(edge % per_day, level)
    timed = level > DAY
    return DateTimeVec(
        np.where(timed, days * per_day + low, first * per_day),
        np.where(timed, days * per_day + top, (last + 1) * per_day - 1),
        np.where(level == SECOND, MILLISECOND, level),
        known,
    )


def _within_day(clock: IntArray, level: IntArray) -> tuple[IntArray, IntArray]:
    """First and last millisecond of the hour or minute that a clock time lies in."""
    span = np.select([level == HOUR, level == MINUTE], [MS_OF[HOUR], MS_OF[MINUTE]], 1).astype(np.int64)
    low = clock // span * span
    return low, low + span - 1


def truncated(vec: TemporalVec, level: IntArray) -> TemporalVec:
    """Values cut to a coarser precision."""
    table = _TIMED if isinstance(vec, TimeVec) else _DATED
    digits = np.zeros(MILLISECOND + 1, dtype=np.int64)
    for count, own in table.items():
        digits[own] = count
    return _temporal_boundary(vec, digits[level], high=False)


@operator("LowBoundary", "16.12", nulls="handled")
def low_boundary(call: Call, operand: Vec, wanted: Vec | None = None) -> Vec:
    """Least value that the operand can mean, at a number of digits."""
    return _boundary(call, operand, wanted, high=False)


@operator("HighBoundary", "16.8", nulls="handled")
def high_boundary(call: Call, operand: Vec, wanted: Vec | None = None) -> Vec:
    """Greatest value that the operand can mean, at a number of digits."""
    return _boundary(call, operand, wanted, high=True)
