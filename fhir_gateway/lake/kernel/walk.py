"""The walk itself, over one resource."""

from __future__ import annotations

import numpy as np

from fhir_gateway.lake.kernel.formats import (
    fits,
)
from fhir_gateway.lake.kernel.machine import (
    byte,
    compiled,
    item,
    load,
    put,
    same,
)
from fhir_gateway.lake.kernel.tables import (
    ANY_PATIENT_SLOT,
    ASKED,
    ASKED_END,
    ASKED_START,
    BEYOND_ASCII,
    BIT,
    BOOLEAN,
    BOUND,
    COLUMN,
    COLUMN_BITS,
    DECIMAL,
    DONE,
    ESCAPED,
    EVENTS,
    EXCLUDED,
    FAR,
    FIRST,
    FORMAT,
    GAP_AT,
    GAP_BITS,
    GROUPS,
    GROUPS_END,
    HIGH,
    ID_SLOT,
    INTEGER,
    KEY_FIELDS,
    KEY_LENGTH,
    KEY_START,
    KIND,
    LAST_AT,
    LAST_CODE,
    LENGTH_AT,
    LENGTH_BITS,
    LIST_COLUMN,
    LOW,
    MAX_DEPTH,
    NEED_CODE,
    NEED_KEY,
    NEED_NESTED,
    NEED_TYPE,
    NESTED_SPACE,
    NEXT,
    NO_SLOT,
    OBJECT,
    PATIENT_SLOT,
    POSITION,
    REPEATS,
    RESOURCE,
    ROOT_SPACE,
    SIBLING,
    SLOT,
    SLOTS,
    STRING,
    TARGET,
    TEXT,
    UNSURE,
    Tables,
    find,
    of_key,
    of_node,
)
from fhir_gateway.lake.kernel.texts import (
    BACKSLASH,
    BEGIN,
    CLOSE,
    COLON,
    COMMA,
    END,
    OPEN,
    QUOTE,
    begins,
    number_end,
    skip,
    string_end,
    type_name,
    whole,
)

_LENGTH = (1 << LAST_AT) - 1
_FOUR, _FIVE = np.uint64(0xFFFFFFFF), np.uint64(0xFFFFFFFFFF)
_TRUE, _FALSE = np.uint64(int.from_bytes(b"true", "little")), np.uint64(int.from_bytes(b"false", "little"))
_PATIENT = np.frombuffer(b"Patient/", np.uint8)


@compiled
def _leaf(t: Tables, text: np.ndarray, at: int, k: int, state: np.ndarray) -> tuple[int, bool]:
    """End of the primitive value at ``at`` (-1: unsure, -2: its code is not known); whether it has escapes."""
    kind = of_key(t, k, KIND)
    if kind == STRING:
        if byte(text, at) != QUOTE:
            return -1, False
        end, escaped, high, blank = string_end(text, at)
        if end <= at + 1:
            return -1, False
        if high:
            state[BEYOND_ASCII] = 1
        format = of_key(t, k, FORMAT)
        if format != TEXT:
            if escaped or (high and format != BOUND):
                return -1, False
            if format == BOUND:
                last = of_key(t, k, LAST_CODE)  # where its text is, and how long, in one number: others write it too
                length = end - at - 1
                if last & _LENGTH != length or not same(t.words, last >> LAST_AT, text, at + 1, length):
                    found = find(t, of_key(t, k, TARGET), text, at + 1, end)
                    if found < 0:
                        state[ASKED], state[ASKED_START], state[ASKED_END] = k, at + 1, end
                        return -2, False
                    put(t.keys, KEY_FIELDS * k + LAST_CODE, found << LAST_AT | length)
            elif not fits(text, at + 1, end, format, blank):
                return -1, False
        return end + 1, escaped
    if kind == DECIMAL:
        end, digits, _ = number_end(text, at)
        return (end, False) if digits <= 20 else (-1, False)
    if kind == INTEGER:
        end, digits, fraction = number_end(text, at)
        if end < 0 or fraction or digits > 10 or not of_key(t, k, LOW) <= whole(text, at, end) <= of_key(t, k, HIGH):
            return -1, False
        return end, False
    if kind == BOOLEAN:
        word = load(text, at)
        if word & _FOUR == _TRUE:
            return at + 4, False
        return (at + 5, False) if word & _FIVE == _FALSE else (-1, False)
    # NAME: the resourceType, looked at before
    end, _, _, _ = string_end(text, at)
    return end + 1, False


