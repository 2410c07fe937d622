"""Lists, tuples, intervals, choices: vectors made of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fhir_gateway.cql.values.base import (
    AnyArray,
    BoolArray,
    IntArray,
    NullVec,
    Vec,
    dense,
    gather,
    gather_valid,
    offsets_of,
    ranges,
)


class ListVec(Vec):
    """A list in each row: offsets into a flat vector of all elements."""

    kind = "List"
    __slots__ = ("_lengths", "_parents", "_valid", "flat", "offsets")

    def __init__(self, offsets: IntArray, flat: Vec, valid: BoolArray | None = None) -> None:
        self.offsets, self.flat = offsets, flat
        self._lengths: IntArray | None = None
        self._parents: IntArray | None = None
        self._valid = np.ones(len(offsets) - 1, dtype=bool) if valid is None else valid

    def __len__(self) -> int:
        """Rows of the frame."""
        return len(self.offsets) - 1

    @property
    def valid(self) -> BoolArray:
        """True where the row has a list (which may be empty)."""
        return self._valid

    @property
    def lengths(self) -> IntArray:
        """Elements of each row (0 for null)."""
        if self._lengths is None:
            self._lengths = self.offsets[1:] - self.offsets[:-1]
        return self._lengths

    @property
    def parents(self) -> IntArray:
        """Row of each element of ``flat``."""
        if self._parents is None:
            self._parents = np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)
        return self._parents

    def take(self, index: IntArray) -> ListVec:
        """Rows at ``index``; -1 gives null."""
        lengths = np.where(index >= 0, gather(self.lengths, index), 0)
        starts = gather(self.offsets[:-1], index)
        return ListVec(offsets_of(lengths), self.flat.take(ranges(starts, lengths)), gather_valid(self._valid, index))

    def keep(self, mask: BoolArray) -> ListVec:
        """The same rows with only the elements where ``mask`` (over ``flat``) is true."""
        kept = np.flatnonzero(mask)
        counts = np.zeros(len(mask) + 1, dtype=np.int64)
        np.cumsum(mask, out=counts[1:])
        return ListVec(counts[self.offsets], self.flat.take(kept), self._valid)

    @classmethod
    def concat(cls, parts: Sequence[ListVec]) -> ListVec:
        """Rows of all parts."""
        return cls(
            offsets_of(np.concatenate([p.lengths for p in parts])),
            concat([p.flat for p in parts]),
            np.concatenate([p.valid for p in parts]),
        )

    def key_columns(self) -> tuple[AnyArray, ...]:
        """Dense number of each distinct list (elements in order, nulls alike)."""
        numbers = np.where(self.flat.valid, _codes(self.flat) + 1, 0) if len(self.flat) else np.zeros(0, dtype=np.int64)
        lengths = self.lengths
        group = lengths.copy()
        for position in range(int(lengths.max(initial=0))):
            at = np.where(lengths > position, numbers[np.minimum(self.offsets[:-1] + position, len(numbers) - 1)], -1)
            group = dense(group, at)
        return (group,)

    def pylist(self) -> list[Any]:
        """Python lists."""
        flat, offsets = self.flat.pylist(), self.offsets.tolist()
        return [flat[offsets[i] : offsets[i + 1]] if ok else None for i, ok in enumerate(self._valid.tolist())]


class TupleVec(Vec):
    """Named vectors of one frame."""

    kind = "Tuple"
    __slots__ = ("_valid", "fields", "type_name")

    def __init__(self, fields: Mapping[str, Vec], valid: BoolArray, type_name: str = "Tuple") -> None:
        self.fields, self._valid, self.type_name = fields, valid, type_name

    def __len__(self) -> int:
        """Rows of the frame."""
        return len(self._valid)

    @property
    def valid(self) -> BoolArray:
        """True where the row is not null (its elements may all be)."""
        return self._valid

    def take(self, index: IntArray) -> TupleVec:
        """Rows at ``index``; -1 gives null."""
        return TupleVec(
            {name: vec.take(index) for name, vec in self.fields.items()},
            gather_valid(self._valid, index),
            self.type_name,
        )

    @classmethod
    def concat(cls, parts: Sequence[TupleVec]) -> TupleVec:
        """Rows of all parts; an element that a part lacks is null there."""
        names = list(dict.fromkeys(name for part in parts for name in part.fields))
        fields = {name: concat([p.fields.get(name, NullVec(len(p))) for p in parts]) for name in names}
        return cls(fields, np.concatenate([p.valid for p in parts]), parts[0].type_name)

    def key_columns(self) -> tuple[AnyArray, ...]:
        """Keys of all elements with their nulls."""
        parts: list[AnyArray] = []
        for vec in self.fields.values():
            ok = vec.valid
            parts.append(ok.astype(np.int64))
            parts.extend(np.where(ok, key, 0) for key in vec.key_columns())
        return tuple(parts)

    def pylist(self) -> list[Any]:
        """Python dicts."""
        columns = {name: vec.pylist() for name, vec in self.fields.items()}
        return [{n: c[i] for n, c in columns.items()} if ok else None for i, ok in enumerate(self._valid.tolist())]


class IntervalVec(Vec):
    """Intervals: two boundaries, each open or closed. A null one is unknown (open) or the end of the type (closed)."""

    kind = "Interval"
    __slots__ = ("_valid", "high", "high_closed", "low", "low_closed")

    def __init__(self, low: Vec, high: Vec, low_closed: BoolArray, high_closed: BoolArray, valid: BoolArray) -> None:
        self.low, self.high, self.low_closed, self.high_closed, self._valid = low, high, low_closed, high_closed, valid

    def __len__(self) -> int:
        """Rows of the frame."""
        return len(self._valid)

    @property
    def valid(self) -> BoolArray:
        """True where the row is not null."""
        return self._valid

    def take(self, index: IntArray) -> IntervalVec:
        """Rows at ``index``; -1 gives null."""
        return IntervalVec(
            self.low.take(index),
            self.high.take(index),
            gather(self.low_closed, index),
            gather(self.high_closed, index),
            gather_valid(self._valid, index),
        )

    @classmethod
    def concat(cls, parts: Sequence[IntervalVec]) -> IntervalVec:
        """Rows of all parts."""
        return cls(
            concat([p.low for p in parts]),
            concat([p.high for p in parts]),
            np.concatenate([p.low_closed for p in parts]),
            np.concatenate([p.high_closed for p in parts]),
            np.concatenate([p.valid for p in parts]),
        )

    def key_columns(self) -> tuple[AnyArray, ...]:
        """Boundaries with their nulls and closedness."""
        parts: list[AnyArray] = [self.low_closed.astype(np.int64), self.high_closed.astype(np.int64)]
        for vec in (self.low, self.high):
            ok = vec.valid
            parts.append(ok.astype(np.int64))
            parts.extend(np.where(ok, key, 0) for key in vec.key_columns())
        return tuple(parts)

    def pylist(self) -> list[Any]:
        """Dicts with low, high, lowClosed, highClosed."""
        low, high = self.low.pylist(), self.high.pylist()
        return [
            {
                "low": low[i],
                "high": high[i],
                "lowClosed": bool(self.low_closed[i]),
                "highClosed": bool(self.high_closed[i]),
            }
            if ok
            else None
            for i, ok in enumerate(self._valid.tolist())
        ]


class ChoiceVec(Vec):
    """A value of one of several types: each option is a vector of the whole frame, null where another one holds."""

    kind = "Choice"
    __slots__ = ("options",)

    def __init__(self, options: Sequence[Vec]) -> None:
        self.options = tuple(options)

    def __len__(self) -> int:
        """Rows of the frame."""
        return len(self.options[0])

    @property
    def valid(self) -> BoolArray:
        """True where any option has a value."""
        held: BoolArray = np.logical_or.reduce([o.valid for o in self.options])
        return held

    def take(self, index: IntArray) -> ChoiceVec:
        """Rows at ``index``; -1 gives null."""
        return ChoiceVec([o.take(index) for o in self.options])

    @classmethod
    def concat(cls, parts: Sequence[ChoiceVec]) -> Vec:
        """Rows of all parts."""
        return concat(list(parts))

    def key_columns(self) -> tuple[AnyArray, ...]:
        """Option number and that option's keys."""
        parts: list[AnyArray] = []
        for option in self.options:
            ok = option.valid
            parts.append(ok.astype(np.int64))
            parts.extend(np.where(ok, key, 0) for key in option.key_columns())
        return tuple(parts)

    def pylist(self) -> list[Any]:
        """Python values of whichever option holds."""
        values: list[Any] = [None] * len(self)
        for option in self.options:
            for i, value in enumerate(option.pylist()):
                if value is not None:
                    values[i] = value
        return values


