"""Interval operators (CQL 1.5 appendix B, 19). Points and intervals mix where CQL lets them."""

from __future__ import annotations

import numpy as np

from fhir_gateway.cql.frame import zeros
from fhir_gateway.cql.operators.logical import all_of, any_of
from fhir_gateway.cql.operators.ordering import has_order, order, reaches
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.values import (
    BoolArray,
    BoolVec,
    ChoiceVec,
    DateTimeVec,
    DateVec,
    DecVec,
    IntervalVec,
    IntVec,
    LongVec,
    NullVec,
    QuantityVec,
    StrVec,
    TemporalVec,
    TimeVec,
    UncertainVec,
    Vec,
    select,
)
from fhir_gateway.cql.values.temporal import DAY_MS, MAX_DAY, MAX_MS, MIN_DAY, MIN_MS, PRECISIONS
from fhir_gateway.errors import MeasureError

_LARGEST_DECIMAL = 10**28 - 1  # 99999999999999999999.99999999 in units of 10**-8


def extreme(like: Vec, largest: bool) -> Vec:
    """One-row vector of the smallest or largest value of the type of ``like``."""
    if isinstance(like, IntVec):
        return IntVec(np.array([2**31 - 1 if largest else -(2**31)], dtype=np.int64))
    if isinstance(like, LongVec):
        return LongVec(np.array([2**63 - 1 if largest else -(2**63)], dtype=np.int64))
    if isinstance(like, DecVec):
        return DecVec(np.array([_LARGEST_DECIMAL if largest else -_LARGEST_DECIMAL], dtype=object))
    if isinstance(like, QuantityVec):
        value = extreme(like.value, largest)
        known = np.flatnonzero(like.valid)
        unit = like.unit.take(known[:1]) if len(known) else StrVec.constant("1", 1)
        return QuantityVec(value, unit)  # type: ignore[arg-type]
    ends: dict[type[TemporalVec], tuple[int, int]] = {
        DateVec: (MIN_DAY, MAX_DAY),
        DateTimeVec: (MIN_MS, MAX_MS),
        TimeVec: (0, DAY_MS - 1),
    }
    if isinstance(like, TemporalVec):
        return type(like).exact(np.array([ends[type(like)][largest]], dtype=np.int64))
    raise MeasureError(f"a {like.kind} has no smallest or largest value")


def neighbour(vec: Vec, up: bool) -> Vec:
    """Successor or predecessor of each value (of a date or date-time: one unit of its own precision)."""
    sign = 1 if up else -1
    if isinstance(vec, NullVec):
        return vec
    if isinstance(vec, IntVec | LongVec | DecVec):
        return type(vec)(vec.values + sign, vec.valid)
    if isinstance(vec, QuantityVec):
        return QuantityVec(DecVec(vec.value.values + sign, vec.value.valid), vec.unit)
    if isinstance(vec, TemporalVec):
        from fhir_gateway.cql.operators.temporal import shift_own_precision

        return shift_own_precision(vec, sign)
    raise MeasureError(f"a {vec.kind} has no successor or predecessor")


def _pick(primary: Vec, mask: BoolArray, other: Vec) -> Vec:
    """``primary`` where ``mask``, else ``other``."""
    if mask.all():
        return primary
    rows, rest = np.flatnonzero(mask), np.flatnonzero(~mask)
    return select(len(mask), [(rows, primary.take(rows)), (rest, other.take(rest))])


def _end(bound: Vec, closed: BoolArray, other: Vec, largest: bool) -> Vec:
    n = len(closed)
    typed = other if isinstance(bound, NullVec) else bound
    if isinstance(typed, NullVec):
        return NullVec(n)
    result = bound
    inner = ~closed & bound.valid
    if inner.any():
        result = _pick(bound, ~inner, neighbour(bound, up=not largest))
    unbounded = closed & ~bound.valid
    if unbounded.any():
        limit = extreme(typed, largest).take(zeros(n))
        if isinstance(limit, QuantityVec) and isinstance(other, QuantityVec):
            limit = QuantityVec(limit.value, other.unit)  # of the row's other boundary
        result = limit if isinstance(result, NullVec) and unbounded.all() else _pick(result, ~unbounded, limit)
    return result