@compiled
def walk(
    t: Tables,
    text: np.ndarray,
    at: int,
    promised: int,
    emit: bool,
    row: int,
    slot_start: np.ndarray,
    slot_length: np.ndarray,
    used: np.ndarray,
    events: np.ndarray,
    frames: np.ndarray,
    state: np.ndarray,
) -> int:
    """Check the resource that begins at ``at`` and fill ``row`` of the slots.

    ``state[POSITION]`` is where the walk ended. With ``emit``, ``events`` are appended to; ``used`` notes the columns
    that are filled. ``promised`` is the node of the promised type or -1.
    """
    f_node, f_seen, f_last, f_key, f_count = frames[0], frames[1], frames[2], frames[3], frames[4]
    depth = 0
    n = state[EVENTS]
    told = at  # up to where events have said what there is
    state[POSITION] = at
    if byte(text, at) != OPEN:
        return UNSURE
    start, end = type_name(text, at)
    if end < 0:
        return UNSURE
    node = find(t, ROOT_SPACE, text, start, end)
    if node < 0:
        state[ASKED_START], state[ASKED_END] = start, end
        return NEED_TYPE
    if promised >= 0 and node != promised:
        return UNSURE
    for slot in range(SLOTS):
        slot_length[slot, row] = 0
    slot_start[NO_SLOT, row] = node
    seen = 0
    last = -1
    step = 1  # 0: a key follows, 1: just inside an object, 2: after a value, 3: an object follows, 4: after an object
    at += 1
    while True:
        if step == 1:
            at = skip(text, at)
            if byte(text, at) != QUOTE:
                state[POSITION] = at
                return UNSURE
            step = 0
        if step == 0:
            k = of_node(t, node, FIRST) if last < 0 else of_key(t, last, NEXT)
            if k >= 0:
                length = of_key(t, k, KEY_LENGTH)
                end = at + 1 + length
                if byte(text, end) != QUOTE or not same(text, at + 1, t.words, of_key(t, k, KEY_START), length):
                    k = -1
            if k < 0:
                end = at + 1
                while byte(text, end) != QUOTE:
                    if byte(text, end) == BACKSLASH or byte(text, end) < 32:
                        state[POSITION] = end
                        return UNSURE
                    end += 1
                k = find(t, node, text, at + 1, end)
                if k < 0:
                    state[ASKED], state[ASKED_START], state[ASKED_END] = node, at + 1, end
                    state[POSITION] = end
                    return NEED_KEY
                if last < 0:
                    t.nodes[node, FIRST] = k
                else:
                    t.keys[last, NEXT] = k
            if seen & (of_key(t, k, BIT) | of_key(t, k, EXCLUDED)):
                state[POSITION] = at
                return UNSURE
            seen |= of_key(t, k, BIT)
            last = k
            at = skip(text, end + 1)
            if byte(text, at) != COLON:
                state[POSITION] = at
                return UNSURE
            at = skip(text, at + 1)
            is_list = of_key(t, k, REPEATS)
            if is_list:
                if byte(text, at) != BEGIN:
                    state[POSITION] = at
                    return UNSURE
                at = skip(text, at + 1)
            if of_key(t, k, KIND) >= OBJECT:
                f_node[depth], f_seen[depth], f_last[depth] = node, seen, last
                depth += 1
                if depth == MAX_DEPTH:
                    state[POSITION] = at
                    return UNSURE
                f_key[depth], f_count[depth] = k, 0
                step = 3
            else:
                column = of_key(t, k, COLUMN)
                count = 0
                while True:
                    end, escaped = _leaf(t, text, at, k, state)
                    if end < 0:
                        state[POSITION] = at
                        return NEED_CODE if end == -2 else UNSURE
                    if column >= 0:
                        put(used, column, 1)
                        if emit:
                            quoted = 1 if byte(text, at) == QUOTE else 0
                            gap = at + quoted - told
                            if gap >> GAP_BITS:
                                put(events, n, FAR | gap << COLUMN_BITS)
                                n += 1
                                gap = 0
                            size = end - at - 2 * quoted
                            if size >> LENGTH_BITS:
                                state[POSITION] = at
                                return UNSURE
                            put(events, n, column | (ESCAPED if escaped else 0) | gap << GAP_AT | size << LENGTH_AT)
                            n += 1
                            told = end - quoted
                    slot = of_key(t, k, SLOT)
                    if slot != NO_SLOT:
                        if escaped:
                            state[POSITION] = at
                            return UNSURE
                        if slot == ANY_PATIENT_SLOT:
                            slot = PATIENT_SLOT
                            named = slot_length[slot, row] == 0 and _names_patient(text, at + 1, end - 1)
                        else:
                            named = True
                        if named:
                            slot_start[slot, row] = at + 1
                            slot_length[slot, row] = end - at - 2
                    at = end
                    if not is_list:
                        break
                    count += 1
                    at = skip(text, at)
                    if byte(text, at) == COMMA:
                        at = skip(text, at + 1)
                    elif byte(text, at) == END:
                        at += 1
                        break
                    else:
                        state[POSITION] = at
                        return UNSURE
                if emit and is_list and column >= 0:
                    put(events, n, of_key(t, k, LIST_COLUMN) | count << LENGTH_AT)
                    n += 1
                step = 2
        if step == 3:
            k = f_key[depth]
            kind = of_key(t, k, KIND)
            if kind == SIBLING and of_key(t, k, REPEATS) and byte(text, at) == 110:
                if byte(text, at + 1) != 117 or byte(text, at + 2) != 108 or byte(text, at + 3) != 108:
                    state[POSITION] = at
                    return UNSURE
                at += 4
                step = 4
            else:
                if byte(text, at) != OPEN:
                    state[POSITION] = at
                    return UNSURE
                node = of_key(t, k, TARGET)
                if kind == RESOURCE:
                    start, end = type_name(text, at)
                    if end < 0:
                        state[POSITION] = at
                        return UNSURE
                    node = find(t, NESTED_SPACE, text, start, end)
                    if node < 0:
                        state[ASKED_START], state[ASKED_END] = start, end
                        state[POSITION] = at
                        return NEED_NESTED
                column = of_key(t, k, COLUMN)
                if emit and column >= 0:
                    put(events, n, column)
                    n += 1
                seen = 0
                last = -1
                at += 1
                step = 1
        elif step == 2:
            at = skip(text, at)
            if byte(text, at) == COMMA:
                at += 1
                step = 1
            elif byte(text, at) == CLOSE:
                at += 1
                for g in range(of_node(t, node, GROUPS), of_node(t, node, GROUPS_END)):
                    if not seen & item(t.groups, g):
                        state[POSITION] = at
                        return UNSURE
                if depth == 0:
                    break
                step = 4
            else:
                state[POSITION] = at
                return UNSURE
        if step == 4:
            k = f_key[depth]
            step = 2
            if of_key(t, k, REPEATS):
                f_count[depth] += 1
                at = skip(text, at)
                if byte(text, at) == COMMA:
                    at = skip(text, at + 1)
                    step = 3
                    continue
                if byte(text, at) != END:
                    state[POSITION] = at
                    return UNSURE
                at += 1
                if emit and of_key(t, k, LIST_COLUMN) >= 0:
                    put(events, n, of_key(t, k, LIST_COLUMN) | f_count[depth] << LENGTH_AT)
                    n += 1
            depth -= 1
            node, seen, last = f_node[depth], f_seen[depth], f_last[depth]
    state[POSITION] = at
    state[EVENTS] = n
    return DONE if slot_length[ID_SLOT, row] > 0 else UNSURE


@compiled
def _names_patient(text: np.ndarray, start: int, end: int) -> bool:
    for i in range(start, end - len(_PATIENT) + 1):
        if begins(text, i, _PATIENT):
            return True
    return False
