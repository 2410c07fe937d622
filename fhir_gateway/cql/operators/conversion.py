"""Conversions between System types (CQL 1.5 appendix B, 22)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa

from fhir_gateway.cql.operators.ordering import as_decimal, to_datetime
from fhir_gateway.cql.operators.strings import combos, integers, texts
from fhir_gateway.cql.operators.temporal import date_from
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.units import common_scale, converted
from fhir_gateway.cql.values import (
    BoolVec,
    DateTimeVec,
    DateVec,
    DecVec,
    IntArray,
    IntVec,
    LongVec,
    QuantityVec,
    StrVec,
    TimeVec,
    Vec,
)
from fhir_gateway.cql.values.scalars import ONE, SCALE, narrow
from fhir_gateway.cql.values.temporal import NO_ZONE, parse_dates, parse_datetimes, parse_times
from fhir_gateway.errors import MeasureError

_TRUE, _FALSE = {"true", "t", "yes", "y", "1"}, {"false", "f", "no", "n", "0"}


def _refuse(operand: Vec, target: str) -> MeasureError:
    return MeasureError(f"a {operand.kind} cannot become a {target}")


@operator("ToBoolean", "22.16")
def to_boolean(call: Call, operand: Vec) -> Vec:
    """Boolean of a text or number."""
    if isinstance(operand, BoolVec):
        return operand
    if isinstance(operand, StrVec):
        vec = integers(call, lambda t: 1 if t.lower() in _TRUE else 0 if t.lower() in _FALSE else None, operand)
        return BoolVec(vec.values.astype(bool), vec.valid)
    if isinstance(operand, IntVec | LongVec | DecVec):
        values = as_decimal(operand).values
        return BoolVec(
            np.asarray(values == ONE, dtype=bool),
            operand.valid & np.asarray((values == ONE) | (values == 0), dtype=bool),
        )
    raise _refuse(operand, "Boolean")


@operator("ToInteger", "22.25")
def to_integer(call: Call, operand: Vec) -> Vec:
    """Integer of a text, Boolean or long."""
    if isinstance(operand, IntVec):
        return operand
    if isinstance(operand, StrVec):
        return integers(
            call, lambda t: int(t) if re.fullmatch(r"[+-]?\d+", t) and abs(int(t)) < 2**31 else None, operand
        )
    if isinstance(operand, BoolVec | LongVec):
        values = operand.values.astype(np.int64)
        return IntVec(values, operand.valid & (np.abs(values) < 2**31))
    raise _refuse(operand, "Integer")


@operator("ToLong", "22.28")
def to_long(call: Call, operand: Vec) -> Vec:
    """Long of a text, integer or Boolean."""
    if isinstance(operand, StrVec):
        vec = integers(call, lambda t: int(t) if re.fullmatch(r"[+-]?\d{1,18}", t) else None, operand)
        return LongVec(vec.values, vec.valid)
    if isinstance(operand, IntVec | LongVec | BoolVec):
        return LongVec(operand.values.astype(np.int64), operand.valid)
    raise _refuse(operand, "Long")


def _decimal(text: str) -> int | None:
    if not re.fullmatch(r"[+-]?\d+(\.\d+)?", text):
        return None
    try:
        return int(Decimal(text).scaleb(SCALE).to_integral_value(rounding="ROUND_HALF_UP"))
    except InvalidOperation:
        return None


@operator("ToDecimal", "22.22")
def to_decimal(call: Call, operand: Vec) -> Vec:
    """Decimal of a text, number or Boolean."""
    if isinstance(operand, IntVec | LongVec | DecVec):
        return as_decimal(operand)
    if isinstance(operand, BoolVec):
        return DecVec(operand.values.astype(np.int64) * ONE, operand.valid)
    if isinstance(operand, StrVec):
        number, rows = combos(operand)
        parsed = [_decimal(t) if t is not None else None for (t,) in rows]
        values = np.array([p if p is not None else 0 for p in parsed], dtype=object)
        known = np.array([p is not None for p in parsed], dtype=bool)
        return DecVec(narrow(values[number]), known[number])
    raise _refuse(operand, "Decimal")


_TEMPORAL = re.compile(
    r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01])(T([01]\d|2[0-3])(:[0-5]\d(:[0-5]\d(\.\d+)?)?)?(Z|[+-]\d\d:\d\d)?)?)?)?"
)


_DATE = re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?")
#: An offset of a time says nothing: times have no date to be shifted on.
_TIME = re.compile(r"T?([01]\d|2[0-3])(:[0-5]\d(:[0-5]\d(\.\d+)?)?)?(Z|[+-]\d\d:\d\d)?")


def _parsed(operand: StrVec, parse: Callable[[Any], Any], pattern: re.Pattern[str]) -> Vec:
    """Texts of the pattern parsed, others null; each distinct text once."""
    kept = [t if pattern.fullmatch(t) and _is_day(t[:10]) else None for t in operand.dictionary.to_pylist()]
    parsed: Vec = parse(pa.array(kept, pa.string()))
    return parsed.take(operand.codes)


def _is_day(text: str) -> bool:
    """Whether the date at the beginning of a text is in the calendar (there is no 30 February and no year 0)."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text) is None:
        return not text.startswith("0000")
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