def _codes(vec: Vec) -> IntArray:
    keys = vec.key_columns()
    return dense(*keys) if len(keys) != 1 else np.asarray(dense(keys[0]))


def shape(vec: Vec) -> Any:
    """What must agree for two vectors to be rows of one: the kind, and a discriminator for kinds with variants."""
    if isinstance(vec, IntervalVec):
        low = shape(vec.low)
        return ("Interval", low if low != "Null" else shape(vec.high))
    if isinstance(vec, ListVec):
        return ("List",)
    return getattr(vec, "type_name", None) or vec.kind


def concat(parts: Sequence[Vec]) -> Vec:
    """Rows of all parts; parts of different types become options of a choice."""
    real = [p for p in parts if not isinstance(p, NullVec)]
    if not real:
        return NullVec(sum(len(p) for p in parts))
    if len(parts) == 1:
        return parts[0]
    shapes: list[Any] = []
    for part in real:
        for option in part.options if isinstance(part, ChoiceVec) else (part,):
            key = shape(option)
            if not isinstance(option, NullVec) and key not in shapes:
                shapes.append(key)
    if (
        len(shapes) > 1
        and ("Interval", "Null") in shapes
        and any(s[0] == "Interval" and s[1] != "Null" for s in shapes if isinstance(s, tuple) and len(s) == 2)
    ):
        shapes.remove(("Interval", "Null"))
    options = [_concat_one(parts, key) for key in shapes]
    return options[0] if len(options) == 1 else ChoiceVec(options)


