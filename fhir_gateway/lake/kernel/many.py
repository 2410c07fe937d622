"""The walk over many resources.

First over the lines of a block, to check them; later over rows in their order, to find what their columns hold.
"""

from __future__ import annotations

import numpy as np

from fhir_gateway.lake.kernel.machine import compiled, pread
from fhir_gateway.lake.kernel.tables import DONE, NEED_KEY, POSITION, UNSURE, Tables
from fhir_gateway.lake.kernel.texts import FEED, skip
from fhir_gateway.lake.kernel.walk import walk

# words of the state of a block's lines
AT, ROW, NUMBER, FORCED = 0, 1, 2, 3


@compiled
def walk_lines(
    t: Tables,
    text: np.ndarray,
    end: int,
    promised: int,
    line_start: np.ndarray,
    line_end: np.ndarray,
    line_number: np.ndarray,
    line_passed: np.ndarray,
    slot_start: np.ndarray,
    slot_length: np.ndarray,
    used: np.ndarray,
    levels: np.ndarray,
    events: np.ndarray,
    frames: np.ndarray,
    state: np.ndarray,
    place: np.ndarray,
) -> int:
    """Check the lines of a block whose last byte is a line feed at ``end - 1``.

    ``place`` says where to go on: position, row, line number, whether to give the next line up as unsure. Answers DONE,
    or NEED_*: then the tables want another entry and the same line is walked again. Blank lines have no row.
    """
    at, row, number = place[AT], place[ROW], place[NUMBER]
    emit = end < 0  # never, and not a constant: see walk_rows
    while True:
        at = skip(text, at)
        if at >= end:
            break
        if text[at] == FEED:
            at += 1
            number += 1
            continue
        answer = UNSURE
        state[POSITION] = at
        if not place[FORCED]:
            answer = walk(
                t, text, at, promised, emit, row, slot_start, slot_length, used, levels, events, frames, state
            )
        if answer >= NEED_KEY:
            place[AT], place[ROW], place[NUMBER] = at, row, number
            return answer
        place[FORCED] = 0
        passed = answer == DONE
        stop = state[POSITION]
        if passed:
            following = skip(text, stop)
            passed = text[following] == FEED
        if not passed:
            while text[stop] != FEED:
                stop += 1
        line_start[row], line_end[row], line_number[row], line_passed[row] = at, stop, number, passed
        row += 1
        at = stop
    place[AT], place[ROW], place[NUMBER] = at, row, number
    return DONE


@compiled
def walk_rows(
    t: Tables,
    file: int,
    starts: np.ndarray,
    lengths: np.ndarray,
    odd: np.ndarray,
    text: np.ndarray,
    address: int,
    offsets: np.ndarray,
    slots: np.ndarray,
    used: np.ndarray,
    levels: np.ndarray,
    events: np.ndarray,
    frames: np.ndarray,
    state: np.ndarray,
) -> int:
    """Read resources of an open file into ``text`` (at ``address``), one after another, and emit their events.

    They have passed before, but for the ``odd`` ones, which are only read. ``offsets`` (one longer) receives where each
    is. Answers the one that cannot be read or does not pass now, or -1. A resource is walked as soon as it is read: it
    is still in the processor's cache.
    """
    emit = len(starts) > 0  # not a constant: the walk would be compiled a second time for it
    at = 0
    row = 0
    for i in range(len(starts)):
        offsets[i] = at
        length = lengths[i]
        if at + length > len(text) or pread(file, address + at, length, starts[i]) != length:
            return i
        if not odd[i]:
            if walk(t, text, at, -1, emit, row, slots, slots, used, levels, events, frames, state) != DONE:
                return i
            row += 1
        at += length
    offsets[len(starts)] = at
    return -1
