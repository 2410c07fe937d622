"""The tables that the walk follows, and how they are looked up."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fhir_gateway.lake.kernel.machine import compiled, item, load, same

PADDING = 256
MAX_DEPTH = 60

# what the walk answers
DONE, UNSURE, NEED_KEY, NEED_CODE, NEED_TYPE, NEED_NESTED = 0, 1, 2, 3, 4, 5
# kinds of values; from OBJECT on they open an object
STRING, BOOLEAN, INTEGER, DECIMAL, NAME, OBJECT, SIBLING, RESOURCE = 0, 1, 2, 3, 4, 5, 6, 7
# formats of strings
TEXT, ID, CODE, URI, DATE, DATETIME, INSTANT, TIME, BASE64, OID, UUID, BOUND = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
# columns of every resource that staging needs
# (the first tells the root's node)
NO_SLOT, ID_SLOT, PATIENT_SLOT, ANY_PATIENT_SLOT, UPDATED_SLOT, VERSION_SLOT = 0, 1, 2, 3, 4, 5
SLOTS = 6
# words of the walk's state: where it is; how many events there are; what it asks for; whether any string has more than
# ASCII (keys, numbers and what is between them have not)
POSITION, EVENTS, ASKED, ASKED_START, ASKED_END, BEYOND_ASCII = 0, 1, 2, 3, 4, 5
STATE = 6
# spaces of words that are not nodes
ROOT_SPACE, NESTED_SPACE = -2, -3


class Tables(NamedTuple):
    """What the walk knows, in few arrays: the more there are, the slower it gets."""

    words: np.ndarray  # uint8: texts of keys and codes
    hashed: np.ndarray  # int32[_, SPACE..VALUE]: open addressing over all words
    keys: np.ndarray  # int64[_, KEY_START..NEXT]: transitions
    nodes: np.ndarray  # int32[_, FIRST..NODE_LEVEL]
    groups: np.ndarray  # int64: bits of keys of which one must be there


# fields of Tables.hashed; a free entry has space -1
SPACE, START, LENGTH, VALUE = 0, 1, 2, 3
HASHED_FIELDS = 4
# fields of Tables.keys: the key's text; what its value is; the node of the object or the space of the codes; its bit in
# the keys seen, and the bits of other types of its choice; bounds of integers; column (leaf or object, -1 for none) and
# column of a list's lengths; the code it had last time; which key followed last time
KEY_START, KEY_LENGTH, KIND, FORMAT, REPEATS, TARGET, BIT, EXCLUDED = 0, 1, 2, 3, 4, 5, 6, 7
LOW, HIGH, SLOT, COLUMN, LIST_COLUMN, LAST_CODE, NEXT = 8, 9, 10, 11, 12, 13, 14
KEY_FIELDS = 16
# LAST_CODE: where its text begins in the words, times 2**LAST_AT, and its length
LAST_AT = 32
# fields of Tables.nodes: the key that came first last time; where its groups begin and end; its level
FIRST, GROUPS, GROUPS_END, NODE_LEVEL = 0, 1, 2, 3
NODE_FIELDS = 4


# An event is a number that says what comes next in a resource: a value of a column, an object or the end of a list.
# From the lowest bit on: the column; whether the value has escapes; bytes between the end of the value before (the
# first: the resource's begin) and this one; its bytes (lists: how many there are). What lies further away follows an
# event FAR, which has the bytes to be passed over instead.
COLUMN_BITS, GAP_BITS, LENGTH_BITS = 18, 17, 27
ESCAPED = 1 << COLUMN_BITS
GAP_AT = COLUMN_BITS + 1
LENGTH_AT = GAP_AT + GAP_BITS
FAR = 1 << (COLUMN_BITS - 1)


@compiled
def of_key(t: Tables, k: int, field: int) -> int:
    """What a transition says."""
    found: int = item(t.keys, KEY_FIELDS * k + field)
    return found


@compiled
def of_node(t: Tables, node: int, field: int) -> int:
    """What a node says."""
    found: int = item(t.nodes, NODE_FIELDS * node + field)
    return found


@compiled
def word_hash(text: np.ndarray, start: int, end: int, space: int) -> int:
    """Hash of a word in a space; reads up to 7 bytes beyond its end."""
    value = np.uint64(space + 1000003) * np.uint64(0x9E3779B97F4A7C15)
    while end - start >= 8:
        value = (value ^ load(text, start)) * np.uint64(0xA0761D6478BD642F)
        value ^= value >> np.uint64(32)
        start += 8
    rest = (np.uint64(1) << np.uint64(8 * (end - start))) - np.uint64(1)
    value = (value ^ (load(text, start) & rest)) * np.uint64(0xA0761D6478BD642F)
    return np.int64((value ^ (value >> np.uint64(29))) & np.uint64(0x7FFFFFFFFFFF))


@compiled
def find(t: Tables, space: int, text: np.ndarray, start: int, end: int) -> int:
    """What a word means in a space; -1 when it is not known."""
    mask = len(t.hashed) - 1
    at = word_hash(text, start, end, space) & mask
    length = end - start
    while True:
        entry = HASHED_FIELDS * at
        found: int = item(t.hashed, entry + SPACE)
        if found == -1:
            return -1
        if found == space and item(t.hashed, entry + LENGTH) == length:
            if same(t.words, item(t.hashed, entry + START), text, start, length):
                meaning: int = item(t.hashed, entry + VALUE)
                return meaning
        at = (at + 1) & mask