def _option(part: Vec, key: Any) -> Vec | None:
    for option in part.options if isinstance(part, ChoiceVec) else (part,):
        own = shape(option)
        if own == key or (own == ("Interval", "Null") and isinstance(key, tuple) and key[0] == "Interval"):
            return option
    return None


def _concat_one(parts: Sequence[Vec], key: Any) -> Vec:
    """Concatenate the option of shape ``key``; parts without it contribute nulls."""
    chosen = [_option(p, key) for p in parts]
    present = [c for c in chosen if c is not None]
    joined = present[0] if len(present) == 1 else type(present[0]).concat(present)
    if len(present) == len(parts):
        return joined
    pieces, base = [], 0
    for part, option in zip(parts, chosen, strict=True):
        if option is None:
            pieces.append(np.full(len(part), -1, dtype=np.int64))
        else:
            pieces.append(np.arange(base, base + len(part), dtype=np.int64))
            base += len(part)
    return joined.take(np.concatenate(pieces))


def select(n: int, branches: Sequence[tuple[IntArray, Vec]]) -> Vec:
    """A vector of ``n`` rows assembled from ``(rows, vector of those rows)``; rows of no branch are null."""
    branches = [branch for branch in branches if len(branch[0])] or branches[:1]
    source = np.full(n, -1, dtype=np.int64)
    base = 0
    for rows, vec in branches:
        source[rows] = np.arange(base, base + len(vec), dtype=np.int64)
        base += len(vec)
    if not branches:
        return NullVec(n)
    return concat([vec for _, vec in branches]).take(source)
