"""Arrow's buffers from the text of resources and what the walk said of it.

Each column has its places in one piece of memory, the *arena*: bits that say which rows it has, 32-bit offsets of lists
and strings, and its values. What a resource says is put there right after it was read, while it is in the processor's
cache.
"""

from __future__ import annotations

import numpy as np

from fhir_gateway.lake.kernel.machine import byte, compiled, copy_wide, item, pread, preadv, put
from fhir_gateway.lake.kernel.tables import (
    COLUMN_BITS,
    ESCAPED,
    FAR,
    GAP_AT,
    GAP_BITS,
    LENGTH_AT,
)
from fhir_gateway.lake.kernel.texts import BACKSLASH, MINUS, NINE, POINT, ZERO, whole

# kinds of columns; a skipped one is not among those to be made, and those from REPEATED on are values or objects in a
# list, each of which is a row of its own
SKIPPED, STRUCT, LIST, STRING, TRUTH, WHOLE, NUMBER, SKIPPED_LIST, REPEATED = 0, 1, 2, 3, 4, 5, 6, 7, 8
# fields of a column: what it is; the level its rows are counted in; where its bits, offsets and values begin in the
# arena (each counted in its own size; -1 for bits where every row has a value); the next row to get an offset; bytes or
# items so far; events
KIND, LEVEL, BITS, OFFSETS, VALUES, ROW, SIZE, COUNT = 0, 1, 2, 3, 4, 5, 6, 7
COLUMN_FIELDS = 8

# texts that are read at once: so many, of so many bytes, with so many bytes between two of them
RUN, _RUN_BYTES, _BETWEEN = 64, 1 << 17, 64

_COLUMN = (1 << COLUMN_BITS) - 1
_GAP = (1 << GAP_BITS) - 1


@compiled
def read_events(file: int, places: np.ndarray, counts: np.ndarray, address: int, room: int) -> int:
    """Read the events of resources to ``address``, one resource's after another's; answers the one that fails or -1.

    ``places`` is where they lie in an open file: those that lie after one another are read at once.
    """
    at = 0
    i = 0
    while i < len(places):
        first = i
        begin = places[i]
        size = 8 * counts[i]
        i += 1
        while i < len(places) and places[i] == begin + size:
            size += 8 * counts[i]
            i += 1
        if size:
            if at + size > room or pread(file, address + at, size, begin) != size:
                return first
            at += size
    return -1


@compiled
def count(events: np.ndarray, columns: np.ndarray) -> None:
    """How many events each column has, and how many bytes at most its strings."""
    for i in range(len(events)):
        event = events[i]
        if not event & FAR:
            c = COLUMN_FIELDS * (event & _COLUMN)
            put(columns, c + COUNT, item(columns, c + COUNT) + 1)
            put(columns, c + SIZE, item(columns, c + SIZE) + (event >> LENGTH_AT))


@compiled
def gather(
    file: int,
    starts: np.ndarray,
    lengths: np.ndarray,
    told: np.ndarray,
    odd: np.ndarray,
    text: np.ndarray,
    address: int,
    offsets: np.ndarray,
    events: np.ndarray,
    root: int,
    columns: np.ndarray,
    levels: np.ndarray,
    arena: np.ndarray,
    halves: np.ndarray,
    words: np.ndarray,
    pieces: np.ndarray,
    pieces_address: int,
) -> int:
    """Read resources of an open file into ``text`` (at ``address``), one after another, and lay their values down.

    Each has as many of the ``events`` as ``told`` says, the ``odd`` ones are only read. ``offsets`` (one longer than
    there are resources) receives where each is. ``root`` is the level of the resources, ``levels`` counts rows.
    ``halves`` and ``words`` are the arena in steps of 4 and 8 bytes. Resources that lie one after another are read at
    once: for that ``pieces`` (at ``pieces_address``) has 2 * RUN rows of two numbers, and 64 bytes more. Answers the
    one that cannot be read, or -1.
    """
    at = 0
    e = 0
    ready = 0
    for i in range(len(starts)):
        if i == ready:
            ready = _read_run(file, i, starts, lengths, at, text, address, pieces, pieces_address)
            if ready < 0:
                return i
        offsets[i] = at
        if not odd[i]:
            put(levels, root, item(levels, root) + 1)
            place = at
            end = e + told[i]
            while e < end:
                event = item(events, e)
                e += 1
                c = COLUMN_FIELDS * (event & _COLUMN)
                if event & FAR:
                    place += event >> COLUMN_BITS
                    continue
                place += (event >> GAP_AT) & _GAP
                kind = item(columns, c + KIND)
                size = event >> LENGTH_AT
                if kind == SKIPPED:
                    place += size
                    continue
                if kind == SKIPPED_LIST:  # what it says is how many, not how long
                    continue
                level = item(columns, c + LEVEL)
                row = item(levels, level)
                if kind >= REPEATED:
                    put(levels, level, row + 1)
                    kind -= REPEATED
                else:
                    row -= 1
                bits = item(columns, c + BITS)
                if bits >= 0:
                    bits += row >> 3
                    put(arena, bits, byte(arena, bits) | 1 << (row & 7))
                if kind == STRING:
                    had = item(columns, c + SIZE)
                    _offset(columns, c, row, had, bits, halves)
                    target = item(columns, c + VALUES) + had
                    if event & ESCAPED:
                        size_now = _unescape(text, place, place + size, arena, target) - target
                        put(columns, c + SIZE, had + size_now)
                    else:
                        copy_wide(text, place, arena, target, size)
                        put(columns, c + SIZE, had + size)
                    place += size
                elif kind == LIST:
                    had = item(columns, c + SIZE)
                    _offset(columns, c, row, had, bits, halves)
                    put(columns, c + SIZE, had + size)
                elif kind != STRUCT:
                    values = item(columns, c + VALUES)
                    if kind == WHOLE:
                        put(words, values + row, whole(text, place, place + size))
                    elif kind == NUMBER:
                        _number(text, place, place + size, words, values + 2 * row)
                    elif byte(text, place) == 116:
                        values += row >> 3
                        put(arena, values, byte(arena, values) | 1 << (row & 7))
                    place += size
        at += lengths[i]
    offsets[len(starts)] = at
    return -1