@operator("ToDateTime", "22.24")
def to_date_time(call: Call, operand: Vec) -> Vec:
    """Date-time of a date (its time unknown) or text."""
    if isinstance(operand, DateTimeVec):
        return operand
    if isinstance(operand, DateVec):
        return to_datetime(operand)
    if isinstance(operand, StrVec):
        return _parsed(operand, lambda a: parse_datetimes(a, call.evaluation.offset_ms, zones=True), _TEMPORAL)
    raise _refuse(operand, "DateTime")


@operator("ToDate", "22.23")
def to_date(call: Call, operand: Vec) -> Vec:
    """Date of a date-time or text."""
    if isinstance(operand, StrVec):
        return _parsed(operand, parse_dates, _DATE)
    return date_from(call, operand)


@operator("ToTime", "22.31")
def to_time(call: Call, operand: Vec) -> Vec:
    """Time of a text."""
    if isinstance(operand, TimeVec):
        return operand
    if isinstance(operand, StrVec):
        return _parsed(operand, parse_times, _TIME)
    raise _refuse(operand, "Time")


@operator("ToString", "22.30")
def to_string(call: Call, operand: Vec) -> Vec:
    """Text of a value."""
    if isinstance(operand, StrVec):
        return operand
    if isinstance(operand, QuantityVec):
        return texts(call, lambda q: f"{q['value']:f} '{q['unit'] or '1'}'", operand)
    if isinstance(operand, DateTimeVec) and operand.zone is not None:
        return _as_written(call, operand, operand.zone)
    return texts(call, _plain, operand)


def _as_written(call: Call, operand: DateTimeVec, zone: IntArray) -> StrVec:
    """Date-times on the clock they were written for, with its offset where there was one."""
    told = operand.valid & (zone != NO_ZONE)
    shift = np.where(told, zone - call.evaluation.offset_ms, 0)
    local = DateTimeVec(operand.low + shift, operand.high + shift, operand.precision, operand.valid).pylist()
    minutes = np.where(told, zone // 60_000, 0).tolist()
    found = [
        f"{text}{'-' if m < 0 else '+'}{abs(m) // 60:02d}:{abs(m) % 60:02d}" if text and known else text
        for text, m, known in zip(local, minutes, told.tolist(), strict=True)
    ]
    return StrVec.of_arrow(pa.array(found, pa.string()))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        text = format(value, "f")
        return text if "." in text else text + ".0"
    return str(value)


@operator("ToQuantity", "22.29")
def to_quantity(call: Call, operand: Vec) -> Vec:
    """Quantity of a number or a text such as ``5 'mg'``."""
    if isinstance(operand, QuantityVec):
        return operand
    if isinstance(operand, IntVec | LongVec | DecVec):
        return QuantityVec(as_decimal(operand), StrVec.constant("1", call.n))
    if isinstance(operand, StrVec):
        pattern = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*(?:'([^']*)'|([a-z]+))?")
        found = {t: pattern.fullmatch(t) for t in operand.dictionary.to_pylist()}
        amount = texts(call, lambda t: m.group(1) if (m := found[t]) else None, operand)
        unit = texts(call, lambda t: (m.group(2) or m.group(3) or "1") if (m := found[t]) else None, operand)
        value = to_decimal(call, amount)
        if isinstance(value, DecVec):
            return QuantityVec(value, unit)
    raise _refuse(operand, "Quantity")


@operator("ConvertQuantity", "22.7")
def convert_quantity(call: Call, operand: Vec, unit: Vec) -> Vec:
    """The quantity in another unit; null when the units do not convert."""
    if not isinstance(operand, QuantityVec) or not isinstance(unit, StrVec):
        raise _refuse(operand, "Quantity")
    scale = common_scale(operand.unit, unit, where=operand.valid & unit.valid)
    values = converted(operand.value.values, scale)
    return QuantityVec(DecVec(values, operand.valid & scale.comparable & unit.valid), unit)
