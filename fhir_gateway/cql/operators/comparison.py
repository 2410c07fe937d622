"""Equal, Equivalent and the orderings (CQL 1.5 appendix B, 12)."""

from __future__ import annotations

import numpy as np

from fhir_gateway.cql.dispatch import unwrap
from fhir_gateway.cql.operators.intervals import ends
from fhir_gateway.cql.operators.ordering import as_decimal, in_same_unit, order, reaches
from fhir_gateway.cql.operators.precision import decimal_digits
from fhir_gateway.cql.operators.terminology import codes_equivalent, is_coded
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.values import (
    BoolArray,
    BoolVec,
    ChoiceVec,
    DecVec,
    ElementVec,
    IntervalVec,
    IntVec,
    ListVec,
    LongVec,
    NullVec,
    QuantityVec,
    RatioVec,
    StrVec,
    TemporalVec,
    TupleVec,
    UncertainVec,
    ValueSetVec,
    Vec,
)
from fhir_gateway.cql.values.base import dense
from fhir_gateway.cql.values.scalars import ONE, SCALE, divide_half_up, shared_codes
from fhir_gateway.cql.values.structured import concat

Masks = tuple[BoolArray, BoolArray]  # (equal, known)


def equal_masks(call: Call | None, left: Vec, right: Vec) -> Masks:
    """Where two vectors are equal, and where that is known (nulls are not)."""
    left, right = unwrap(left), unwrap(right)
    n = len(left)
    both = left.valid & right.valid
    if isinstance(left, NullVec) or isinstance(right, NullVec):
        return np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    if isinstance(left, ChoiceVec) or isinstance(right, ChoiceVec):
        return _choice_equal(left, right)
    if isinstance(left, BoolVec) and isinstance(right, BoolVec):
        return both & (left.values == right.values), both
    if isinstance(left, StrVec) and isinstance(right, StrVec):
        a, b = shared_codes(left, right)
        return both & (a == b), both
    if isinstance(left, UncertainVec) or isinstance(right, UncertainVec):
        less, same, more = order(left, right)
        return both & same, both & (less | same | more)
    numeric = (IntVec, LongVec, DecVec)
    if isinstance(left, numeric) and isinstance(right, numeric):
        if isinstance(left, DecVec) != isinstance(right, DecVec):
            left, right = as_decimal(left), as_decimal(right)
        return both & np.asarray(left.values == right.values, dtype=bool), both
    if isinstance(left, TemporalVec | QuantityVec) and isinstance(right, TemporalVec | QuantityVec):
        less, same, more = order(left, right)
        return both & same, both & (less | same | more)
    if isinstance(left, TupleVec) and isinstance(right, TupleVec):
        return _tuple_equal(left, right, both)
    if isinstance(left, IntervalVec) and isinstance(right, IntervalVec):
        (a_low, a_high), (b_low, b_high) = ends(left), ends(right)
        low, high = equal_masks(call, a_low, b_low), equal_masks(call, a_high, b_high)
        equal = low[0] & high[0]
        different = (low[1] & ~low[0]) | (high[1] & ~high[0])
        return both & equal, both & (equal | different)
    if isinstance(left, ListVec) and isinstance(right, ListVec):
        return _list_equal(left, right, both)
    if isinstance(left, ElementVec) and isinstance(right, ElementVec):
        if left.fhir_type != right.fhir_type:
            return np.zeros(n, dtype=bool), both
        joined = concat([left, right])
        numbers = dense(*joined.key_columns())
        return both & (numbers[:n] == numbers[n:]), both
    if isinstance(left, ValueSetVec) and isinstance(right, ValueSetVec):
        return np.full(n, (left.url, left.version) == (right.url, right.version)), both
    return np.zeros(n, dtype=bool), both  # values of different types are not equal


def _choice_equal(left: Vec, right: Vec) -> Masks:
    n = len(left)
    equal, known = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    for a in left.options if isinstance(left, ChoiceVec) else (left,):
        for b in right.options if isinstance(right, ChoiceVec) else (right,):
            rows = np.flatnonzero(a.valid & b.valid)
            if len(rows):
                same, sure = equal_masks(None, a.take(rows), b.take(rows))
                equal[rows], known[rows] = same, sure
    return equal, known


def _tuple_equal(left: TupleVec, right: TupleVec, both: BoolArray) -> Masks:
    """Elements that are null on both sides are equal; null on one side is unknown, unless another element differs."""
    n = len(both)
    equal, different = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    for name in dict.fromkeys([*left.fields, *right.fields]):
        a, b = (v.fields.get(name, NullVec(n)) for v in (left, right))
        same, known = equal_masks(None, a, b)
        absent = ~a.valid & ~b.valid
        equal &= same | absent
        different |= known & ~same
    return both & equal, both & (equal | different)


def _list_equal(left: ListVec, right: ListVec, both: BoolArray) -> Masks:
    n = len(both)
    lengths = left.lengths == right.lengths
    rows = np.flatnonzero(both & lengths)
    a, b = left.take(rows), right.take(rows)
    same, known = equal_masks(None, a.flat, b.flat)
    absent = ~a.flat.valid & ~b.flat.valid
    owner = rows[a.parents]
    unequal = np.zeros(n, dtype=bool)
    unequal[owner[known & ~same]] = True
    unsure = np.zeros(n, dtype=bool)
    unsure[owner[~(same | absent) & ~known]] = True
    equal = both & lengths & ~unequal & ~unsure
    return equal, both & (~lengths | unequal | equal)


