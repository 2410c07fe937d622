"""Set operators of intervals: union, intersection, difference, collapse and expand (CQL 1.5 appendix B, 19)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fhir_gateway.cql.folding import fold, open_list
from fhir_gateway.cql.operators.aggregate import MIXED
from fhir_gateway.cql.operators.intervals import _compare, end, ends, neighbour, start
from fhir_gateway.cql.operators.ordering import as_decimal, sort_keys
from fhir_gateway.cql.operators.precision import decimal_digits, truncated
from fhir_gateway.cql.operators.temporal import add_quantity, units_of
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.units import common_scale, converted
from fhir_gateway.cql.values import (
    AnyArray,
    BoolArray,
    DecVec,
    IntArray,
    IntervalVec,
    IntVec,
    ListVec,
    LongVec,
    NullVec,
    QuantityVec,
    StrVec,
    TemporalVec,
    Vec,
    concat,
)
from fhir_gateway.cql.values.base import ranges
from fhir_gateway.cql.values.scalars import ONE
from fhir_gateway.cql.values.temporal import DAY, DAY_MS, MONTH, MS_OF, WEEK, YEAR, floor_to
from fhir_gateway.errors import MeasureError


def closed(low: Vec, high: Vec, valid: BoolArray) -> IntervalVec:
    """Closed intervals."""
    yes = np.ones(len(valid), dtype=bool)
    return IntervalVec(low, high, yes, yes, valid)


def choose(mask: BoolArray, yes: Vec, no: Vec) -> Vec:
    """``yes`` where the mask is true, else ``no``."""
    n = len(mask)
    row = np.arange(n, dtype=np.int64)
    return concat([yes, no]).take(np.where(mask, row, row + n))


def union(left: IntervalVec, right: IntervalVec) -> Vec:
    """One interval where they overlap or meet; null otherwise."""
    (a_low, a_high), (b_low, b_high) = ends(left), ends(right)
    touch = (
        _compare(a_low, neighbour(b_high, up=True), None, "<=").true
        & _compare(b_low, neighbour(a_high, up=True), None, "<=").true
    )
    low = choose(_compare(a_low, b_low, None, "<=").true, a_low, b_low)
    high = choose(_compare(a_high, b_high, None, "=>").true, a_high, b_high)
    return closed(low, high, left.valid & right.valid & touch)


def intersect(left: IntervalVec, right: IntervalVec) -> Vec:
    """The common part; null where there is none. An unknown end stays unknown."""
    (a_low, a_high), (b_low, b_high) = ends(left), ends(right)
    apart = _compare(a_low, b_high, None, ">").true | _compare(b_low, a_high, None, ">").true
    later = _compare(a_low, b_low, None, "=>")
    earlier = _compare(a_high, b_high, None, "<=")
    low, high = choose(later.true, a_low, b_low), choose(earlier.true, a_high, b_high)
    unknown_low = (left.valid & ~a_low.valid) | (right.valid & ~b_low.valid)
    unknown_high = (left.valid & ~a_high.valid) | (right.valid & ~b_high.valid)
    row = np.arange(len(apart), dtype=np.int64)
    low, high = low.take(np.where(unknown_low, -1, row)), high.take(np.where(unknown_high, -1, row))
    return IntervalVec(low, high, ~unknown_low, ~unknown_high, left.valid & right.valid & ~apart)


def difference(left: IntervalVec, right: IntervalVec) -> Vec:
    """What remains of the first; null where nothing or two parts remain."""
    (a_low, a_high), (b_low, b_high) = ends(left), ends(right)
    apart = _compare(a_low, b_high, None, ">").true | _compare(b_low, a_high, None, ">").true
    before = _compare(a_low, b_low, None, "<").true
    after = _compare(a_high, b_high, None, ">").true
    low = choose(before | apart, a_low, neighbour(b_high, up=True))
    high = choose(after | apart, a_high, neighbour(b_low, up=False))
    return closed(low, high, left.valid & right.valid & (apart | (before ^ after)))


def _numbers(vec: Vec) -> AnyArray:
    """Integers that order and measure the points: days, milliseconds, integers or units of 10**-8."""
    if isinstance(vec, TemporalVec):
        return vec.low
    if isinstance(vec, QuantityVec):
        return vec.value.values
    if isinstance(vec, IntVec | LongVec | DecVec):
        return vec.values
    raise MeasureError(f"intervals of {vec.kind}")


def _in_first_units(
    call: Call, owner: IntArray, low: QuantityVec, high: QuantityVec
) -> tuple[QuantityVec, QuantityVec]:
    """Boundaries in the unit of each row's first one; rows whose units do not convert fail."""
    first = np.full(call.n, -1, dtype=np.int64)
    first[owner[::-1]] = np.arange(len(owner), dtype=np.int64)[::-1]
    unit = low.unit.take(first[owner])
    ends_of = []
    for vec in (low, high):
        scale = common_scale(vec.unit, unit)
        failed = np.zeros(call.n, dtype=bool)
        failed[owner[vec.valid & ~scale.comparable]] = True
        call.fail(failed, MIXED)
        ends_of.append(QuantityVec(DecVec(converted(vec.value.values, scale), vec.valid), unit))
    return ends_of[0], ends_of[1]


