"""Date and time operators (CQL 1.5 appendix B, 18)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fhir_gateway.cql.operators.ordering import to_datetime
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.units import normal
from fhir_gateway.cql.values import (
    BoolArray,
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
from fhir_gateway.cql.values.base import gather
from fhir_gateway.cql.values.scalars import ONE
from fhir_gateway.cql.values.temporal import (
    DAY,
    DAY_MS,
    HOUR,
    MAX_DAY,
    MAX_MS,
    MILLISECOND,
    MIN_DAY,
    MIN_MS,
    MINUTE,
    MONTH,
    MS_OF,
    NO_ZONE,
    PRECISIONS,
    SECOND,
    WEEK,
    YEAR,
    floor_to,
    month_start,
    months_of,
    span_of_days,
    year_month,
)
from fhir_gateway.cql.values.uncertain import integer_between
from fhir_gateway.errors import MeasureError

#: How many of each part of a clock time there are.
_CLOCK = {HOUR: 24, MINUTE: 60, SECOND: 60, MILLISECOND: 1000}
_UNIT = {"a": YEAR, "mo": MONTH, "wk": WEEK, "d": DAY, "h": HOUR, "min": MINUTE, "s": SECOND, "ms": MILLISECOND}


def add_months(values: IntArray, unit_ms: int, months: IntArray) -> IntArray:
    """Calendar months later; the day of the month is cut to the length of the target month."""
    per_day = DAY_MS // unit_ms
    days, rest = values // per_day, values % per_day
    month = months_of(days)
    day = days - month_start(month)
    target = month + months
    length = month_start(target + 1) - month_start(target)
    moved: IntArray = (month_start(target) + np.minimum(day, length - 1)) * per_day + rest
    return moved


def _shift(vec: TemporalVec, amount: IntArray, unit: int) -> TemporalVec:
    """``vec`` moved by whole units, each value at no finer than its own precision."""
    if unit in (YEAR, MONTH):
        months = amount * 12 if unit == YEAR else amount
        # a value known to the year only moves by whole years
        months = np.where(vec.precision == YEAR, np.where(months < 0, -(-months // 12), months // 12) * 12, months)
        low = add_months(vec.low, vec.unit_ms, months)
        return _spanned(vec, low)
    days = amount * (7 if unit == WEEK else 1)
    ms = days * DAY_MS if unit in (WEEK, DAY) else amount * MS_OF[unit]
    coarse = vec.precision < DAY
    # at a precision of days, hours or minutes only whole ones of them count
    step = np.select([vec.precision == p for p in (DAY, HOUR, MINUTE)], [MS_OF[p] for p in (DAY, HOUR, MINUTE)], 1)
    fine = vec.low + _truncate(ms, step) * step // vec.unit_ms
    if coarse.any():  # a year or month moves by so many whole years (365 days) or months (30 days)
        whole = _truncate(ms, DAY_MS)
        months = np.where(vec.precision == YEAR, _truncate(whole, 365) * 12, _truncate(whole, 30))
        fine = np.where(coarse, add_months(vec.low, vec.unit_ms, np.where(coarse, months, 0)), fine)
    if isinstance(vec, TimeVec):
        fine = fine % DAY_MS
    return _spanned(vec, fine)


def _truncate(values: IntArray, step: IntArray | int) -> IntArray:
    return np.where(values < 0, -((-values) // step), values // step)


def _spanned(vec: TemporalVec, low: IntArray) -> TemporalVec:
    """The same precision around a new low end; outside CQL's years 1 to 9999 it is null."""
    low_limit, high_limit = {DateVec: (MIN_DAY, MAX_DAY), DateTimeVec: (MIN_MS, MAX_MS), TimeVec: (0, DAY_MS - 1)}[
        type(vec)
    ]
    inside = (low >= low_limit) & (low <= high_limit)
    low = np.where(inside, low, 0)
    high = low + (vec.high - vec.low)
    dated = vec.precision <= MONTH
    if dated.any() and not isinstance(vec, TimeVec):
        per_day = DAY_MS // vec.unit_ms
        year, month = year_month(low // per_day)
        _, last = span_of_days(year, month, np.ones(len(low), dtype=np.int64), vec.precision)
        high = np.where(dated, (last + 1) * per_day - 1, high)
    moved = type(vec)(low, high, vec.precision, vec.valid & inside)
    if isinstance(vec, DateTimeVec) and isinstance(moved, DateTimeVec):
        moved.zone = vec.zone
    return moved


def units_of(quantity: QuantityVec) -> IntArray:
    """Precision number of each row's time unit; -1 where the unit is not one of time."""
    words = [_UNIT.get(normal(u), -1) for u in quantity.unit.dictionary.to_pylist()]
    return np.where(quantity.unit.valid, gather(np.array(words, dtype=np.int64), quantity.unit.codes), -1)


def add_quantity(vec: TemporalVec, quantity: QuantityVec, sign: int) -> Vec:
    """A date or time moved by a quantity of time; fractions of a unit are dropped."""
    units = units_of(quantity)
    amount = quantity.value.values
    whole = np.where(amount < 0, -((-amount) // ONE), amount // ONE).astype(np.int64) * sign
    present = np.unique(units[vec.valid & quantity.valid])
    if (present < 0).any():
        raise MeasureError("a quantity that is not one of time is added to a date")
    if len(present) == 1:
        return _shift(vec, whole, int(present[0]))
    from fhir_gateway.cql.values import select

    branches = []
    for unit in present.tolist():
        rows = np.flatnonzero(vec.valid & quantity.valid & (units == unit))
        branches.append((rows, _shift(vec.take(rows), whole[rows], unit)))
    return select(len(vec), branches) if branches else vec.take(np.full(len(vec), -1, dtype=np.int64))


def shift_own_precision(vec: TemporalVec, sign: int) -> Vec:
    """One unit of each value's own precision later or earlier."""
    result: Vec = NullVec(len(vec))
    branches = []
    for precision in np.unique(vec.precision[vec.valid]).tolist():
        rows = np.flatnonzero(vec.valid & (vec.precision == precision))
        branches.append((rows, _shift(vec.take(rows), np.full(len(rows), sign, dtype=np.int64), precision)))
    if branches:
        from fhir_gateway.cql.values import select

        result = select(len(vec), branches)
    return result if not isinstance(result, NullVec) else vec


def _aligned(left: Vec, right: Vec) -> tuple[TemporalVec, TemporalVec]:
    if not isinstance(left, TemporalVec) or not isinstance(right, TemporalVec):
        raise MeasureError(f"duration between {left.kind} and {right.kind}")
    if isinstance(left, DateVec) and isinstance(right, DateTimeVec):
        return to_datetime(left), right
    if isinstance(left, DateTimeVec) and isinstance(right, DateVec):
        return left, to_datetime(right)
    return left, right


def _whole_months(a: IntArray, b: IntArray, unit_ms: int) -> IntArray:
    """Whole calendar months from ``a`` to ``b`` (negative when ``b`` is earlier)."""
    per_day = DAY_MS // unit_ms

    def forward(x: IntArray, y: IntArray) -> IntArray:
        x_day, y_day = x // per_day, y // per_day
        x_month, y_month = months_of(x_day), months_of(y_day)
        x_rest = (x_day - month_start(x_month)) * per_day + x % per_day
        y_rest = (y_day - month_start(y_month)) * per_day + y % per_day
        return y_month - x_month - (y_rest < x_rest)

    return np.where(b >= a, forward(a, b), -forward(b, a))


def _duration(a: IntArray, b: IntArray, unit_ms: int, precision: int) -> IntArray:
    if precision in (YEAR, MONTH):
        months = _whole_months(a, b, unit_ms)
        return _truncate(months, 12) if precision == YEAR else months
    step = (7 * DAY_MS if precision == WEEK else MS_OF[precision]) // unit_ms
    return _truncate(b - a, max(step, 1))


def between(left: Vec, right: Vec, precision: int, measure: Any) -> Vec:
    """A count of periods between two values; a range where their precision leaves it open."""
    a, b = _aligned(left, right)
    if bool(np.array_equal(a.low, a.high)) and bool(np.array_equal(b.low, b.high)):
        return IntVec(measure(a.low, b.low, a.unit_ms, precision), a.valid & b.valid)
    least = measure(a.high, b.low, a.unit_ms, precision)
    most = measure(a.low, b.high, a.unit_ms, precision)
    return integer_between(least, most, a.valid & b.valid)


def _difference(a: IntArray, b: IntArray, unit_ms: int, precision: int) -> IntArray:
    return floor_to(b, unit_ms, precision) - floor_to(a, unit_ms, precision)


def _precision(call: Call) -> int:
    if call.precision is None:
        raise MeasureError("a duration needs a precision")
    return PRECISIONS[call.precision]


@operator("DurationBetween", "18.10")
def duration_between(call: Call, left: Vec, right: Vec) -> Vec:
    """Whole periods between two dates or times."""
    return between(left, right, _precision(call), _duration)


@operator("DifferenceBetween", "18.9")
def difference_between(call: Call, left: Vec, right: Vec) -> Vec:
    """Boundaries of a period crossed between two dates or times."""
    return between(left, right, _precision(call), _difference)


@operator("DateFrom", "18.6")
def date_from(call: Call, operand: Vec) -> Vec:
    """The date of a date-time."""
    if isinstance(operand, DateVec):
        return operand
    if not isinstance(operand, DateTimeVec):
        raise MeasureError(f"date from a {operand.kind}")
    return DateVec(operand.low // DAY_MS, operand.high // DAY_MS, np.minimum(operand.precision, DAY), operand.valid)


@operator("TimeFrom", "18.18")
def time_from(call: Call, operand: Vec) -> Vec:
    """The time of a date-time."""
    if not isinstance(operand, DateTimeVec):
        raise MeasureError(f"time from a {operand.kind}")
    known = operand.precision > DAY
    return TimeVec(operand.low % DAY_MS, operand.high % DAY_MS, operand.precision, operand.valid & known)


@operator("DateTimeComponentFrom", "18.7")
def component_from(call: Call, operand: Vec) -> Vec:
    """Year, month, day, hour ... of a date or time; null where the precision does not reach it."""
    if not isinstance(operand, TemporalVec):
        raise MeasureError(f"component of a {operand.kind}")
    precision = _precision(call)
    per_day = DAY_MS // operand.unit_ms
    days = operand.low // per_day
    if precision in (YEAR, MONTH):
        year, month = year_month(days)
        values = year if precision == YEAR else month
    elif precision == DAY:
        values = days - month_start(months_of(days)) + 1
    else:
        step = MS_OF[precision]
        values = operand.low // step % _CLOCK[precision]
    return IntVec(values, operand.valid & (operand.precision >= precision))


@operator("Now", "18.15", nulls="handled", fields=())
def now(call: Call) -> Vec:
    """The evaluation instant."""
    evaluation = call.evaluation
    ms = int(evaluation.now.timestamp() * 1000) + evaluation.offset_ms
    return DateTimeVec.exact(np.full(call.n, ms, dtype=np.int64))


@operator("Today", "18.20", nulls="handled", fields=())
def today(call: Call) -> Vec:
    """The date of the evaluation instant."""
    return date_from(call, now(call))


@operator("TimeOfDay", "18.19", nulls="handled", fields=())
def time_of_day(call: Call) -> Vec:
    """The time of the evaluation instant."""
    return time_from(call, now(call))


def _part(parts: dict[str, Vec], name: str, n: int) -> tuple[IntArray, BoolArray]:
    vec = parts.get(name)
    if isinstance(vec, IntVec):
        return vec.values, vec.valid
    return np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)


def _build_date(call: Call, parts: dict[str, Vec]) -> DateVec:
    n = call.n
    (year, has_year), (month, has_month), (day, has_day) = (_part(parts, k, n) for k in ("year", "month", "day"))
    precision = np.where(has_month & has_day, DAY, np.where(has_month, MONTH, YEAR)).astype(np.int64)
    low, high = span_of_days(year, np.where(has_month, month, 1), np.where(has_day, day, 1), precision)
    inside = (year >= 1) & (year <= 9999) & (~has_month | ((month >= 1) & (month <= 12)))
    length = month_start(months_of(low) + 1) - month_start(months_of(low))
    inside &= (precision < DAY) | (
        (day >= 1) & (day <= 31) & (low - month_start(months_of(low)) == day - 1) & (length > 0)
    )
    call.fail(has_year & ~inside, "a date that does not exist, or outside of the years 1 to 9999")
    return DateVec(np.where(inside, low, 0), np.where(inside, high, 0), precision, has_year & inside)


def _fields(call: Call, names: tuple[str, ...], operands: tuple[Vec, ...]) -> dict[str, Vec]:
    present = [name for name in names if call.node.elm.get(name) is not None]
    return dict(zip(present, operands, strict=True))


_DATE = ("year", "month", "day")
_TIME = ("hour", "minute", "second", "millisecond")


@operator("Date", "18.4", nulls="handled", fields=_DATE)
def date_(call: Call, *operands: Vec) -> Vec:
    """A date from its parts."""
    return _build_date(call, _fields(call, _DATE, operands))


@operator("DateTime", "18.8", nulls="handled", fields=(*_DATE, *_TIME, "timezoneOffset"))
def datetime_(call: Call, *operands: Vec) -> Vec:
    """A date-time from its parts, in the given offset or the one of the request."""
    parts = _fields(call, (*_DATE, *_TIME, "timezoneOffset"), operands)
    day = _build_date(call, parts)
    clock, precision = _clock(call, parts)
    precision = np.where((day.precision == DAY) & (precision >= 0), precision, day.precision)
    offset = parts.get("timezoneOffset")
    shift: Any = 0
    zone = None
    if isinstance(offset, DecVec | IntVec):
        scale = ONE if isinstance(offset, DecVec) else 1
        own = offset.values.astype(np.int64) * 3_600_000 // scale
        told = offset.valid & (precision > DAY)
        shift = np.where(told, call.evaluation.offset_ms - own, 0)
        zone = np.where(told, own, NO_ZONE)
    low = day.low * DAY_MS + np.where(precision > DAY, clock, 0) + shift
    span = np.select([precision == HOUR, precision == MINUTE], [MS_OF[HOUR], MS_OF[MINUTE]], 1)
    high = np.where(precision > DAY, low + span - 1, (day.high + 1) * DAY_MS - 1)
    return DateTimeVec(low, high, np.where(precision == SECOND, MILLISECOND, precision), day.valid, zone)


@operator("TimezoneOffsetFrom", "18.19")
@operator("TimezoneFrom", "18.19")  # the name of the node before CQL 1.3
def timezone_offset_from(call: Call, operand: Vec) -> Vec:
    """Hours from UTC of a date-time as it was written; the request's where it was written without."""
    if not isinstance(operand, DateTimeVec):
        raise MeasureError(f"time zone offset of a {operand.kind}")
    own = np.full(call.n, NO_ZONE) if operand.zone is None else operand.zone
    return DecVec(np.where(own == NO_ZONE, call.evaluation.offset_ms, own) * ONE // 3_600_000, operand.valid)


def _clock(call: Call, parts: dict[str, Vec]) -> tuple[IntArray, IntArray]:
    """Milliseconds of the day and the finest part given (-1 for none)."""
    n = call.n
    total, precision, going = np.zeros(n, dtype=np.int64), np.full(n, -1, dtype=np.int64), np.ones(n, dtype=bool)
    for name, level in zip(_TIME, (HOUR, MINUTE, SECOND, MILLISECOND), strict=True):
        value, ok = _part(parts, name, n)
        going = going & ok
        call.fail(going & ((value < 0) | (value >= _CLOCK[level])), "a time that does not exist")
        total += np.where(going, value, 0) * MS_OF[level]
        precision = np.where(going, level, precision)
    return total, precision


@operator("Time", "18.17", nulls="handled", fields=_TIME)
def time_(call: Call, *operands: Vec) -> Vec:
    """A time from its parts."""
    parts = _fields(call, _TIME, operands)
    clock, precision = _clock(call, parts)
    span = np.select([precision == HOUR, precision == MINUTE], [MS_OF[HOUR], MS_OF[MINUTE]], 1)
    return TimeVec(clock, clock + span - 1, np.where(precision == SECOND, MILLISECOND, precision), precision >= 0)


def age(birth: Vec, at: Vec, precision: int) -> Vec:
    """Whole periods from birth to a date."""
    if isinstance(birth, DateVec) and isinstance(at, DateTimeVec) and precision <= DAY:
        at = DateVec(at.low // DAY_MS, at.high // DAY_MS, np.minimum(at.precision, DAY), at.valid)
    return between(birth, at, precision, _duration)


__all__ = ["add_quantity", "age", "shift_own_precision", "today"]
