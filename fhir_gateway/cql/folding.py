"""Opening lists into rows and folding rows back into lists."""

from __future__ import annotations

import numpy as np

from fhir_gateway.cql.dispatch import unwrap
from fhir_gateway.cql.values import BoolArray, BoolVec, IntArray, ListVec, Vec
from fhir_gateway.cql.values.base import combined, offsets_of


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
    """First row of each distinct item within its parent (parents ascending); null is one value."""
    same = parents[1:] == parents[:-1]
    if not same.any():
        return np.arange(len(parents), dtype=np.int64)
    shared = np.zeros(len(parents), dtype=bool)  # rows whose parent has others
    shared[1:] = same
    shared[:-1] |= same
    at = np.flatnonzero(shared)
    several = items.take(at)
    ok = several.valid
    keys = combined(parents[at], ok.astype(np.int64), *(np.where(ok, k, 0) for k in several.key_columns()))
    kept = ~shared
    kept[at[np.unique(keys, return_index=True)[1]]] = True
    return np.flatnonzero(kept)