def start(interval: IntervalVec) -> Vec:
    """First point: the successor of an open boundary, the type's minimum for a closed null one, else null."""
    from fhir_gateway.cql.dispatch import mask

    return mask(_end(interval.low, interval.low_closed, interval.high, largest=False), interval.valid)


def end(interval: IntervalVec) -> Vec:
    """Last point; null when unknown."""
    from fhir_gateway.cql.dispatch import mask

    return mask(_end(interval.high, interval.high_closed, interval.low, largest=True), interval.valid)


def ends(vec: Vec) -> tuple[Vec, Vec]:
    """First and last point; a point is an interval of itself."""
    if isinstance(vec, IntervalVec):
        return start(vec), end(vec)
    return vec, vec


def level(call: Call) -> int | None:
    """The precision that the node names."""
    return PRECISIONS[call.precision] if call.precision else None


def _compare(left: Vec, right: Vec, precision: int | None, accept: str) -> BoolVec:
    """Kleene answer of ``left <op> right`` where ``accept`` holds the accepted signs out of ``<``, ``=``, ``>``."""
    n = len(left)
    if isinstance(left, NullVec) or isinstance(right, NullVec):
        return BoolVec(np.zeros(n, dtype=bool), np.zeros(n, dtype=bool))
    both = left.valid & right.valid
    masks = dict(zip("<=>", order(left, right, precision), strict=True))
    yes = np.logical_or.reduce([masks[sign] for sign in accept])
    known = np.logical_or.reduce(list(masks.values()))
    return BoolVec(yes & both, known & both)


def _bounded(point: Vec, bound: Vec, closed: BoolArray, precision: int | None, sign: str, *, proper: bool) -> BoolVec:
    """Whether a point lies on the inner side (``sign``) of a boundary.

    An open boundary is compared exclusively, at the precision if there is one (CQL 1.5, appendix B, 19.12 In); a
    closed one that is null bounds nothing, an open one that is null is unknown.
    """
    n = len(point)
    if isinstance(point, NullVec):
        return BoolVec(np.zeros(n, dtype=bool), np.zeros(n, dtype=bool))
    unbounded = closed & ~bound.valid & point.valid
    if isinstance(bound, NullVec):
        return BoolVec(unbounded, unbounded)
    both = point.valid & bound.valid
    if proper:
        closed = np.zeros(n, dtype=bool)
    outer, same, inner = order(point, bound, precision)[:: 1 if sign == ">" else -1]
    reached, missed = same | inner, outer
    if isinstance(point, UncertainVec):
        reached, missed = reaches(*((point, bound) if sign == ">" else (bound, point)))
    yes = np.where(closed, reached, inner)
    known = np.where(closed, reached | missed, outer | same | inner)
    return BoolVec((yes & both) | unbounded, (known & both) | unbounded)


def within(call: Call, inner: Vec, outer: Vec, *, proper: bool = False) -> Vec:
    """Whether ``inner`` (point or interval) lies in the interval ``outer``."""
    if isinstance(outer, NullVec) or isinstance(inner, NullVec):
        return NullVec(call.n)
    if not isinstance(outer, IntervalVec):
        raise MeasureError(f"a {outer.kind} where an interval is needed")
    p = level(call)
    if not isinstance(inner, IntervalVec):
        return all_of(
            _bounded(inner, outer.low, outer.low_closed, p, ">", proper=proper),
            _bounded(inner, outer.high, outer.high_closed, p, "<", proper=proper),
        )
    (a_low, a_high), (b_low, b_high) = ends(inner), ends(outer)
    inside = all_of(_compare(a_low, b_low, p, "=>"), _compare(a_high, b_high, p, "<="))
    if not proper:
        return inside
    return all_of(inside, any_of(_compare(a_low, b_low, p, ">"), _compare(a_high, b_high, p, "<")))


