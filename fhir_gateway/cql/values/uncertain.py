"""Durations between values of coarse precision: integers known only to lie in a range (CQL 1.5, uncertainty)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fhir_gateway.cql.values.base import AnyArray, BoolArray, IntArray, Vec, gather, gather_valid
from fhir_gateway.cql.values.scalars import IntVec


class UncertainVec(Vec):
    """System.Integer between ``low`` and ``high``; certain where they are the same.

    Comparisons and arithmetic reckon with the range. Every other operator sees certain values, and null elsewhere.
    """

    kind = "Integer"
    type_name = "Uncertain"
    __slots__ = ("_valid", "high", "low")

    def __init__(self, low: IntArray, high: IntArray, valid: BoolArray) -> None:
        self.low, self.high, self._valid = low, high, valid

    def __len__(self) -> int:
        """Rows of the frame."""
        return len(self.low)

    @property
    def valid(self) -> BoolArray:
        """True where something is known."""
        return self._valid

    def take(self, index: IntArray) -> UncertainVec:
        """Rows at ``index``; -1 gives null."""
        return UncertainVec(gather(self.low, index), gather(self.high, index), gather_valid(self._valid, index))

    @classmethod
    def concat(cls, parts: Sequence[UncertainVec]) -> UncertainVec:
        """Rows of all parts."""
        low, high, valid = (np.concatenate([getattr(p, f) for p in parts]) for f in ("low", "high", "valid"))
        return cls(low, high, valid)

    def key_columns(self) -> tuple[AnyArray, ...]:
        """Both ends."""
        return (self.low, self.high)

    def pylist(self) -> list[Any]:
        """Integers, and dicts with low and high where the value is not certain."""
        return [
            (low if low == high else {"low": low, "high": high}) if ok else None
            for low, high, ok in zip(self.low.tolist(), self.high.tolist(), self._valid.tolist(), strict=True)
        ]

    def certain(self) -> IntVec:
        """The certain values; null elsewhere."""
        return IntVec(self.low, self._valid & (self.low == self.high))


def integer_between(low: IntArray, high: IntArray, valid: BoolArray) -> Vec:
    """Integers known to lie between two ends: plain ones when all are certain."""
    if bool(np.all((low == high) | ~valid)):
        return IntVec(low, valid)
    return UncertainVec(low, high, valid)