@compiled
def _read_run(
    file: int,
    first: int,
    starts: np.ndarray,
    lengths: np.ndarray,
    at: int,
    text: np.ndarray,
    address: int,
    pieces: np.ndarray,
    pieces_address: int,
) -> int:
    """Read the ``first`` resource and those that follow it in the file, too; answers which is the next, or -1."""
    i = first
    n = 0
    begin = end = starts[first]
    while i < len(starts) and i < first + RUN and end - begin < _RUN_BYTES:
        between = starts[i] - end
        if between < 0 or between > _BETWEEN or at + lengths[i] > len(text):
            break
        if between:
            pieces[n, 0], pieces[n, 1] = pieces_address + 32 * RUN, between
            n += 1
        pieces[n, 0], pieces[n, 1] = address + at, lengths[i]
        n += 1
        at += lengths[i]
        end = starts[i] + lengths[i]
        i += 1
    if i == first or preadv(file, pieces_address, n, begin) != end - begin:
        return -1
    return i


@compiled
def _offset(columns: np.ndarray, c: int, row: int, value: int, bits: int, halves: np.ndarray) -> None:
    """Say where a row begins; those that were left out before it are empty (none where there are no ``bits``)."""
    first = item(columns, c + OFFSETS)
    if bits >= 0:
        at = item(columns, c + ROW)
        while at < row:
            put(halves, first + at, value)
            at += 1
        put(columns, c + ROW, row + 1)
    put(halves, first + row, value)


@compiled
def finish(numbers: np.ndarray, rows: np.ndarray, columns: np.ndarray, halves: np.ndarray) -> None:
    """The offsets after the last row that some columns have; ``rows`` is how many rows there are."""
    for i in range(len(numbers)):
        c = COLUMN_FIELDS * numbers[i]
        _offset(columns, c, rows[i], item(columns, c + SIZE), item(columns, c + BITS), halves)


@compiled
def _unescape(text: np.ndarray, start: int, end: int, target: np.ndarray, at: int) -> int:
    """Write a string without its escapes; answers where the next may begin. Never longer than the text."""
    i = start
    while i < end:
        c = byte(text, i)
        i += 1
        if c != BACKSLASH:
            target[at] = c
            at += 1
            continue
        c = byte(text, i)
        i += 1
        if c == 117:
            code = 0
            for _ in range(4):
                c = byte(text, i)
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
def _number(text: np.ndarray, at: int, end: int, out: np.ndarray, to: int) -> None:
    """A decimal times 10^8, as a pair of 64 bits; what is beyond 8 decimals is rounded half up."""
    negative = byte(text, at) == MINUS
    if negative:
        at += 1
    low, high = np.uint64(0), np.uint64(0)
    places = -1  # digits after the point so far, -1 before it
    up = False
    while at < end:
        c = byte(text, at)
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
    out[to], out[to + 1] = np.int64(low), np.int64(high)


@compiled
def _ten_times(low: int, high: int, digit: int) -> tuple[int, int]:
    """Ten times a 128-bit number plus a digit."""
    if high == 0 and low >> np.uint64(60) == 0:
        return low * np.uint64(10) + digit, high
    mask = np.uint64(0xFFFFFFFF)
    a = (low & mask) * np.uint64(10) + digit
    b = (low >> np.uint64(32)) * np.uint64(10) + (a >> np.uint64(32))
    return (a & mask) | (b << np.uint64(32)), high * np.uint64(10) + (b >> np.uint64(32))
