"""Booleans, integers, longs, decimals and strings."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.cql.values.base import AnyArray, BoolArray, IntArray, Vec, gather, gather_or, gather_valid

#: Decimals are integers of 10**-8 (CQL: at least 28 digits of precision, 8 of scale).
SCALE = 8
ONE = 10**SCALE
_CONTEXT = Context(prec=60)
_SAFE = 9.0e18  # int64 arithmetic is used only where no result can pass this


class ScalarVec(Vec):
    """Values in one NumPy array beside a validity mask."""

    __slots__ = ("_valid", "values")

    def __init__(self, values: AnyArray, valid: BoolArray | None = None) -> None:
        self.values = values
        self._valid = np.ones(len(values), dtype=bool) if valid is None else valid

    def __len__(self) -> int:
        """Rows of the frame."""
        return len(self.values)

    @property
    def valid(self) -> BoolArray:
        """True where the row is not null."""
        return self._valid

    def take(self, index: IntArray) -> Self:
        """Rows at ``index``; -1 gives null."""
        return type(self)(gather(self.values, index), gather_valid(self._valid, index))

    @classmethod
    def concat(cls, parts: Sequence[Any]) -> Vec:
        """Rows of all parts."""
        return cls(np.concatenate([p.values for p in parts]), np.concatenate([p.valid for p in parts]))

    def key_columns(self) -> tuple[AnyArray, ...]:
        """The values themselves."""
        return (self.values,)

    def pylist(self) -> list[Any]:
        """Python values."""
        return [v if ok else None for v, ok in zip(self.values.tolist(), self._valid.tolist(), strict=True)]


class BoolVec(ScalarVec):
    """System.Boolean; three-valued logic lives in the operators."""

    kind = "Boolean"
    __slots__ = ()

    @property
    def true(self) -> BoolArray:
        """True where the value is true (null is not)."""
        return self.values & self._valid


class IntVec(ScalarVec):
    """System.Integer as int64 (the 32-bit range is checked by arithmetic)."""

    kind = "Integer"
    __slots__ = ()


class LongVec(ScalarVec):
    """System.Long."""

    kind = "Long"
    __slots__ = ()


class DecVec(ScalarVec):
    """System.Decimal: integers scaled by 10**8; int64, or Python integers where int64 could overflow."""

    kind = "Decimal"
    __slots__ = ()

    @classmethod
    def of_arrow(cls, array: Any) -> DecVec:
        """From an Arrow decimal128(28, 8) array."""
        valid = np.asarray(array.is_valid())
        if len(array) == 0:
            return cls(np.zeros(0, dtype=np.int64), valid)
        words = np.frombuffer(array.buffers()[1], dtype=np.int64)[2 * array.offset : 2 * (array.offset + len(array))]
        low, high = words[0::2], words[1::2]
        if np.array_equal(high[valid], low[valid] >> 63):
            return cls(np.where(valid, low, 0), valid)
        wide = [int(v.scaleb(SCALE)) if v is not None else 0 for v in array.to_pylist()]
        return cls(np.array(wide, dtype=object), valid)

    def pylist(self) -> list[Any]:
        """Decimals, exact."""
        return [
            Decimal(int(v)).scaleb(-SCALE, _CONTEXT).normalize(_CONTEXT) if ok else None
            for v, ok in zip(self.values.tolist(), self._valid.tolist(), strict=True)
        ]

    @classmethod
    def concat(cls, parts: Sequence[Any]) -> Vec:
        """Rows of all parts; wide parts make the result wide."""
        arrays = [p.values for p in parts]
        if any(a.dtype == object for a in arrays):
            arrays = [a.astype(object) for a in arrays]
        return cls(np.concatenate(arrays), np.concatenate([p.valid for p in parts]))


def narrow(values: AnyArray) -> AnyArray:
    """int64 where the wide integers fit, otherwise unchanged."""
    if values.dtype != object or len(values) == 0:
        return values if values.dtype != object else values.astype(np.int64)
    return values.astype(np.int64) if float(np.max(np.abs(values))) < _SAFE else values


def widen_if(needed: bool, *arrays: AnyArray) -> tuple[AnyArray, ...]:
    """The arrays as Python integers when ``needed`` (or any is wide already)."""
    if needed or any(a.dtype == object for a in arrays):
        return tuple(a.astype(object) for a in arrays)
    return arrays


def magnitude(values: AnyArray) -> float:
    """Largest absolute value as a float (0.0 for none)."""
    return float(np.max(np.abs(values))) if len(values) else 0.0


def overflows(bound: float) -> bool:
    """True when results of this magnitude do not surely fit into int64."""
    return bound >= _SAFE


def divide_half_up(numerator: AnyArray, denominator: AnyArray) -> AnyArray:
    """Integer division rounded half away from zero; the denominator is positive."""
    magnitude_ = (2 * abs(numerator) + denominator) // (2 * denominator)
    result: AnyArray = np.where(numerator < 0, -magnitude_, magnitude_)
    return result


_NO_TEXTS = pa.array([], pa.string())


class StrVec(Vec):
    """System.String: codes into an Arrow dictionary (which may hold a string twice); -1 is null."""

    kind = "String"
    __slots__ = ("_canonical", "codes", "dictionary")

    def __init__(self, codes: IntArray, dictionary: Any) -> None:
        self.codes = codes
        self.dictionary = dictionary
        self._canonical: IntArray | None = None

    @classmethod
    def of_arrow(cls, array: Any) -> StrVec:
        """From an Arrow string array."""
        encoded = array.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(codes, encoded.dictionary)

    @classmethod
    def constant(cls, text: str | None, n: int) -> StrVec:
        """The same text in every row."""
        code = np.int64(-1 if text is None else 0)
        dictionary = _NO_TEXTS if text is None else pa.array([text], pa.string())
        return cls(np.broadcast_to(code, (n,)), dictionary)

    def __len__(self) -> int:
        """Rows of the frame."""
        return len(self.codes)

    @property
    def valid(self) -> BoolArray:
        """True where the row is not null."""
        return self.codes >= 0

    def take(self, index: IntArray) -> StrVec:
        """Rows at ``index``; -1 gives null."""
        taken = StrVec(gather_or(self.codes, index, -1), self.dictionary)
        taken._canonical = self._canonical
        return taken

    @classmethod
    def concat(cls, parts: Sequence[StrVec]) -> StrVec:
        """Rows of all parts."""
        if all(p.dictionary is parts[0].dictionary for p in parts):
            return cls(np.concatenate([p.codes for p in parts]), parts[0].dictionary)
        codes, base = [], 0
        for part in parts:
            codes.append(np.where(part.codes >= 0, part.codes + base, -1))
            base += len(part.dictionary)
        return cls(np.concatenate(codes), pa.concat_arrays([p.dictionary for p in parts]))

    def key_columns(self) -> tuple[AnyArray, ...]:
        """Codes with repeated dictionary entries made one: the place of the first in the dictionary."""
        if self._canonical is None:
            numbers = self.dictionary.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
            self._canonical = np.unique(numbers, return_index=True)[1].astype(np.int64)[numbers]
        return (np.where(self.codes >= 0, gather(self._canonical, self.codes), -1),)

    def map(self, function: Any) -> AnyArray:
        """``function`` applied to each dictionary entry, as an array indexed by code."""
        return np.array([function(text) for text in self.dictionary.to_pylist()], dtype=object)

    def arrow(self) -> Any:
        """Arrow string array of the rows."""
        return self.dictionary.take(pa.array(np.where(self.codes >= 0, self.codes, 0), mask=self.codes < 0))

    def pylist(self) -> list[Any]:
        """Python strings."""
        return list(self.arrow().to_pylist()) if len(self.dictionary) else [None] * len(self)


def shared_codes(left: StrVec, right: StrVec) -> tuple[IntArray, IntArray]:
    """Codes of both vectors in one common numbering (equal exactly when the strings are); -1 for null."""
    if left.dictionary is right.dictionary:
        return left.key_columns()[0], right.key_columns()[0]
    left, right = _used(left), _used(right)
    both = pa.concat_arrays([left.dictionary, right.dictionary]).dictionary_encode()
    numbers = both.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    split = len(left.dictionary)
    return (
        np.where(left.codes >= 0, gather(numbers[:split], left.codes), -1),
        np.where(right.codes >= 0, gather(numbers[split:], right.codes), -1),
    )


def _used(vec: StrVec) -> StrVec:
    """The same texts with a dictionary of no more than there are, where it is much larger."""
    if len(vec.dictionary) <= 2 * len(vec):
        return vec
    present, number = np.unique(vec.codes, return_inverse=True)
    if len(present) and present[0] < 0:
        present, number = present[1:], number - 1
    return StrVec(number.astype(np.int64), vec.dictionary.take(pa.array(present)))


def text_ranks(left: StrVec, right: StrVec) -> tuple[IntArray, IntArray]:
    """Ranks of both vectors in one lexical (code point) order; -1 for null."""
    dictionary = pa.concat_arrays([left.dictionary, right.dictionary])
    order = pc.rank(dictionary, tiebreaker="dense").to_numpy(zero_copy_only=False).astype(np.int64)
    split = len(left.dictionary)
    return (
        np.where(left.codes >= 0, gather(order[:split], left.codes), -1),
        np.where(right.codes >= 0, gather(order[split:], right.codes), -1),
    )
