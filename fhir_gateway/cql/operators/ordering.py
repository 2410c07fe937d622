"""Order and equality of single values: three answers (yes, no, unknown) as pairs of masks.

Temporal values of different precision compare as the spans they can mean (CQL 1.5, uncertainty): the answer is known
only when it holds for every value in the span.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fhir_gateway.cql.units import common_scale, kinds_of, scaled
from fhir_gateway.cql.values import (
    AnyArray,
    BoolArray,
    BoolVec,
    DecVec,
    IntArray,
    IntervalVec,
    IntVec,
    LongVec,
    NullVec,
    QuantityVec,
    StrVec,
    TemporalVec,
    UncertainVec,
    Vec,
)
from fhir_gateway.cql.values.scalars import ONE, ScalarVec, magnitude, narrow, overflows, text_ranks, widen_if
from fhir_gateway.cql.values.temporal import DAY_MS, DateTimeVec, DateVec, floor_to
from fhir_gateway.errors import MeasureError

#: masks (less, equal, greater); none of the three is set where the order is unknown
Order = tuple[BoolArray, BoolArray, BoolArray]


def _plain(left: AnyArray, right: AnyArray) -> Order:
    return (
        np.asarray(left < right, dtype=bool),
        np.asarray(left == right, dtype=bool),
        np.asarray(left > right, dtype=bool),
    )


def as_decimal(vec: Vec) -> DecVec:
    """Integers and longs as decimals."""
    if isinstance(vec, DecVec):
        return vec
    if isinstance(vec, UncertainVec):
        vec = vec.certain()
    if isinstance(vec, IntVec | LongVec):
        (values,) = widen_if(overflows(magnitude(vec.values) * ONE), vec.values)
        return DecVec(values * ONE, vec.valid)
    raise MeasureError(f"a {vec.kind} where a number is needed")


def in_same_unit(
    left: QuantityVec, right: QuantityVec, *, equivalence: bool = False
) -> tuple[AnyArray, AnyArray, BoolArray]:
    """Both values on one scale and whether the units convert at all.

    Calendar years and months convert into definite durations for ``equivalence`` only.
    """
    scale = common_scale(left.unit, right.unit, where=left.valid & right.valid, equivalence=equivalence)
    if scale.same:
        a, b = widen_if(False, left.value.values, right.value.values)
        return a, b, scale.comparable
    a = scaled(left.value.values, scale.numerator, scale.shift)
    b = scaled(right.value.values, scale.denominator, np.zeros(1, dtype=np.int64))
    return narrow(a), narrow(b), scale.comparable


def span_of(vec: Vec) -> tuple[IntArray, IntArray]:
    """Least and largest integer that each row can mean."""
    if isinstance(vec, UncertainVec):
        return vec.low, vec.high
    if isinstance(vec, IntVec | LongVec):
        return vec.values, vec.values
    raise MeasureError(f"a {vec.kind} where an integer is needed")


def to_datetime(vec: DateVec) -> DateTimeVec:
    """A date as the span of its milliseconds."""
    return DateTimeVec(vec.low * DAY_MS, (vec.high + 1) * DAY_MS - 1, vec.precision, vec.valid)


def order_temporal(left: TemporalVec, right: TemporalVec, precision: int | None) -> Order:
    """Order of dates, date-times or times, at a precision if one is given."""
    if type(left) is not type(right):
        left, right = (to_datetime(v) if isinstance(v, DateVec) else v for v in (left, right))
    unit = left.unit_ms
    a_low, a_high, b_low, b_high = left.low, left.high, right.low, right.high
    if precision is not None:
        a_low, a_high, b_low, b_high = (floor_to(x, unit, precision) for x in (a_low, a_high, b_low, b_high))
    else:
        alike = left.precision == right.precision
        a_high = np.where(alike, a_low, a_high)
        b_high = np.where(alike, b_low, b_high)
    return a_high < b_low, (a_low == a_high) & (b_low == b_high) & (a_low == b_low), a_low > b_high


def order(left: Vec, right: Vec, precision: int | None = None) -> Order:
    """Order of two vectors of comparable types; garbage in null rows."""
    if isinstance(left, TemporalVec) and isinstance(right, TemporalVec):
        return order_temporal(left, right, precision)
    if isinstance(left, QuantityVec) and isinstance(right, QuantityVec):
        a, b, comparable = in_same_unit(left, right)
        less, same, more = _plain(a, b)
        return less & comparable, same & comparable, more & comparable
    if isinstance(left, StrVec) and isinstance(right, StrVec):
        return _plain(*text_ranks(left, right))
    if isinstance(left, UncertainVec) or isinstance(right, UncertainVec):
        (a_low, a_high), (b_low, b_high) = span_of(left), span_of(right)
        return a_high < b_low, (a_low == a_high) & (b_low == b_high) & (a_low == b_low), a_low > b_high
    if isinstance(left, DecVec) or isinstance(right, DecVec):
        return _plain(as_decimal(left).values, as_decimal(right).values)
    if isinstance(left, ScalarVec) and isinstance(right, ScalarVec) and not isinstance(left, BoolVec):
        return _plain(left.values, right.values)
    raise MeasureError(f"a {left.kind} and a {right.kind} have no order")


def reaches(left: Vec, right: Vec, precision: int | None = None) -> tuple[BoolArray, BoolArray]:
    """Where ``left`` is greater or equal, and where it is less; neither where that is unknown.

    A range can be known to reach a value although it is not known whether it is equal or greater.
    """
    if isinstance(left, UncertainVec) or isinstance(right, UncertainVec):
        (a_low, a_high), (b_low, b_high) = span_of(left), span_of(right)
        return a_low >= b_high, a_high < b_low
    less, same, more = order(left, right, precision)
    return same | more, less


def has_order(vec: Vec) -> bool:
    """Whether values of this kind can be ordered."""
    return isinstance(vec, TemporalVec | QuantityVec | StrVec | ScalarVec | UncertainVec) and not isinstance(
        vec, BoolVec
    )


def sort_keys(vec: Vec) -> list[AnyArray]:
    """Integer columns by which rows sort ascending, nulls first.

    Quantities sort by kind of unit first: whoever sorts them asks :func:`mixed_units` which lists have several.
    """
    if isinstance(vec, NullVec):
        return []
    from fhir_gateway.cql.dispatch import unwrap

    vec = unwrap(vec)
    if isinstance(vec, UncertainVec):
        vec = vec.certain()
    ok = vec.valid
    columns: list[Any] = [ok.astype(np.int64)]
    if isinstance(vec, TemporalVec):
        columns += [np.where(ok, vec.low, 0), np.where(ok, vec.high, 0)]
    elif isinstance(vec, QuantityVec):
        at = np.flatnonzero(ok)
        kind, rank = np.zeros((2, len(vec)), dtype=np.int64)
        kind[at], values = kinds_of(vec.unit.take(at), vec.value.values[at])
        rank[at] = _ranks(values)
        columns += [kind, rank]
    elif isinstance(vec, StrVec):
        columns.append(np.where(ok, text_ranks(vec, vec)[0], 0))
    elif isinstance(vec, ScalarVec):
        columns.append(np.where(ok, _ranks(vec.values), 0))
    elif isinstance(vec, IntervalVec):
        columns += sort_keys(vec.low) + sort_keys(vec.high)
    else:
        raise MeasureError(f"a {vec.kind} cannot be sorted")
    return columns


def mixed_units(vec: Vec, parents: IntArray, n: int) -> BoolArray:
    """Which of ``n`` parents have quantities in units that do not convert into each other."""
    mixed = np.zeros(n, dtype=bool)
    if isinstance(vec, QuantityVec):
        at = np.flatnonzero(vec.valid)
        kind, _ = kinds_of(vec.unit.take(at), vec.value.values[at])
        if len(at) and kind.max() > 0:
            owner = parents[at]
            order_of = np.lexsort((kind, owner))
            owner, kind = owner[order_of], kind[order_of]
            mixed[owner[1:][(owner[1:] == owner[:-1]) & (kind[1:] != kind[:-1])]] = True
    return mixed


def _ranks(values: AnyArray) -> AnyArray:
    """int64 that sorts as ``values`` do (negatable)."""
    if values.dtype == object:
        return np.unique(values, return_inverse=True)[1].astype(np.int64)
    return values.astype(np.int64)