def equivalent_mask(call: Call, left: Vec, right: Vec) -> BoolArray:
    """Where two vectors are equivalent: null matches null, strings ignore case and white space, codes their display."""
    left, right = unwrap(left), unwrap(right)
    both, neither = left.valid & right.valid, ~left.valid & ~right.valid
    if isinstance(left, NullVec) or isinstance(right, NullVec):
        return neither
    if is_coded(left) and is_coded(right):
        return neither | (both & codes_equivalent(left, right))
    if isinstance(left, StrVec) and isinstance(right, StrVec):
        folded = [StrVec(v.codes, _folded(v)) for v in (left, right)]
        a, b = shared_codes(*folded)
        return np.asarray(neither | (both & (a == b)), dtype=bool)
    if isinstance(left, ListVec) and isinstance(right, ListVec):
        alike: BoolArray = both & (left.lengths == right.lengths)
        rows = np.flatnonzero(alike)
        ours, theirs = left.take(rows), right.take(rows)
        alike[rows[ours.parents[~equivalent_mask(call, ours.flat, theirs.flat)]]] = False
        return np.asarray(neither | alike, dtype=bool)
    if isinstance(left, IntervalVec) and isinstance(right, IntervalVec):
        (a_low, a_high), (b_low, b_high) = ends(left), ends(right)
        same = equivalent_mask(call, a_low, b_low) & equivalent_mask(call, a_high, b_high)
        return np.asarray(neither | (both & same), dtype=bool)
    if isinstance(left, DecVec) or isinstance(right, DecVec):
        if not isinstance(left, IntVec | LongVec | DecVec) or not isinstance(right, IntVec | LongVec | DecVec):
            return np.asarray(neither, dtype=bool)
        return np.asarray(neither | (both & _decimals_alike(as_decimal(left), as_decimal(right))), dtype=bool)
    if isinstance(left, QuantityVec) and isinstance(right, QuantityVec):
        a, b, comparable = in_same_unit(left, right, equivalence=True)
        return np.asarray(neither | (both & comparable & (a == b)), dtype=bool)
    if isinstance(left, RatioVec) and isinstance(right, RatioVec):
        return neither | (both & _ratios_alike(left, right))
    if isinstance(left, TupleVec) and isinstance(right, TupleVec):
        n = len(left)
        result = np.ones(n, dtype=bool)
        for name in dict.fromkeys([*left.fields, *right.fields]):
            result &= equivalent_mask(call, left.fields.get(name, NullVec(n)), right.fields.get(name, NullVec(n)))
        return neither | (both & result)
    same, known = equal_masks(call, left, right)
    return neither | (both & same & known)


def _decimals_alike(left: DecVec, right: DecVec) -> BoolArray:
    """Equal when rounded to the precision of the less precise one, trailing zeros not counted."""
    digits = np.minimum(decimal_digits(left.values), decimal_digits(right.values))
    step = np.array([ONE // 10**d for d in range(SCALE + 1)], dtype=np.int64)[digits]
    return np.asarray(divide_half_up(left.values, step) == divide_half_up(right.values, step), dtype=bool)


def _ratios_alike(left: RatioVec, right: RatioVec) -> BoolArray:
    """Whether both ratios express the same relation: the cross products agree."""
    (a, b), (c, d) = ((v.fields["numerator"], v.fields["denominator"]) for v in (left, right))
    if not all(isinstance(v, QuantityVec) for v in (a, b, c, d)):
        return np.zeros(len(left), dtype=bool)
    a_in, c_in, over = in_same_unit(a, c, equivalence=True)  # type: ignore[arg-type]
    b_in, d_in, under = in_same_unit(b, d, equivalence=True)  # type: ignore[arg-type]
    same = a_in.astype(object) * d_in.astype(object) == c_in.astype(object) * b_in.astype(object)
    return np.asarray(over & under & same, dtype=bool)


def _folded(vec: StrVec) -> object:
    import pyarrow as pa

    return pa.array([" ".join(text.split()).lower() for text in vec.dictionary.to_pylist()], pa.string())


@operator("Equal", "12.1", nulls="handled", lift=False, uncertain=True)
def equal(call: Call, left: Vec, right: Vec) -> Vec:
    """Equality; null when it cannot be known."""
    same, known = equal_masks(call, left, right)
    return BoolVec(same, known)


@operator("NotEqual", "12.8", nulls="handled", lift=False, uncertain=True)
def not_equal(call: Call, left: Vec, right: Vec) -> Vec:
    """Inequality; null when it cannot be known."""
    same, known = equal_masks(call, left, right)
    return BoolVec(~same, known)


@operator("Equivalent", "12.2", nulls="handled", uncertain=True)
def equivalent(call: Call, left: Vec, right: Vec) -> Vec:
    """Equivalence; never null."""
    return BoolVec(equivalent_mask(call, left, right))


@operator("Less", "12.5", uncertain=True)
def less(call: Call, left: Vec, right: Vec) -> Vec:
    """Strictly less."""
    no, yes = reaches(left, right)
    return BoolVec(yes, yes | no)


@operator("LessOrEqual", "12.6", uncertain=True)
def less_or_equal(call: Call, left: Vec, right: Vec) -> Vec:
    """Less or equal."""
    yes, no = reaches(right, left)
    return BoolVec(yes, yes | no)


@operator("Greater", "12.3", uncertain=True)
def greater(call: Call, left: Vec, right: Vec) -> Vec:
    """Strictly greater."""
    no, yes = reaches(right, left)
    return BoolVec(yes, yes | no)


@operator("GreaterOrEqual", "12.4", uncertain=True)
def greater_or_equal(call: Call, left: Vec, right: Vec) -> Vec:
    """Greater or equal."""
    yes, no = reaches(left, right)
    return BoolVec(yes, yes | no)


__all__ = ["equal_masks", "equivalent_mask"]
