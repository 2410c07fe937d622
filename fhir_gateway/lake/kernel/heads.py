"""What staging takes of each line that has passed."""

from __future__ import annotations

import numpy as np

from fhir_gateway.lake.kernel.formats import is_id
from fhir_gateway.lake.kernel.machine import byte, compiled, copy, load
from fhir_gateway.lake.kernel.texts import MINUS, NINE, POINT, ZERO, begins, digits_value, whole

_PATIENT = np.frombuffer(b"Patient", np.uint8)
_HISTORY = np.frombuffer(b"_history", np.uint8)
_UUID = np.frombuffer(b"urn:uuid:", np.uint8)
_SLASH = 47


@compiled
def take(text: np.ndarray, starts: np.ndarray, lengths: np.ndarray, target: np.ndarray, offsets: np.ndarray) -> None:
    """Lay pieces of a text down one after another; ``offsets`` (one longer than the pieces) receives where."""
    at = 0
    for i in range(len(starts)):
        offsets[i] = at
        start, length = starts[i], lengths[i]
        full = length & ~7
        copy(text, start, target, at, full)
        for j in range(full, length):
            target[at + j] = byte(text, start + j)
        at += length
    offsets[len(starts)] = at


@compiled
def patients(text: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> bool:
    """Narrow references down to the patient ids in them, as ``columns.patient_ids`` does; empty where there is none.

    False, with some of them narrowed, when one names a version: those are for the regular expression.
    """
    for i in range(len(starts)):
        start, end = starts[i], starts[i] + lengths[i]
        last = end - 1
        while last >= start and byte(text, last) != _SLASH:
            last -= 1
        before = last - 1
        while before >= start and byte(text, before) != _SLASH:
            before -= 1
        if last < start:
            first = start + len(_UUID)
            named = end > first and begins(text, start, _UUID)
        else:
            first = last + 1
            if last - before - 1 == len(_HISTORY) and begins(text, before + 1, _HISTORY):
                return False
            named = last - before - 1 == len(_PATIENT) and begins(text, before + 1, _PATIENT)
        starts[i] = first
        lengths[i] = end - first if named and is_id(text, first, end) else 0
    return True


@compiled
def words(text: np.ndarray, offsets: np.ndarray, first: np.ndarray, second: np.ndarray, hashed: np.ndarray) -> None:
    """Of strings: their first and second eight bytes as numbers that sort as they do, and a hash of the whole."""
    for i in range(len(first)):
        start, length = offsets[i], offsets[i + 1] - offsets[i]
        one = two = np.uint64(0)
        value = np.uint64(0xCBF29CE484222325)
        for j in range(length):
            c = np.uint64(byte(text, start + j))
            value = (value ^ c) * np.uint64(0x100000001B3)
            if j < 8:
                one |= c << np.uint64(56 - 8 * j)
            elif j < 16:
                two |= c << np.uint64(120 - 8 * j)
        first[i], second[i], hashed[i] = one, two, value


@compiled
def hashes(text: np.ndarray, starts: np.ndarray, lengths: np.ndarray, out: np.ndarray) -> None:
    """A stable 64-bit hash of pieces of a text; four at a time, as each step waits for the one before."""
    i = 0
    while i + 4 <= len(starts):
        a, b, c, d = starts[i], starts[i + 1], starts[i + 2], starts[i + 3]
        one, two = _seed(lengths[i]), _seed(lengths[i + 1])
        three, four = _seed(lengths[i + 2]), _seed(lengths[i + 3])
        steps = min(min(lengths[i], lengths[i + 1]), min(lengths[i + 2], lengths[i + 3])) >> 3
        for step in range(steps):
            one = _mixed(one, load(text, a + 8 * step))
            two = _mixed(two, load(text, b + 8 * step))
            three = _mixed(three, load(text, c + 8 * step))
            four = _mixed(four, load(text, d + 8 * step))
        done = 8 * steps
        out[i] = _hashed(text, a + done, lengths[i] - done, one)
        out[i + 1] = _hashed(text, b + done, lengths[i + 1] - done, two)
        out[i + 2] = _hashed(text, c + done, lengths[i + 2] - done, three)
        out[i + 3] = _hashed(text, d + done, lengths[i + 3] - done, four)
        i += 4
    while i < len(starts):
        out[i] = _hashed(text, starts[i], lengths[i], _seed(lengths[i]))
        i += 1


@compiled
def _seed(length: int) -> int:
    return np.uint64(length) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(0xD6E8FEB86659FD93)


@compiled
def _mixed(value: int, word: int) -> int:
    value = (value ^ word) * np.uint64(0xA0761D6478BD642F)
    return value ^ (value >> np.uint64(32))


@compiled
def _hashed(text: np.ndarray, at: int, length: int, value: int) -> int:
    """The hash of a text of which so much is left."""
    for _ in range(length >> 3):
        value = _mixed(value, load(text, at))
        at += 8
    rest = np.uint64(8 * (length & 7))
    word = load(text, at) & ((np.uint64(1) << rest) - np.uint64(1))
    value = (value ^ word) * np.uint64(0xA0761D6478BD642F)
    value = (value ^ (value >> np.uint64(29))) * np.uint64(0xE7037ED1A0B428DB)
    return np.int64(value ^ (value >> np.uint64(32)))


@compiled
def instants(text: np.ndarray, starts: np.ndarray, lengths: np.ndarray, out: np.ndarray) -> None:
    """Instants that have passed the walk, in microseconds since 1970 in UTC; a leap second is the one before."""
    for i in range(len(starts)):
        start, end = starts[i], starts[i] + lengths[i]
        if start == end:
            continue
        year, month = digits_value(text, start, start + 4), digits_value(text, start + 5, start + 7)
        # days from the civil calendar, years beginning in March
        early = 1 if month <= 2 else 0
        year -= early
        day = (153 * (month + (9 if early else -3)) + 2) // 5 + digits_value(text, start + 8, start + 10) - 1
        days = 365 * year + year // 4 - year // 100 + year // 400 + day - 719468
        second = min(digits_value(text, start + 17, start + 19), 59)
        moment = (
            digits_value(text, start + 11, start + 13) * 60 + digits_value(text, start + 14, start + 16)
        ) * 60 + second
        moment = (days * 86400 + moment) * 1000000
        at = start + 19
        if byte(text, at) == POINT:
            at += 1
            part = 100000
            while ZERO <= byte(text, at) <= NINE:
                moment += (np.int64(byte(text, at)) - ZERO) * part
                part //= 10
                at += 1
        if byte(text, at) != 90:
            offset = digits_value(text, at + 1, at + 3) * 60 + digits_value(text, at + 4, at + 6)
            moment += (60000000 if byte(text, at) == MINUS else -60000000) * offset
        out[i] = moment


@compiled
def versions(text: np.ndarray, starts: np.ndarray, lengths: np.ndarray, out: np.ndarray, known: np.ndarray) -> None:
    """Version ids of 1 to 18 digits as integers."""
    for i in range(len(starts)):
        known[i] = 0 < lengths[i] <= 18 and digits_value(text, starts[i], starts[i] + lengths[i]) >= 0
        out[i] = whole(text, starts[i], starts[i] + lengths[i]) if known[i] else 0