def is_inverted(interval: IntervalVec) -> BoolArray:
    """Where both boundaries are known and nothing lies between them: no such interval exists (CQL 1.5, intervals)."""
    low, high = interval.low, interval.high
    if isinstance(low, NullVec | ChoiceVec) or isinstance(high, NullVec | ChoiceVec):
        return np.zeros(len(interval), dtype=bool)
    _, same, after = order(low, high)
    both = low.valid & high.valid
    return np.asarray(both & (after | (same & ~(interval.low_closed & interval.high_closed))), dtype=bool)


def _strict(result: Vec, *operands: Vec) -> Vec:
    """Null where an operand is null."""
    from fhir_gateway.cql.dispatch import mask

    return mask(result, np.logical_and.reduce([o.valid for o in operands]))


def is_interval_like(vec: Vec) -> bool:
    """Whether the vector can stand in an interval comparison."""
    return isinstance(vec, IntervalVec | NullVec) or has_order(vec)


@operator("Start", "19.29")
def start_of(call: Call, operand: Vec) -> Vec:
    """Start of an interval."""
    if not isinstance(operand, IntervalVec):
        raise MeasureError(f"start of a {operand.kind}")
    return start(operand)


@operator("End", "19.7")
def end_of(call: Call, operand: Vec) -> Vec:
    """End of an interval."""
    if not isinstance(operand, IntervalVec):
        raise MeasureError(f"end of a {operand.kind}")
    return end(operand)


@operator("PointFrom", "19.22")
def point_from(call: Call, operand: Vec) -> Vec:
    """The only point of an interval; more than one is a run-time error."""
    low, high = ends(operand)
    if isinstance(low, NullVec) or isinstance(high, NullVec):
        return NullVec(call.n)
    same = order(low, high)[1]
    call.fail(operand.valid & ~same, "point from an interval of more than one point")
    return low


@operator("Width", "19.31")
def width(call: Call, operand: Vec) -> Vec:
    """End minus start."""
    low, high = ends(operand)
    if isinstance(low, IntVec | LongVec | DecVec) and isinstance(high, IntVec | LongVec | DecVec):
        return type(low)(high.values - low.values, low.valid & high.valid)
    if isinstance(low, QuantityVec) and isinstance(high, QuantityVec):
        return QuantityVec(DecVec(high.value.values - low.value.values, low.valid & high.valid), low.unit)
    raise MeasureError(f"width of intervals of {low.kind}")


@operator("Size", "19.28")
def size(call: Call, operand: Vec) -> Vec:
    """How many points an interval has, in units of its points: width plus the size of a point."""
    between = width(call, operand)
    if isinstance(between, IntVec | LongVec | DecVec):
        return type(between)(between.values + 1, between.valid)
    if isinstance(between, QuantityVec):
        return QuantityVec(DecVec(between.value.values + 1, between.valid), between.unit)
    raise MeasureError(f"size of intervals of {between.kind}")


@operator("Overlaps", "19.18")
def overlaps(call: Call, left: Vec, right: Vec) -> Vec:
    """Whether two intervals share a point."""
    (a_low, a_high), (b_low, b_high), p = ends(left), ends(right), level(call)
    return all_of(_compare(a_low, b_high, p, "<="), _compare(b_low, a_high, p, "<="))


@operator("OverlapsBefore", "19.20")
def overlaps_before(call: Call, left: Vec, right: Vec) -> Vec:
    """Overlaps and begins before."""
    p = level(call)
    (a_low, a_high), (b_low, b_high) = ends(left), ends(right)
    shared = all_of(_compare(a_low, b_high, p, "<="), _compare(b_low, a_high, p, "<="))
    return all_of(shared, _compare(a_low, b_low, p, "<"))


