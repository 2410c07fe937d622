"""JSON's own parts: blanks, strings, numbers, and the type of a resource."""

from __future__ import annotations

import numpy as np

from fhir_gateway.lake.kernel.machine import byte, compiled, lowest, marks

# characters
QUOTE, BACKSLASH, COMMA, COLON, OPEN, CLOSE, BEGIN, END = 34, 92, 44, 58, 123, 125, 91, 93
BLANK, TAB, RETURN, FEED, ZERO, NINE, MINUS, PLUS, POINT = 32, 9, 13, 10, 48, 57, 45, 43, 46

_RESOURCE_TYPE = np.frombuffer(b'"resourceType"', np.uint8)


@compiled
def skip(text: np.ndarray, at: int) -> int:
    """The next byte from ``at`` on that is no blank; line feeds are none."""
    while byte(text, at) <= BLANK and (byte(text, at) == BLANK or byte(text, at) == TAB or byte(text, at) == RETURN):
        at += 1
    return at


@compiled
def begins(text: np.ndarray, at: int, word: np.ndarray) -> bool:
    """Whether a word stands at ``at``."""
    for i in range(len(word)):
        if byte(text, at + i) != word[i]:
            return False
    return True


@compiled
def string_end(text: np.ndarray, at: int) -> tuple[int, bool, bool, bool]:
    """End of the string that begins at the quote ``at``; -1 when unsure.

    Also whether it has escapes, other than ASCII, and blanks.
    """
    at += 1
    escaped = False
    high = blank = 0
    while True:
        stop, beyond, empty = marks(text, at)
        if stop == 0:
            high |= beyond
            blank |= empty
            at += 32
            continue
        ahead = lowest(stop)
        before = (1 << ahead) - 1
        high |= beyond & before
        blank |= empty & before
        at += ahead
        c = byte(text, at)
        if c == QUOTE:
            return at, escaped, high != 0, blank != 0
        if c == BACKSLASH:
            escaped = True
            at += 1
            c = byte(text, at)
            if c == 117:  # \uXXXX, but neither NUL nor surrogates
                code = 0
                for _ in range(4):
                    at += 1
                    c = byte(text, at)
                    if ZERO <= c <= NINE:
                        code = code * 16 + c - ZERO
                    elif 97 <= c <= 102:
                        code = code * 16 + c - 87
                    elif 65 <= c <= 70:
                        code = code * 16 + c - 55
                    else:
                        return -1, False, False, False
                if code == 0 or 0xD800 <= code <= 0xDFFF:
                    return -1, False, False, False
            elif not (
                c == QUOTE or c == BACKSLASH or c == 47 or c == 98 or c == 102 or c == 110 or c == 114 or c == 116
            ):
                return -1, False, False, False
        else:
            return -1, False, False, False
        at += 1


@compiled
def type_name(text: np.ndarray, at: int) -> tuple[int, int]:
    """Start and end of the resourceType of the object that begins at the brace ``at``; -1 when there is none."""
    at = skip(text, at + 1)
    if not begins(text, at, _RESOURCE_TYPE):
        at = _far_type(text, at)
        if at < 0:
            return -1, -1
    at = skip(text, at + len(_RESOURCE_TYPE))
    if byte(text, at) != COLON:
        return -1, -1
    at = skip(text, at + 1)
    if byte(text, at) != QUOTE:
        return -1, -1
    end, escaped, _, _ = string_end(text, at)
    return (-1, -1) if escaped else (at + 1, end)


@compiled
def _far_type(text: np.ndarray, at: int) -> int:
    """Where the key resourceType stands when it is not the first of its object; -1 for nowhere."""
    depth = 1
    key = True
    while True:
        c = byte(text, at)
        if c == QUOTE:
            if depth == 1 and key and begins(text, at, _RESOURCE_TYPE):
                return at
            at, _, _, _ = string_end(text, at)
            if at < 0:
                return -1
            key = False
        elif c == OPEN or c == BEGIN:
            depth += 1
        elif c == CLOSE or c == END:
            depth -= 1
            if depth == 0:
                return -1
        elif c == COMMA:
            key = depth == 1
        elif c < 32 and c != TAB and c != RETURN:
            return -1
        at += 1


@compiled
def number_end(text: np.ndarray, at: int) -> tuple[int, int, bool]:
    """End of the number at ``at`` (-1: none, or with an exponent), its whole digits, whether it has a fraction."""
    if byte(text, at) == MINUS:
        at += 1
    start = at
    while ZERO <= byte(text, at) <= NINE:
        at += 1
    digits = at - start
    if digits == 0 or (digits > 1 and byte(text, start) == ZERO):
        return -1, 0, False
    fraction = byte(text, at) == POINT
    if fraction:
        at += 1
        start = at
        while ZERO <= byte(text, at) <= NINE:
            at += 1
        if at == start:
            return -1, 0, False
    if byte(text, at) == 101 or byte(text, at) == 69:
        return -1, 0, False
    return at, digits, fraction


@compiled
def whole(text: np.ndarray, start: int, end: int) -> int:
    """The integer written in ``text[start:end]``."""
    negative = byte(text, start) == MINUS
    value = 0
    for i in range(start + 1 if negative else start, end):
        value = value * 10 + (np.int64(byte(text, i)) - ZERO)
    return -value if negative else value


@compiled
def digits_value(text: np.ndarray, start: int, end: int) -> int:
    """Value of digits; -1 when there is anything else."""
    value = 0
    for i in range(start, end):
        c = byte(text, i)
        if c < ZERO or c > NINE:
            return -1
        value = value * 10 + (np.int64(c) - ZERO)
    return value
