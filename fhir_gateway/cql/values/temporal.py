"""Dates, DateTimes and Times with their precision.

A DateTime is the span of milliseconds it can mean, on the local clock of the evaluation request (CQL 1.5, comparison
of DateTimes: values are normalised to the time zone offset of the request): ``low`` = ``high`` when it is known to the
second. A Date is a span of days, a Time a span of milliseconds of a day. Seconds and milliseconds are one precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

import numpy as np

from fhir_gateway.cql.values.base import AnyArray, BoolArray, IntArray, Vec, gather, gather_valid

YEAR, MONTH, WEEK, DAY, HOUR, MINUTE, SECOND, MILLISECOND = 0, 1, 2, 3, 4, 5, 6, 7
PRECISIONS = {
    "Year": YEAR,
    "Month": MONTH,
    "Week": WEEK,
    "Day": DAY,
    "Hour": HOUR,
    "Minute": MINUTE,
    "Second": SECOND,
    "Millisecond": MILLISECOND,
}
MS_OF = {DAY: 86_400_000, HOUR: 3_600_000, MINUTE: 60_000, SECOND: 1_000, MILLISECOND: 1}
DAY_MS = 86_400_000

#: CQL's smallest and largest DateTime and Date (years 1 and 9999) as milliseconds and days of the epoch.
MIN_DAY, MAX_DAY = -719_162, 2_932_896
MIN_MS, MAX_MS = MIN_DAY * DAY_MS, (MAX_DAY + 1) * DAY_MS - 1


class TemporalVec(Vec):
    """Low and high ends of the span a value can mean, and its precision."""

    unit_ms: int  # milliseconds of one unit of ``low`` and ``high``
    finest: int
    __slots__ = ("_valid", "high", "low", "precision")

    def __init__(self, low: IntArray, high: IntArray, precision: IntArray, valid: BoolArray) -> None:
        self.low, self.high, self.precision, self._valid = low, high, precision, valid

    def __len__(self) -> int:
        """Rows of the frame."""
        return len(self.low)

    @property
    def valid(self) -> BoolArray:
        """True where the row is not null."""
        return self._valid

    def take(self, index: IntArray) -> Self:
        """Rows at ``index``; -1 gives null."""
        return type(self)(
            gather(self.low, index),
            gather(self.high, index),
            gather(self.precision, index),
            gather_valid(self._valid, index),
        )

    @classmethod
    def concat(cls, parts: Sequence[Any]) -> Vec:
        """Rows of all parts."""
        return cls(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("low", "high", "precision", "valid")))

    @classmethod
    def exact(cls, values: IntArray, valid: BoolArray | None = None) -> Self:
        """Values known to the finest precision of the type."""
        ok = np.ones(len(values), dtype=bool) if valid is None else valid
        return cls(values, values, np.full(len(values), cls.finest, dtype=np.int64), ok)

    def key_columns(self) -> tuple[AnyArray, ...]:
        """Ends of the span (a value of coarser precision differs from one within it)."""
        return (self.low, self.high)


class DateVec(TemporalVec):
    """System.Date: days since 1970-01-01."""

    kind = "Date"
    unit_ms = DAY_MS
    finest = DAY
    __slots__ = ()

    def pylist(self) -> list[Any]:
        """ISO text at the precision of the value."""
        width = {YEAR: 4, MONTH: 7, DAY: 10}
        return [
            (date(1970, 1, 1) + timedelta(days=low)).isoformat()[: width[p]] if ok else None
            for low, p, ok in zip(self.low.tolist(), self.precision.tolist(), self._valid.tolist(), strict=True)
        ]


#: No offset was written with a date-time: it is on the request's clock.
NO_ZONE = np.iinfo(np.int64).min


class DateTimeVec(TemporalVec):
    """System.DateTime: milliseconds since 1970-01-01T00:00 on the request's clock.

    ``zone`` are the offsets (milliseconds) that the values were written with, where an expression may ask for them;
    nothing else depends on them.
    """

    kind = "DateTime"
    unit_ms = 1
    finest = MILLISECOND
    __slots__ = ("zone",)

    def __init__(
        self, low: IntArray, high: IntArray, precision: IntArray, valid: BoolArray, zone: IntArray | None = None
    ) -> None:
        super().__init__(low, high, precision, valid)
        self.zone = zone

    def take(self, index: IntArray) -> Self:
        """Rows at ``index``; -1 gives null."""
        taken = super().take(index)
        if self.zone is not None:
            taken.zone = gather(self.zone, index)
        return taken

    @classmethod
    def concat(cls, parts: Sequence[Any]) -> Vec:
        """Rows of all parts."""
        joined = super().concat(parts)
        if isinstance(joined, DateTimeVec) and any(p.zone is not None for p in parts):
            joined.zone = np.concatenate([p.zone if p.zone is not None else np.full(len(p), NO_ZONE) for p in parts])
        return joined

    def pylist(self) -> list[Any]:
        """ISO text (local to the request, without offset) at the precision of the value."""
        width = {YEAR: 4, MONTH: 7, DAY: 10, HOUR: 13, MINUTE: 16, SECOND: 19, MILLISECOND: 23}
        return [
            (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=low))
            .replace(tzinfo=None)
            .isoformat(timespec="milliseconds")[: width[p]]
            if ok
            else None
            for low, p, ok in zip(self.low.tolist(), self.precision.tolist(), self._valid.tolist(), strict=True)
        ]


class TimeVec(TemporalVec):
    """System.Time: milliseconds since midnight."""

    kind = "Time"
    unit_ms = 1
    finest = MILLISECOND
    __slots__ = ()

    def pylist(self) -> list[Any]:
        """ISO text."""
        return [
            (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=low)).time().isoformat(timespec="milliseconds")
            if ok
            else None
            for low, ok in zip(self.low.tolist(), self._valid.tolist(), strict=True)
        ]


def year_month(days: IntArray) -> tuple[IntArray, IntArray]:
    """Calendar year and month (1-12) of days since the epoch."""
    months = days.astype("M8[D]").astype("M8[M]").astype(np.int64)
    return months // 12 + 1970, months % 12 + 1


def month_start(months: IntArray) -> IntArray:
    """First day of months counted from 1970-01, as days since the epoch."""
    return months.astype("M8[M]").astype("M8[D]").astype(np.int64)


def months_of(days: IntArray) -> IntArray:
    """Months since 1970-01 of days since the epoch."""
    return days.astype("M8[D]").astype("M8[M]").astype(np.int64)


def floor_to(values: IntArray, unit_ms: int, precision: int) -> IntArray:
    """Number of whole ``precision`` units since the epoch (years, months, days ... milliseconds)."""
    if precision in (YEAR, MONTH):
        months = months_of(values // (DAY_MS // unit_ms))
        return months // 12 if precision == YEAR else months
    if precision == WEEK:
        return (values // (DAY_MS // unit_ms) + 4) // 7  # weeks begin on Sunday
    step = MS_OF[precision]
    return values // (step // unit_ms) if step > unit_ms else values


def span_of_days(year: IntArray, month: IntArray, day: IntArray, precision: IntArray) -> tuple[IntArray, IntArray]:
    """First and last day that a date of the given precision can mean."""
    month = np.where(precision >= MONTH, month, 1)
    first_month = (year - 1970) * 12 + month - 1
    start = month_start(first_month)
    low = np.where(precision >= DAY, start + np.where(precision >= DAY, day, 1) - 1, start)
    after = month_start(np.where(precision == YEAR, first_month + 12, first_month + 1))
    return low, np.where(precision >= DAY, low, after - 1)


def _digits(data: AnyArray, start: IntArray, count: int) -> IntArray:
    value = np.zeros(len(start), dtype=np.int64)
    for k in range(count):
        value = value * 10 + (data[start + k].astype(np.int64) - 48)
    return value


def _text_bytes(array: Any) -> tuple[AnyArray, IntArray, IntArray, BoolArray]:
    valid = np.asarray(array.is_valid())
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    start = offsets[:-1].astype(np.int64)
    length = np.where(valid, np.diff(offsets).astype(np.int64), 0)
    buffer = array.buffers()[2]
    data = np.frombuffer(buffer, dtype=np.uint8) if buffer is not None else np.zeros(0, dtype=np.uint8)
    return np.concatenate([data, np.full(32, 48, dtype=np.uint8)]), start, length, valid


def _precision_of_length(length: IntArray) -> IntArray:
    return np.select([length <= 4, length <= 7, length <= 10], [YEAR, MONTH, DAY], SECOND).astype(np.int64)


def parse_dates(array: Any) -> DateVec:
    """Days of FHIR ``date`` texts (already checked on ingest) in an Arrow string array."""
    data, start, length, valid = _text_bytes(array)
    precision = np.minimum(_precision_of_length(length), DAY)
    low, high = span_of_days(
        _digits(data, start, 4), _digits(data, start + 5, 2), _digits(data, start + 8, 2), precision
    )
    return DateVec(np.where(valid, low, 0), np.where(valid, high, 0), precision, valid)


def parse_datetimes(array: Any, offset_ms: int, zones: bool = False) -> DateTimeVec:
    """Milliseconds on the request's clock of FHIR ``dateTime`` or ``instant`` texts in an Arrow string array.

    ``offset_ms`` is the time zone offset of the evaluation request. A text without offset is taken as local to it.
    With ``zones`` the offsets as written are kept as well.
    """
    data, start, length, valid = _text_bytes(array)
    precision = _precision_of_length(length)
    day_precision = np.minimum(precision, DAY)
    low_day, high_day = span_of_days(
        _digits(data, start, 4), _digits(data, start + 5, 2), _digits(data, start + 8, 2), day_precision
    )
    timed = valid & (length > 10)
    clock = np.zeros(len(start), dtype=np.int64)
    shift = np.zeros(len(start), dtype=np.int64)
    span = np.ones(len(start), dtype=np.int64)
    zone = np.full(len(start), NO_ZONE) if zones else None
    if timed.any():
        at, size = start[timed], length[timed]
        has_minute = (size > 13) & (data[at + 13] == 58)
        hour, minute = _digits(data, at + 11, 2), np.where(has_minute, _digits(data, at + 14, 2), 0)
        has_second = has_minute & (size > 16) & (data[at + 16] == 58)
        second = np.where(has_second, _digits(data, at + 17, 2), 0)
        fraction, scale = np.zeros(len(at), dtype=np.int64), np.full(len(at), 100, dtype=np.int64)
        going = (size > 19) & (data[at + 19] == 46)
        for k in range(20, 23):
            digit = data[at + k]
            going &= (digit >= 48) & (digit <= 57) & (size > k)
            fraction += np.where(going, (digit.astype(np.int64) - 48) * scale, 0)
            scale //= 10
        end = at + size
        zulu = data[end - 1] == 90
        sign = data[end - 6]
        offset = (_digits(data, end - 5, 2) * 60 + _digits(data, end - 2, 2)) * 60_000
        signed = (size >= 19) & ((sign == 43) | (sign == 45)) & ~zulu
        own = np.where(signed, np.where(sign == 45, -offset, offset), np.where(zulu, 0, offset_ms))
        span[timed] = np.where(has_second, 1, np.where(has_minute, MS_OF[MINUTE], MS_OF[HOUR]))
        clock[timed] = ((hour * 60 + minute) * 60 + second) * 1000 + fraction
        shift[timed] = offset_ms - own
        if zone is not None:
            zone[timed] = np.where(signed | zulu, own, NO_ZONE)
    precise = precision == SECOND
    precision = np.where(precise, MILLISECOND, precision)
    low = np.where(precise, low_day * DAY_MS + clock + shift, low_day * DAY_MS)
    high = np.where(precise, low + span - 1, (high_day + 1) * DAY_MS - 1)
    precision = np.where(precise & (span > 1), np.where(span == MS_OF[HOUR], HOUR, MINUTE), precision)
    return DateTimeVec(np.where(valid, low, 0), np.where(valid, high, 0), precision, valid, zone)


def parse_times(array: Any) -> TimeVec:
    """Milliseconds of ``time`` texts: FHIR's ``hh:mm:ss[.fff]``, and CQL's ``T`` before and coarser precisions."""
    data, start, length, valid = _text_bytes(array)
    lettered = (length > 0) & (data[start] == 84)
    start, length = start + lettered, length - lettered
    minute = (length > 2) & (data[start + 2] == 58)
    second = minute & (length > 5) & (data[start + 5] == 58)
    base = (_digits(data, start, 2) * 60 + _digits(data, start + 3, 2)) * 60 + _digits(data, start + 6, 2)
    fraction, scale, going = np.zeros(len(start), dtype=np.int64), 100, length > 8
    for k in range(9, 12):
        digit = data[start + k]
        going = going & (digit >= 48) & (digit <= 57) & (length > k)
        fraction += np.where(going, (digit.astype(np.int64) - 48) * scale, 0)
        scale //= 10
    if not bool(np.all(second | ~valid)):
        return _coarse_times(data, start, valid, minute, second, fraction)
    return TimeVec.exact(np.where(valid, base * 1000 + fraction, 0), valid)


def _coarse_times(
    data: AnyArray, start: IntArray, valid: BoolArray, minute: BoolArray, second: BoolArray, fraction: IntArray
) -> TimeVec:
    """Times of which some are known to the hour or minute only (never in FHIR data)."""
    low = _digits(data, start, 2) * 60 + np.where(minute, _digits(data, start + 3, 2), 0)
    low = (low * 60 + np.where(second, _digits(data, start + 6, 2), 0)) * 1000 + np.where(second, fraction, 0)
    precision = np.where(second, MILLISECOND, np.where(minute, MINUTE, HOUR))
    span = np.where(second, 1, np.where(minute, MS_OF[MINUTE], MS_OF[HOUR]))
    low = np.where(valid, low, 0)
    return TimeVec(low, low + span - 1, precision.astype(np.int64), valid)