@operator("OverlapsAfter", "19.19")
def overlaps_after(call: Call, left: Vec, right: Vec) -> Vec:
    """Overlaps and ends after."""
    p = level(call)
    (a_low, a_high), (b_low, b_high) = ends(left), ends(right)
    shared = all_of(_compare(a_low, b_high, p, "<="), _compare(b_low, a_high, p, "<="))
    return all_of(shared, _compare(a_high, b_high, p, ">"))


def relation(call: Call, left: Vec, right: Vec, accept: str) -> Vec:
    """Before, after, same as ... between points and intervals."""
    p = level(call)
    (a_low, a_high), (b_low, b_high) = ends(left), ends(right)
    if accept == "=":
        return all_of(_compare(a_low, b_low, p, "="), _compare(a_high, b_high, p, "="))
    return _compare(a_high, b_low, p, accept) if "<" in accept else _compare(a_low, b_high, p, accept)


@operator("Before", "19.3")
def before(call: Call, left: Vec, right: Vec) -> Vec:
    """Ends before the other starts."""
    return relation(call, left, right, "<")


@operator("After", "19.2")
def after(call: Call, left: Vec, right: Vec) -> Vec:
    """Starts after the other ends."""
    return relation(call, left, right, ">")


@operator("SameOrBefore", "19.26")
def same_or_before(call: Call, left: Vec, right: Vec) -> Vec:
    """Ends on or before the start of the other."""
    return relation(call, left, right, "<=")


@operator("SameOrAfter", "19.25")
def same_or_after(call: Call, left: Vec, right: Vec) -> Vec:
    """Starts on or after the end of the other."""
    return relation(call, left, right, "=>")


@operator("SameAs", "19.24")
def same_as(call: Call, left: Vec, right: Vec) -> Vec:
    """Same start and end (at the precision)."""
    return relation(call, left, right, "=")


@operator("Starts", "19.30")
def starts(call: Call, left: Vec, right: Vec) -> Vec:
    """Same start, ends within."""
    p = level(call)
    (a_low, a_high), (b_low, b_high) = ends(left), ends(right)
    return all_of(_compare(a_low, b_low, p, "="), _compare(a_high, b_high, p, "<="))


@operator("Ends", "19.8")
def ends_(call: Call, left: Vec, right: Vec) -> Vec:
    """Same end, starts within."""
    p = level(call)
    (a_low, a_high), (b_low, b_high) = ends(left), ends(right)
    return all_of(_compare(a_high, b_high, p, "="), _compare(a_low, b_low, p, "=>"))


def _never(answer: BoolVec, apart: BoolVec) -> BoolVec:
    """The answer, and false also where the intervals are known to lie the other way round."""
    return BoolVec(answer.true & ~apart.true, answer.valid | apart.true)


@operator("MeetsBefore", "19.16")
def meets_before(call: Call, left: Vec, right: Vec) -> Vec:
    """Ends just before the other starts."""
    (_, a_high), (b_low, b_high), p = ends(left), ends(right), level(call)
    return _never(_compare(neighbour(a_high, up=True), b_low, p, "="), _compare(ends(left)[0], b_high, p, ">"))


@operator("MeetsAfter", "19.15")
def meets_after(call: Call, left: Vec, right: Vec) -> Vec:
    """Starts just after the other ends."""
    (a_low, a_high), (b_low, b_high), p = ends(left), ends(right), level(call)
    return _never(_compare(a_low, neighbour(b_high, up=True), p, "="), _compare(a_high, b_low, p, "<"))


@operator("Meets", "19.14")
def meets(call: Call, left: Vec, right: Vec) -> Vec:
    """Either of the two."""
    first, second = meets_before(call, left, right), meets_after(call, left, right)
    return any_of(first, second)  # type: ignore[arg-type]


__all__ = ["end", "ends", "extreme", "neighbour", "relation", "start", "within"]
