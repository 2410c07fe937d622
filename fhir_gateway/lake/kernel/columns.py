"""Arrow's buffers from events."""

from __future__ import annotations

import numpy as np

from fhir_gateway.lake.kernel.machine import compiled, copy
from fhir_gateway.lake.kernel.tables import Events
from fhir_gateway.lake.kernel.texts import BACKSLASH, MINUS, NINE, POINT, ZERO, whole


@compiled
def sort_events(events: Events, bounds: np.ndarray, target: Events) -> None:
    """Bring events in the order of their columns; ``bounds`` are the columns' ends' running counts, moved on."""
    for i in range(len(events.column)):
        at = bounds[events.column[i]]
        bounds[events.column[i]] = at + 1
        target.column[at] = events.column[i]
        target.row[at] = events.row[i]
        target.start[at] = events.start[i]
        target.length[at] = events.length[i]


@compiled
def mark(rows: np.ndarray, bitmap: np.ndarray) -> None:
    """Set the bits of rows in an Arrow validity bitmap."""
    for i in range(len(rows)):
        bitmap[rows[i] >> 3] |= 1 << (rows[i] & 7)


@compiled
def texts(
    text: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    offsets: np.ndarray,
    target: np.ndarray,
) -> int:
    """Strings of a column, escapes resolved; ``offsets`` is one longer than the column, answers their bytes.

    ``target`` needs 7 bytes more than the strings have.
    """
    at = 0
    row = 0
    for i in range(len(rows)):
        while row <= rows[i]:
            offsets[row] = at
            row += 1
        start, length = starts[i], lengths[i]
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
def wholes(text: np.ndarray, rows: np.ndarray, starts: np.ndarray, lengths: np.ndarray, out: np.ndarray) -> None:
    """Integers of a column."""
    for i in range(len(rows)):
        out[rows[i]] = whole(text, starts[i], starts[i] + lengths[i])


@compiled
def truths(text: np.ndarray, rows: np.ndarray, starts: np.ndarray, bitmap: np.ndarray) -> None:
    """Booleans of a column, as bits."""
    for i in range(len(rows)):
        if text[starts[i]] == 116:
            bitmap[rows[i] >> 3] |= 1 << (rows[i] & 7)


@compiled
def decimals(text: np.ndarray, rows: np.ndarray, starts: np.ndarray, lengths: np.ndarray, out: np.ndarray) -> None:
    """Decimals of a column, times 10^8, as pairs of 64 bits; what is beyond 8 decimals is rounded half up."""
    for i in range(len(rows)):
        at, end = starts[i], starts[i] + lengths[i]
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
        out[rows[i], 0], out[rows[i], 1] = low, high


@compiled
def _ten_times(low: int, high: int, digit: int) -> tuple[int, int]:
    """Ten times a 128-bit number plus a digit."""
    mask = np.uint64(0xFFFFFFFF)
    a = (low & mask) * np.uint64(10) + digit
    b = (low >> np.uint64(32)) * np.uint64(10) + (a >> np.uint64(32))
    return (a & mask) | (b << np.uint64(32)), high * np.uint64(10) + (b >> np.uint64(32))
