"""What every vector can do, and the array helpers they share.

A vector holds one CQL value (or null) for each row of a frame. Vectors are immutable; ``take`` gathers rows, where an
index of -1 gives null. Nothing here loops over rows in Python except ``pylist``, which serves explanations only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[Any]


class Vec:
    """Base of all vectors."""

    kind: ClassVar[str]

    def __len__(self) -> int:
        """Rows of the frame."""
        raise NotImplementedError

    @property
    def valid(self) -> BoolArray:
        """True where the row is not null."""
        raise NotImplementedError

    def take(self, index: IntArray) -> Self:
        """Rows at ``index``; -1 gives null."""
        raise NotImplementedError

    @classmethod
    def concat(cls, parts: Sequence[Any]) -> Vec:
        """One vector of all rows of ``parts``, which are of this class."""
        raise NotImplementedError

    def key_columns(self) -> tuple[AnyArray, ...]:
        """Integer arrays that are equal in two rows exactly when the values are equal (meaningless for nulls)."""
        raise NotImplementedError

    def pylist(self) -> list[Any]:
        """Python values, for explanations and supplemental data."""
        raise NotImplementedError


def gather(values: AnyArray, index: IntArray) -> AnyArray:
    """``values[index]`` that tolerates -1 (an arbitrary value) and an empty source."""
    if len(values) == 0:
        return np.zeros(len(index), dtype=values.dtype)
    if is_single(index):
        first = max(int(index[0]), 0)
        return np.broadcast_to(values[first : first + 1], index.shape)
    return values[index]


def gather_valid(valid: BoolArray, index: IntArray) -> BoolArray:
    """Validity of gathered rows: -1 is null."""
    if len(valid) == 0:
        return np.zeros(len(index), dtype=bool)
    if is_single(index):
        return np.broadcast_to(valid[index[0]] & (index[0] >= 0), index.shape)
    return valid[index] & (index >= 0)


def gather_or(values: AnyArray, index: IntArray, otherwise: int) -> AnyArray:
    """``values[index]``, and ``otherwise`` where the index is -1."""
    if len(values) == 0:
        return np.full(len(index), otherwise, dtype=values.dtype)
    if is_single(index):
        first = int(index[0])
        return np.broadcast_to(values[first : first + 1] if first >= 0 else values.dtype.type(otherwise), index.shape)
    return np.where(index >= 0, values[index], otherwise)


def is_single(array: AnyArray) -> bool:
    """True for one element that stands for all (:func:`fhir_gateway.cql.frame.zeros`): read-only."""
    return array.strides[0] == 0 and len(array) > 0


def ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """Concatenation of ``arange(start, start + length)`` for all pairs."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total, dtype=np.int64)


def offsets_of(lengths: IntArray) -> IntArray:
    """List offsets for the given lengths."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def dense(*keys: AnyArray) -> IntArray:
    """Dense group numbers of rows by the given key arrays (order of numbers is the order of the keys)."""
    return np.unique(combined(*keys), return_inverse=True)[1].astype(np.int64)


def combined(*keys: AnyArray) -> IntArray:
    """One integer for each row, ordered and equal as the rows of the key arrays are."""
    total, size = np.zeros(len(keys[0]), dtype=np.int64), 1
    for key in keys:
        if is_single(key) or len(key) == 0:
            continue
        if key.dtype == object:
            key = np.unique(key, return_inverse=True)[1]
        least, most = int(key.min()), int(key.max())
        if most - least >= _ROOM:
            key = np.unique(key, return_inverse=True)[1]
            least, most = 0, int(key.max())
        if size * (most - least + 1) >= _ROOM:
            total = np.unique(total, return_inverse=True)[1].astype(np.int64)
            size = int(total.max()) + 1
        total = total * (most - least + 1) + (key - least)
        size *= most - least + 1
    return total


#: What an integer that stands for several keys may reach.
_ROOM = 1 << 62


class NullVec(Vec):
    """All rows null, of no particular type."""

    kind = "Null"
    __slots__ = ("_n",)

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        """Rows of the frame."""
        return self._n

    @property
    def valid(self) -> BoolArray:
        """Nothing is valid."""
        return np.zeros(self._n, dtype=bool)

    def take(self, index: IntArray) -> NullVec:
        """As many nulls as asked for."""
        return NullVec(len(index))

    @classmethod
    def concat(cls, parts: Sequence[NullVec]) -> NullVec:
        """Nulls of all parts."""
        return NullVec(sum(len(p) for p in parts))

    def key_columns(self) -> tuple[AnyArray, ...]:
        """All rows alike."""
        return (np.zeros(self._n, dtype=np.int64),)

    def pylist(self) -> list[Any]:
        """None for each row."""
        return [None] * self._n
