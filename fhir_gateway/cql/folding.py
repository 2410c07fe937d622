"""Opening lists into rows and folding rows back into lists."""

from __future__ import annotations

import numpy as np

from fhir_gateway.cql.dispatch import unwrap
from fhir_gateway.cql.values import BoolArray, BoolVec, IntArray, ListVec, Vec
from fhir_gateway.cql.values.base import offsets_of


def truth(vec: Vec) -> BoolArray:
    """True where the vector is true; null (of any type) is not."""
    vec = unwrap(vec)
    return vec.true if isinstance(vec, BoolVec) else np.zeros(len(vec), dtype=bool)


def open_list(vec: Vec) -> ListVec:
    """A list of each row's elements: a single value is a list of one, null an empty list."""
    if isinstance(vec, ListVec):
        return vec
    ok = vec.valid
    offsets = np.concatenate([[0], np.cumsum(ok)]).astype(np.int64)
    return ListVec(offsets, vec.take(np.flatnonzero(ok)), ok)


def fold(n: int, parents: IntArray, items: Vec, valid: BoolArray) -> ListVec:
    """Rows back into lists by parent (parents ascending)."""
    return ListVec(offsets_of(np.bincount(parents, minlength=n).astype(np.int64)), items, valid)


def distinct_rows(parents: IntArray, items: Vec) -> IntArray:
    """First row of each distinct item within its parent; null is one value."""
    ok = items.valid
    keys = [parents, ok.astype(np.int64), *(np.where(ok, k, 0) for k in items.key_columns())]
    order = np.lexsort(tuple(reversed(keys)))
    first = np.ones(len(order), dtype=bool)
    if len(order):
        same = np.ones(len(order) - 1, dtype=bool)
        for key in keys:
            ordered = key[order]
            same &= np.asarray(ordered[1:] == ordered[:-1], dtype=bool)
        first[1:] = ~same
    return np.sort(order[first])
