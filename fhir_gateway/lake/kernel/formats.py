"""Formats of FHIR's primitives, as narrow as the regular expressions of ``primitives`` or narrower."""

from __future__ import annotations

import numpy as np

from fhir_gateway.lake.kernel.machine import compiled
from fhir_gateway.lake.kernel.tables import BASE64, CODE, DATE, DATETIME, ID, INSTANT, OID, TIME, URI, UUID
from fhir_gateway.lake.kernel.texts import BLANK, COLON, MINUS, NINE, PLUS, POINT, ZERO, begins, digits_value

_UUID_PREFIX = np.frombuffer(b"urn:uuid:", np.uint8)
_OID_PREFIX = np.frombuffer(b"urn:oid:", np.uint8)


@compiled
def _month_length(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


@compiled
def _date(text: np.ndarray, start: int, end: int) -> bool:
    length = end - start
    if length != 4 and length != 7 and length != 10:
        return False
    year = digits_value(text, start, start + 4)
    if year < 1:
        return False
    if length == 4:
        return True
    month = digits_value(text, start + 5, start + 7)
    if text[start + 4] != MINUS or month < 1 or month > 12:
        return False
    if length == 7:
        return True
    day = digits_value(text, start + 8, end)
    return text[start + 7] == MINUS and 1 <= day <= _month_length(year, month)


@compiled
def clock_end(text: np.ndarray, start: int, end: int) -> int:
    """End of the time that begins at ``start``; -1 when it is none."""
    if end - start < 8 or text[start + 2] != COLON or text[start + 5] != COLON:
        return -1
    hour, minute = digits_value(text, start, start + 2), digits_value(text, start + 3, start + 5)
    second = digits_value(text, start + 6, start + 8)
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 60:
        return -1
    at = start + 8
    if at < end and text[at] == POINT:
        at += 1
        first = at
        while at < end and ZERO <= text[at] <= NINE:
            at += 1
        if at == first:
            return -1
    return at


@compiled
def _instant(text: np.ndarray, start: int, end: int) -> bool:
    if end - start < 20 or text[start + 10] != 84 or not _date(text, start, start + 10):
        return False
    at = clock_end(text, start + 11, end)
    if at < 0 or at >= end:
        return False
    if text[at] == 90:
        return at + 1 == end
    if end - at != 6 or (text[at] != PLUS and text[at] != MINUS) or text[at + 3] != COLON:
        return False
    hour, minute = digits_value(text, at + 1, at + 3), digits_value(text, at + 4, end)
    return (0 <= hour <= 13 and 0 <= minute <= 59) or (hour == 14 and minute == 0)


@compiled
def fits(text: np.ndarray, start: int, end: int, format: int, blank: bool) -> bool:
    """Whether ASCII text has a format; never when any regular expression of ``primitives`` would refuse it.

    ``blank`` says that there is one in it.
    """
    if not blank and (format == URI or format == CODE):
        return True
    if format == ID:
        if end - start > 64:
            return False
        for i in range(start, end):
            c = text[i]
            if not (97 <= c <= 122 or ZERO <= c <= NINE or 65 <= c <= 90 or c == MINUS or c == POINT):
                return False
        return True
    if format == URI:
        return False
    if format == CODE:
        after_blank = True
        for i in range(start, end):
            if text[i] == BLANK:
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
            c = text[i]
            if not (97 <= c <= 122 or ZERO <= c <= NINE or 65 <= c <= 90 or c == PLUS or c == 47 or c == 61):
                return False
        return (end - start) % 4 == 0
    if format == UUID:
        if end - start != 45 or not begins(text, start, _UUID_PREFIX):
            return False
        for i in range(36):
            c = text[start + 9 + i]
            if i == 8 or i == 13 or i == 18 or i == 23:
                if c != MINUS:
                    return False
            elif not (ZERO <= c <= NINE or 97 <= c <= 102 or 65 <= c <= 70):
                return False
        return True
    if format == OID:
        if end - start < 11 or not begins(text, start, _OID_PREFIX) or not 48 <= text[start + 8] <= 50:
            return False
        at = start + 9
        while at < end:
            first = at + 1
            at = first
            while at < end and ZERO <= text[at] <= NINE:
                at += 1
            if text[first - 1] != POINT or at == first or (at - first > 1 and text[first] == ZERO):
                return False
        return True
    return False