def _gap(low: Vec, high: Vec, per: QuantityVec | None, owner: IntArray) -> tuple[AnyArray, AnyArray]:
    """Starts, and the latest start that still joins an interval ending at ``high``; ``per`` widens what joins."""
    starts, finishes = _numbers(low), _numbers(high)
    if per is not None and per.valid.any():
        if isinstance(low, TemporalVec) and isinstance(high, TemporalVec):
            unit = int(units_of(per).max(initial=-1))
            if unit < 0:
                raise MeasureError("collapse per a quantity that is not one of time")
            steps = (per.value.values // ONE).astype(np.int64)[owner]
            return floor_to(low.low, low.unit_ms, unit), floor_to(high.low, high.unit_ms, unit) + steps
        scale = 1 if isinstance(low, DecVec | QuantityVec) else ONE
        return starts, finishes + per.value.values[owner] // scale
    return starts, finishes + (1 if not isinstance(low, TemporalVec) else _unit_of(low))


def _unit_of(vec: TemporalVec) -> IntArray:
    """One unit of each value's own precision, in units of the vector (fixed units only: days and finer)."""
    coarse = np.select([vec.precision == p for p in MS_OF], [max(ms // vec.unit_ms, 1) for ms in MS_OF.values()], 1)
    return coarse.astype(np.int64)


@operator("Collapse", "19.4", nulls="handled", lift=False)
def collapse(call: Call, operand: Vec, per: Vec | None = None) -> Vec:
    """Intervals that overlap or meet made one, in order of their starts; nulls are dropped.

    An interval with an unknown boundary surely holds its known one, so it is joined to what holds that point; the
    boundary of what comes out is unknown.
    """
    items = open_list(operand)
    kept = items.keep(items.flat.valid)
    if not isinstance(kept.flat, IntervalVec) or len(kept.flat) == 0:
        return ListVec(kept.offsets, kept.flat, operand.valid)
    owner, low, high = kept.parents, start(kept.flat), end(kept.flat)
    known = np.flatnonzero(low.valid | high.valid)
    owner, low, high = owner[known], low.take(known), high.take(known)
    no_low, no_high = ~low.valid, ~high.valid
    low, high = choose(no_low, high, low), choose(no_high, low, high)
    if isinstance(low, QuantityVec) and isinstance(high, QuantityVec):
        low, high = _in_first_units(call, owner, low, high)
    order = np.lexsort((*reversed(sort_keys(low)), owner))
    owner, low, high, no_low, no_high = (
        owner[order],
        low.take(order),
        high.take(order),
        no_low[order],
        no_high[order],
    )
    begins, reach = _gap(low, high, per if isinstance(per, QuantityVec) else None, owner)
    count = len(owner)
    _, rank = np.unique(reach, return_inverse=True)
    furthest = np.maximum.accumulate(rank.astype(np.int64) + owner * (count + 1)) - owner * (count + 1)
    values = np.unique(reach)
    fresh = np.ones(count, dtype=bool)
    fresh[1:] = (owner[1:] != owner[:-1]) | np.asarray(begins[1:] > values[furthest[:-1]], dtype=bool)
    first = np.flatnonzero(fresh)
    group = np.cumsum(fresh) - 1
    by_end = np.lexsort((*reversed(sort_keys(high)), group))
    last = by_end[np.concatenate([np.flatnonzero(np.diff(group[by_end])), [count - 1]])] if count else first
    open_low, open_high = (np.bincount(group[no], minlength=len(first)) > 0 for no in (no_low, no_high))
    merged = IntervalVec(
        low.take(np.where(open_low, -1, first)),
        high.take(np.where(open_high, -1, last)),
        ~open_low,
        ~open_high,
        np.ones(len(first), dtype=bool),
    )
    return fold(call.n, owner[first], merged, operand.valid)


def _time_step(low: TemporalVec, per: QuantityVec | None) -> QuantityVec:
    """Size of one step for each interval of dates or times: ``per``, else one of the coarsest precision."""
    if per is not None:
        return per
    n = len(low)
    names = {0: "year", 1: "month", 3: "day", 4: "hour", 5: "minute", 6: "second", 7: "millisecond"}
    finest = int(low.precision.min()) if n else 3
    return QuantityVec(DecVec(np.full(n, ONE, dtype=np.int64)), StrVec.constant(names[finest], n))


def _at_precision(vec: TemporalVec, unit: IntArray) -> TemporalVec:
    """The values cut to the precision of the step; null where they are not known to it."""
    level = np.where(unit == WEEK, DAY, unit)
    cut = truncated(vec, np.minimum(level, vec.precision))
    return type(vec)(cut.low, cut.high, cut.precision, cut.valid & (level <= vec.precision))


@operator("Expand", "19.9", nulls="handled", lift=False)
def expand(call: Call, operand: Vec, per: Vec | None = None) -> Vec:
    """Intervals of size ``per`` within each interval of a list, or the starts of those within a single interval.

    Points are cut to the precision of ``per``; what remains at the end and is shorter than ``per`` is left out.
    """
    items = open_list(operand)
    kept = items.keep(items.flat.valid)
    if not isinstance(kept.flat, IntervalVec) or len(kept.flat) == 0:
        return ListVec(kept.offsets, NullVec(0), operand.valid) if len(kept.flat) == 0 else NullVec(call.n)
    owner, low, high = kept.parents, start(kept.flat), end(kept.flat)
    size = per.take(owner) if isinstance(per, QuantityVec) and per.valid.any() else None
    grain: AnyArray = np.ones(len(owner), dtype=np.int64)
    steps: QuantityVec | AnyArray
    if isinstance(low, TemporalVec) and isinstance(high, TemporalVec):
        steps = _time_step(low, size)
        unit = units_of(steps)
        if bool(np.any(unit < 0)) or bool(np.any(steps.value.values <= 0)):
            raise MeasureError("expand per a quantity that is not a positive span of time")
        low, high = _at_precision(low, unit), _at_precision(high, unit)
        counts = _count_of_time(low, high, steps, unit)
    else:
        low, high, steps, grain = _numeric_steps(low, high, size)
        counts = np.asarray((_numbers(high) - _numbers(low) + grain) // steps, dtype=np.int64)
    counts = np.where(low.valid & high.valid, np.maximum(counts, 0), 0)
    at = np.repeat(np.arange(len(owner), dtype=np.int64), counts)
    k = ranges(np.zeros(len(counts), dtype=np.int64), counts)
    begin = _advance(low.take(at), steps, at, k)
    rows = owner[at]
    if isinstance(operand, IntervalVec):
        return fold(call.n, rows, begin, operand.valid)
    after = _advance(low.take(at), steps, at, k + 1)
    finish = (
        neighbour(after, up=False) if isinstance(after, TemporalVec) else _advance(after, -grain, at, np.ones_like(k))
    )
    return fold(call.n, rows, closed(begin, finish, np.ones(len(at), dtype=bool)), operand.valid)


def _numeric_steps(low: Vec, high: Vec, size: QuantityVec | None) -> tuple[Vec, Vec, AnyArray, AnyArray]:
    """Ends cut to the precision of the step, the step, and the unit of that precision (all on the points' scale)."""
    if isinstance(low, TemporalVec) or isinstance(high, TemporalVec):
        raise MeasureError("expand of an interval of mixed points")
    n = len(low)
    if isinstance(low, IntVec | LongVec):
        if size is None:
            one = np.ones(n, dtype=np.int64)
            return low, high, one, one
        if not bool(np.any(size.value.values % ONE != 0)):
            steps = size.value.values // ONE
            _positive(steps)
            return low, high, steps, np.ones(n, dtype=np.int64)
        # an integer point stands for the whole unit after it
        low, high = as_decimal(low), DecVec(as_decimal(high).values + ONE - 1, high.valid)
    ends_of = [v.value if isinstance(v, QuantityVec) else as_decimal(v) for v in (low, high)]
    if size is None:
        digits = np.minimum(*(decimal_digits(v.values) for v in ends_of))
        steps = np.array([ONE // 10**d for d in range(9)], dtype=np.int64)[digits]
        grain = steps
    else:
        steps = size.value.values
        grain = np.array([ONE // 10**d for d in range(9)], dtype=np.int64)[decimal_digits(steps)]
    _positive(steps)
    cut = [DecVec(v.values // grain * grain, v.valid) for v in ends_of]
    if isinstance(low, QuantityVec) and isinstance(high, QuantityVec):
        return QuantityVec(cut[0], low.unit), QuantityVec(cut[1], high.unit), steps, grain
    return cut[0], cut[1], steps, grain


def _positive(steps: AnyArray) -> None:
    if bool(np.any(steps <= 0)):
        raise MeasureError("expand per a quantity that is not positive")


def _count_of_time(low: TemporalVec, high: TemporalVec, steps: QuantityVec, unit: IntArray) -> IntArray:
    """Whole steps that fit from the start through the end."""
    amount = np.maximum(steps.value.values // ONE, 1).astype(np.int64)
    counts = np.zeros(len(low), dtype=np.int64)
    for level in np.unique(unit).tolist():
        rows = np.flatnonzero(unit == level)
        a, b = (floor_to(v.low[rows], v.unit_ms, level) for v in (low, high))
        if level not in (YEAR, MONTH, WEEK) and MS_OF[level] < low.unit_ms:
            a, b = low.low[rows] * (DAY_MS // MS_OF[level]), (high.low[rows] + 1) * (DAY_MS // MS_OF[level]) - 1
        counts[rows] = (b - a + 1) // amount[rows]
    return counts


def _advance(low: Vec, steps: QuantityVec | AnyArray, at: IntArray, k: IntArray) -> Vec:
    """Each start moved by ``k`` steps."""
    if isinstance(steps, QuantityVec) and isinstance(low, TemporalVec):
        size = steps.take(at)
        return add_quantity(low, QuantityVec(DecVec(size.value.values * k, size.value.valid), size.unit), 1)
    moved: Any = np.asarray(steps)[at] * k
    if isinstance(low, QuantityVec):
        return QuantityVec(DecVec(low.value.values + moved, low.value.valid), low.unit)
    if isinstance(low, IntVec | LongVec | DecVec):
        return type(low)(low.values + moved, low.valid)
    raise MeasureError(f"expand of intervals of {low.kind}")
