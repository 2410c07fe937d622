"""Formats of FHIR's primitives, as narrow as the regular expressions of ``primitives`` or narrower."""

from __future__ import annotations

import numpy as np

from fhir_gateway.lake.kernel.machine import byte, compiled, load, not_of_ids
from fhir_gateway.lake.kernel.tables import BASE64, CODE, DATE, DATETIME, ID, INSTANT, OID, TIME, URI, UUID
from fhir_gateway.lake.kernel.texts import BLANK, COLON, MINUS, NINE, PLUS, POINT, ZERO, begins, digits_value

_UUID_PREFIX = np.frombuffer(b"urn:uuid:", np.uint8)
_OID_PREFIX = np.frombuffer(b"urn:oid:", np.uint8)


def _spread(kinds: bytes, digit: int, other: int) -> np.uint64:
    """Eight bytes as a number, one for each letter: ``digit`` for each 0, ``other`` for all else."""
    return np.uint64(int.from_bytes(bytes(digit if kind == ZERO else other for kind in kinds), "little"))


# eight characters at once: without their layout digits are 0 to 9 and all else is 0, and what is more reaches the
# highest bit of its byte when this is added
_YEAR_MONTH = np.uint64(int.from_bytes(b"0000-00-", "little"))
_YEAR_MONTH_ROOM = _spread(b"0000-00-", 0x76, 0x7F)
_DAY_CLOCK = np.uint64(int.from_bytes(b"00T00:00", "little"))
_DAY_CLOCK_ROOM = _spread(b"00T00:00", 0x76, 0x7F)
_HIGHEST = np.uint64(0x8080808080808080)
_DAY_ONLY = np.uint64(0xFFFF)


@compiled
def _exceeds(found: int, room: int) -> bool:
    """Whether any of eight characters, less their layout, is more than it may be."""
    exceeding: bool = ((found + room) | found) & _HIGHEST != 0
    return exceeding


@compiled
def _two(found: int, at: int) -> int:
    """The number of two digits, the first in the byte ``at``."""
    return ((np.int64(found) >> 8 * at) & 15) * 10 + ((np.int64(found) >> 8 * (at + 1)) & 15)


@compiled
def _month_length(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


@compiled
def _day(text: np.ndarray, start: int, later: int) -> bool:
    """Whether a whole date begins at ``start``; ``later`` is what is from its day on, less its layout."""
    found = load(text, start) ^ _YEAR_MONTH
    if _exceeds(found, _YEAR_MONTH_ROOM) or np.int64(found) & 0xFFFFFFFF == 0:
        return False
    month, day = _two(found, 5), _two(later, 0)
    if month < 1 or month > 12 or day < 1:
        return False
    return day <= 28 or day <= _month_length(100 * _two(found, 0) + _two(found, 2), month)


@compiled
def _date(text: np.ndarray, start: int, end: int) -> bool:
    length = end - start
    if length == 10:
        later = (load(text, start + 8) ^ _DAY_CLOCK) & _DAY_ONLY
        return not _exceeds(later, _DAY_CLOCK_ROOM & _DAY_ONLY) and _day(text, start, later)
    if length != 4 and length != 7:
        return False
    if digits_value(text, start, start + 4) < 1:
        return False
    if length == 4:
        return True
    month = digits_value(text, start + 5, start + 7)
    return byte(text, start + 4) == MINUS and 1 <= month <= 12


@compiled
def clock_end(text: np.ndarray, start: int, end: int) -> int:
    """End of the time that begins at ``start``; -1 when it is none."""
    if end - start < 8 or byte(text, start + 2) != COLON or byte(text, start + 5) != COLON:
        return -1
    hour, minute = digits_value(text, start, start + 2), digits_value(text, start + 3, start + 5)
    if hour < 0 or hour > 23 or minute < 0 or minute > 59:
        return -1
    return _seconds_end(text, start + 6, end)


@compiled
def _seconds_end(text: np.ndarray, start: int, end: int) -> int:
    """End of the seconds that begin at ``start``, with their fraction; -1 when there are none."""
    if not 0 <= digits_value(text, start, start + 2) <= 60:
        return -1
    at = start + 2
    if at < end and byte(text, at) == POINT:
        at += 1
        first = at
        while at < end and ZERO <= byte(text, at) <= NINE:
            at += 1
        if at == first:
            return -1
    return at


@compiled
def _instant(text: np.ndarray, start: int, end: int) -> bool:
    later = load(text, start + 8) ^ _DAY_CLOCK
    if end - start < 20 or _exceeds(later, _DAY_CLOCK_ROOM) or not _day(text, start, later):
        return False
    if _two(later, 3) > 23 or _two(later, 6) > 59 or byte(text, start + 16) != COLON:
        return False
    at = _seconds_end(text, start + 17, end)
    if at < 0 or at >= end:
        return False
    if byte(text, at) == 90:
        return at + 1 == end
    if end - at != 6 or (byte(text, at) != PLUS and byte(text, at) != MINUS) or byte(text, at + 3) != COLON:
        return False
    hour, minute = digits_value(text, at + 1, at + 3), digits_value(text, at + 4, end)
    return (0 <= hour <= 13 and 0 <= minute <= 59) or (hour == 14 and minute == 0)


@compiled
def is_id(text: np.ndarray, start: int, end: int) -> bool:
    """Whether a piece of a text is an id; reads up to 64 bytes."""
    length = end - start
    if length < 1 or length > 64:
        return False
    other: int = not_of_ids(text, start)
    if length <= 32:
        return other & ((1 << length) - 1) == 0
    other |= not_of_ids(text, start + 32) & ((1 << (length - 32)) - 1)
    return other == 0


@compiled
def fits(text: np.ndarray, start: int, end: int, format: int, blank: bool) -> bool:
    """Whether ASCII text has a format; never when any regular expression of ``primitives`` would refuse it.

    ``blank`` says that there is one in it.
    """
    if not blank and (format == URI or format == CODE):
        return True
    if format == ID:
        return is_id(text, start, end)
    if format == URI:
        return False
    if format == CODE:
        after_blank = True
        for i in range(start, end):
            if byte(text, i) == BLANK:
                if after_blank:
                    return False
                after_blank = True
            else:
                after_blank = False
        return not after_blank
    if format == DATETIME:
        return _date(text, start, end) if end - start <= 10 else _instant(text, start, end)
    if format == DATE:
        return _date(text, start, end)
    if format == INSTANT:
        return _instant(text, start, end)
    if format == TIME:
        return clock_end(text, start, end) == end
    if format == BASE64:
        for i in range(start, end):
            c = byte(text, i)
            if not (97 <= c <= 122 or ZERO <= c <= NINE or 65 <= c <= 90 or c == PLUS or c == 47 or c == 61):
                return False
        return (end - start) % 4 == 0
    if format == UUID:
        if end - start != 45 or not begins(text, start, _UUID_PREFIX):
            return False
        for i in range(36):
            c = byte(text, start + 9 + i)
            if i == 8 or i == 13 or i == 18 or i == 23:
                if c != MINUS:
                    return False
            elif not (ZERO <= c <= NINE or 97 <= c <= 102 or 65 <= c <= 70):
                return False
        return True
    if format == OID:
        if end - start < 11 or not begins(text, start, _OID_PREFIX) or not 48 <= byte(text, start + 8) <= 50:
            return False
        at = start + 9
        while at < end:
            first = at + 1
            at = first
            while at < end and ZERO <= byte(text, at) <= NINE:
                at += 1
            if byte(text, first - 1) != POINT or at == first or (at - first > 1 and byte(text, first) == ZERO):
                return False
        return True
    return False
