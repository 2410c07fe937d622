"""The walk over many resources: the lines of a block, the rows of a batch of columns."""

from __future__ import annotations

import numpy as np

from fhir_gateway.lake.kernel.machine import compiled
from fhir_gateway.lake.kernel.tables import DONE, NEED_KEY, POSITION, UNSURE, Events, Tables
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
    events: Events,
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
    text: np.ndarray,
    starts: np.ndarray,
    promised: int,
    slots: np.ndarray,
    used: np.ndarray,
    levels: np.ndarray,
    events: Events,
    frames: np.ndarray,
    state: np.ndarray,
) -> int:
    """Emit the events of resources that have passed before; answers the row that does not pass now, or -1."""
    emit = len(starts) > 0  # not a constant: the walk would be compiled a second time for it
    for row in range(len(starts)):
        answer = walk(t, text, starts[row], promised, emit, row, slots, slots, used, levels, events, frames, state)
        if answer != DONE:
            return row
    return -1
