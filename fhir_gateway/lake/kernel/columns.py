"""Arrow's buffers from events."""

from __future__ import annotations

import numpy as np

from fhir_gateway.lake.kernel.machine import compiled, copy
from fhir_gateway.lake.kernel.tables import COLUMN_OF, EVENT_FIELDS, LENGTH_OF, ROW_OF, START_OF
from fhir_gateway.lake.kernel.texts import BACKSLASH, MINUS, NINE, POINT, ZERO, whole


@compiled
def count_events(events: np.ndarray, counts: np.ndarray) -> None:
    """How many events each column has."""
    for i in range(len(events)):
        counts[events[i, COLUMN_OF]] += 1


@compiled
def sort_events(events: np.ndarray, bounds: np.ndarray, target: np.ndarray) -> None:
    """Bring events in the order of their columns; ``bounds`` are the columns' ends' running counts, moved on."""
    for i in range(len(events)):
        column = events[i, COLUMN_OF]
        at = bounds[column]
        bounds[column] = at + 1
        for field in range(EVENT_FIELDS):
            target[at, field] = events[i, field]


@compiled
def mark(events: np.ndarray, bitmap: np.ndarray) -> None:
    """Set the bits of rows in an Arrow validity bitmap."""
    for i in range(len(events)):
        row = events[i, ROW_OF]
        bitmap[row >> 3] |= 1 << (row & 7)


@compiled
def ends(events: np.ndarray, offsets: np.ndarray) -> None:
    """Where the lists of a column begin and end; ``offsets`` is one longer than the column."""
    at = 0
    row = 0
    for i in range(len(events)):
        while row <= events[i, ROW_OF]:
            offsets[row] = at
            row += 1
        at += events[i, LENGTH_OF]
    while row < len(offsets):
        offsets[row] = at
        row += 1


@compiled
def size(events: np.ndarray) -> int:
    """Bytes of a column's strings, at most."""
    total = 0
    for i in range(len(events)):
        total += abs(events[i, LENGTH_OF])
    return total


@compiled
def texts(text: np.ndarray, events: np.ndarray, offsets: np.ndarray, target: np.ndarray) -> int:
    """Strings of a column, escapes resolved; ``offsets`` is one longer than the column, answers their bytes.

    ``target`` needs 7 bytes more than the strings have.
    """
    at = 0
    row = 0
    for i in range(len(events)):
        while row <= events[i, ROW_OF]:
            offsets[row] = at
            row += 1
        start, length = events[i, START_OF], events[i, LENGTH_OF]
        if length >= 0:
            copy(text, start, target, at, length)
            at += length
        else:
            at = _unescape(text, start, start - length, target, at)
    while row < len(offsets):
        offsets[row] = at
        row += 1
    return at


@compiled
def _unescape(text: np.ndarray, start: int, end: int, target: np.ndarray, at: int) -> int:
    """Write a string without its escapes; answers where the next may begin. Never longer than the text."""
    i = start
    while i < end:
        c = text[i]
        i += 1
        if c != BACKSLASH:
            target[at] = c
            at += 1
            continue
        c = text[i]
        i += 1
        if c == 117:
            code = 0
            for _ in range(4):
                c = text[i]
                code = code * 16 + (c - ZERO if c <= NINE else (c | 32) - 87)
                i += 1
            if code < 0x80:
                target[at] = code
                at += 1
            elif code < 0x800:
                target[at], target[at + 1] = 0xC0 | code >> 6, 0x80 | code & 63
                at += 2
            else:
                target[at], target[at + 1], target[at + 2] = 0xE0 | code >> 12, 0x80 | code >> 6 & 63, 0x80 | code & 63
                at += 3
            continue
        if c == 98:
            c = 8
        elif c == 102:
            c = 12
        elif c == 110:
            c = 10
        elif c == 114:
            c = 13
        elif c == 116:
            c = 9
        target[at] = c
        at += 1
    return at


@compiled
def wholes(text: np.ndarray, events: np.ndarray, out: np.ndarray) -> None:
    """Integers of a column."""
    for i in range(len(events)):
        start = events[i, START_OF]
        out[events[i, ROW_OF]] = whole(text, start, start + events[i, LENGTH_OF])


@compiled
def truths(text: np.ndarray, events: np.ndarray, bitmap: np.ndarray) -> None:
    """Booleans of a column, as bits."""
    for i in range(len(events)):
        if text[events[i, START_OF]] == 116:
            row = events[i, ROW_OF]
            bitmap[row >> 3] |= 1 << (row & 7)


@compiled
def decimals(text: np.ndarray, events: np.ndarray, out: np.ndarray) -> None:
    """Decimals of a column, times 10^8, as pairs of 64 bits; what is beyond 8 decimals is rounded half up."""
    for i in range(len(events)):
        at = events[i, START_OF]
        end = at + events[i, LENGTH_OF]
        negative = text[at] == MINUS
        if negative:
            at += 1
        low, high = np.uint64(0), np.uint64(0)
        places = -1  # digits after the point so far, -1 before it
        up = False
        while at < end:
            c = text[at]
            at += 1
            if c == POINT:
                places = 0
                continue
            if places == 8:
                up = c >= 53
                break
            if places >= 0:
                places += 1
            low, high = _ten_times(low, high, np.uint64(c - ZERO))
        for _ in range(8 - max(places, 0)):
            low, high = _ten_times(low, high, np.uint64(0))
        if up:
            low += np.uint64(1)
            if low == 0:
                high += np.uint64(1)
        if negative:
            low, high = ~low + np.uint64(1), ~high
            if low == 0:
                high += np.uint64(1)
        row = events[i, ROW_OF]
        out[row, 0], out[row, 1] = low, high


@compiled
def _ten_times(low: int, high: int, digit: int) -> tuple[int, int]:
    """Ten times a 128-bit number plus a digit."""
    mask = np.uint64(0xFFFFFFFF)
    a = (low & mask) * np.uint64(10) + digit
    b = (low >> np.uint64(32)) * np.uint64(10) + (a >> np.uint64(32))
    return (a & mask) | (b << np.uint64(32)), high * np.uint64(10) + (b >> np.uint64(32))
