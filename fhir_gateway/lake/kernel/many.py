"""The walk over the lines of a block."""

from __future__ import annotations

import numpy as np

from fhir_gateway.lake.kernel.machine import byte, compiled
from fhir_gateway.lake.kernel.tables import DONE, EVENTS, NEED_KEY, POSITION, UNSURE, Tables
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
    line_event: np.ndarray,
    slot_start: np.ndarray,
    slot_length: np.ndarray,
    used: np.ndarray,
    events: np.ndarray,
    frames: np.ndarray,
    state: np.ndarray,
    place: np.ndarray,
) -> int:
    """Check the lines of a block whose last byte is a line feed at ``end - 1``.

    ``place`` says where to go on: position, row, line number, whether to give the next line up as unsure. Answers DONE,
    or NEED_*: then the tables want another entry and the same line is walked again. Blank lines have no row. With room
    for ``events``, they say where the values of those that passed are; ``line_event`` (one longer than there are lines)
    where those of a row begin.
    """
    at, row, number = place[AT], place[ROW], place[NUMBER]
    emit = len(events) > 0
    while True:
        at = skip(text, at)
        if at >= end:
            break
        if byte(text, at) == FEED:
            at += 1
            number += 1
            continue
        answer = UNSURE
        state[POSITION] = at
        line_event[row] = state[EVENTS]
        if not place[FORCED]:
            answer = walk(t, text, at, promised, emit, row, slot_start, slot_length, used, events, frames, state)
        if answer >= NEED_KEY:
            place[AT], place[ROW], place[NUMBER] = at, row, number
            return answer
        place[FORCED] = 0
        passed = answer == DONE
        stop = state[POSITION]
        if passed:
            following = skip(text, stop)
            passed = byte(text, following) == FEED
        if not passed:
            state[EVENTS] = line_event[row]
            while byte(text, stop) != FEED:
                stop += 1
        line_start[row], line_end[row], line_number[row], line_passed[row] = at, stop, number, passed
        row += 1
        at = stop
    line_event[row] = state[EVENTS]
    place[AT], place[ROW], place[NUMBER] = at, row, number
    return DONE
