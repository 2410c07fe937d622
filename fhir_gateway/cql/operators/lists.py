"""List operators, and the operators that lists and intervals share (CQL 1.5 appendix B, 19 and 20)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fhir_gateway.cql.dispatch import mask, unwrap
from fhir_gateway.cql.folding import distinct_rows, fold, open_list
from fhir_gateway.cql.operators import interval_sets
from fhir_gateway.cql.operators.comparison import equal_masks
from fhir_gateway.cql.operators.intervals import within
from fhir_gateway.cql.operators.logical import all_of
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.values import BoolVec, IntArray, IntervalVec, IntVec, ListVec, NullVec, Vec, concat
from fhir_gateway.errors import MeasureError

_NEITHER = "lists or intervals are needed"


def contains_element(call: Call, items: ListVec, element: Vec) -> BoolVec:
    """Whether a list has an element equal to the row's value; null when none is and some comparison is unknown."""
    owner = items.parents
    values = unwrap(items.flat)
    equal, known = equal_masks(call, values, element.take(owner))
    hit, unsure = np.zeros(call.n, dtype=bool), np.zeros(call.n, dtype=bool)
    hit[owner[equal]] = True
    unsure[owner[~known & values.valid]] = True
    return BoolVec(hit, hit | ~unsure)


@operator("Exists", "20.4", nulls="handled", lift=False)
def exists(call: Call, operand: Vec) -> Vec:
    """Whether a list has an element that is not null; a null list has none."""
    if not isinstance(operand, ListVec):
        return BoolVec(operand.valid)
    hit = np.zeros(call.n, dtype=bool)
    hit[operand.parents[operand.flat.valid]] = True
    return BoolVec(hit)


@operator("In", "19.12/20.10", nulls="handled", uncertain=True)
def in_(call: Call, element: Vec, container: Vec) -> Vec:
    """Membership of a point in an interval or of an element in a list; in null nothing is."""
    if isinstance(container, NullVec):
        return BoolVec(np.zeros(call.n, dtype=bool))
    if isinstance(container, ListVec):
        return _member(call, container, element)
    result = within(call, element, container)
    if not isinstance(result, BoolVec):
        return result
    missing = element.valid & ~container.valid
    return BoolVec(result.true & ~missing, (result.valid & element.valid & container.valid) | missing)


def _member(call: Call, items: ListVec, element: Vec) -> BoolVec:
    """Membership in a list: null is in a list that has a null, and in a null list nothing is."""
    found = contains_element(call, items, element)
    has_null = np.zeros(call.n, dtype=bool)
    has_null[items.parents[~unwrap(items.flat).valid]] = True
    values = np.where(element.valid, found.values, has_null) & items.valid
    return BoolVec(values, np.where(element.valid, found.valid, True) | ~items.valid)


def _other(call: Call, items: ListVec, element: Vec) -> BoolVec:
    """Whether a list has an element that is not equal to the row's value; nulls are equal to one another."""
    owner = items.parents
    values, mine = unwrap(items.flat), element.take(owner)
    equal, known = equal_masks(call, values, mine)
    both_null = ~values.valid & ~mine.valid
    one_null = values.valid & ~mine.valid
    differs = (known & ~equal) | one_null
    unsure = ~(known | both_null | one_null)
    hit, open_ = np.zeros(call.n, dtype=bool), np.zeros(call.n, dtype=bool)
    hit[owner[differs]] = True
    open_[owner[unsure]] = True
    return BoolVec(hit, hit | ~open_)


@operator("Contains", "19.5/20.1", nulls="handled", uncertain=True)
def contains(call: Call, container: Vec, element: Vec) -> Vec:
    """Membership the other way round."""
    return in_(call, element, container)


def _includes(call: Call, outer: Vec, inner: Vec, proper: bool) -> Vec:
    if isinstance(outer, ListVec):
        wanted = open_list(inner)
        frame = call.frame.child(wanted.parents)
        inside = contains_element(Call(call.evaluation, call.node, frame), outer.take(wanted.parents), wanted.flat)
        missing, unsure = np.zeros(call.n, dtype=bool), np.zeros(call.n, dtype=bool)
        missing[wanted.parents[inside.valid & ~inside.values & wanted.flat.valid]] = True
        unsure[wanted.parents[~inside.valid]] = True
        yes = ~missing & ~unsure
        if proper:
            yes &= outer.lengths > wanted.lengths
        return BoolVec(yes, yes | missing | ~unsure)
    if isinstance(outer, IntervalVec | NullVec):
        return within(call, inner, outer, proper=proper)
    raise MeasureError(_NEITHER)


@operator("Includes", "19.11/20.8")
def includes(call: Call, outer: Vec, inner: Vec) -> Vec:
    """Whether the first holds all of the second."""
    return _includes(call, outer, inner, proper=False)


@operator("IncludedIn", "19.10/20.9")
def included_in(call: Call, inner: Vec, outer: Vec) -> Vec:
    """Whether the second holds all of the first."""
    return _includes(call, outer, inner, proper=False)


@operator("ProperIncludes", "19.23/20.17")
def proper_includes(call: Call, outer: Vec, inner: Vec) -> Vec:
    """Includes, and has more."""
    return _includes(call, outer, inner, proper=True)


@operator("ProperIncludedIn", "19.23/20.18")
def proper_included_in(call: Call, inner: Vec, outer: Vec) -> Vec:
    """Included in one that has more."""
    return _includes(call, outer, inner, proper=True)


@operator("ProperIn", "19.24/20.16", nulls="handled")
def proper_in(call: Call, element: Vec, container: Vec) -> Vec:
    """In, and the container has something else as well; nothing is in a null list, in a null interval it is unknown."""
    if isinstance(container, NullVec):
        interval = any(s.get("type") == "IntervalTypeSpecifier" for s in call.node.elm.get("signature", ()))
        return NullVec(call.n) if interval else BoolVec(np.zeros(call.n, dtype=bool))
    if isinstance(container, ListVec):
        return all_of(_member(call, container, element), _other(call, container, element))
    return mask(within(call, element, container, proper=True), element.valid & container.valid)


@operator("ProperContains", "19.24/20.15", nulls="handled")
def proper_contains(call: Call, container: Vec, element: Vec) -> Vec:
    """Contains, and has more."""
    return proper_in(call, element, container)


def interleave(lists: list[ListVec], n: int) -> tuple[IntArray, Vec]:
    """Elements of several lists of each row, one list after the other: row of each element, and the elements."""
    owner = np.concatenate([items.parents for items in lists])
    order = np.argsort(owner, kind="stable")
    return owner[order], concat([items.flat for items in lists]).take(order)


def _of_intervals(call: Call, function: Callable[[IntervalVec, IntervalVec], Vec], left: Vec, right: Vec) -> Vec:
    if isinstance(left, IntervalVec) and isinstance(right, IntervalVec):
        return function(left, right)
    return NullVec(call.n)


@operator("Union", "19.30/20.25", nulls="handled", lift=False)
def union(call: Call, left: Vec, right: Vec) -> Vec:
    """Distinct elements of both lists; null counts as an empty list. Of intervals: one interval when they touch."""
    if isinstance(left, IntervalVec) or isinstance(right, IntervalVec):
        return _of_intervals(call, interval_sets.union, left, right)
    owner, items = interleave([open_list(left), open_list(right)], call.n)
    kept = distinct_rows(owner, items)
    return fold(call.n, owner[kept], items.take(kept), left.valid | right.valid)


def _set(call: Call, left: Vec, right: Vec, keep_common: bool) -> Vec:
    a, b = open_list(left), open_list(right)
    n = len(a.flat)
    owner, items = np.concatenate([a.parents, b.parents]), concat([a.flat, b.flat])
    ok = items.valid
    from fhir_gateway.cql.values.base import dense

    number = dense(owner, ok.astype(np.int64), *(np.where(ok, k, 0) for k in items.key_columns()))
    common = np.isin(number[:n], number[n:])
    kept = np.flatnonzero(common if keep_common else ~common)
    first = kept[distinct_rows(a.parents[kept], a.flat.take(kept))]
    return fold(call.n, a.parents[first], a.flat.take(first), left.valid & (right.valid if keep_common else True))


@operator("Intersect", "19.13/20.12", nulls="handled", lift=False)
def intersect(call: Call, left: Vec, right: Vec) -> Vec:
    """Distinct elements that both lists have."""
    if isinstance(left, IntervalVec) or isinstance(right, IntervalVec):
        return _of_intervals(call, interval_sets.intersect, left, right)
    return _set(call, left, right, keep_common=True)


@operator("Except", "19.9/20.5", nulls="handled", lift=False)
def except_(call: Call, left: Vec, right: Vec) -> Vec:
    """Distinct elements of the first list that the second lacks."""
    if isinstance(left, IntervalVec) or isinstance(right, IntervalVec):
        return _of_intervals(call, interval_sets.difference, left, right)
    return _set(call, left, right, keep_common=False)


@operator("Distinct", "20.3", nulls="handled", lift=False)
def distinct(call: Call, operand: Vec) -> Vec:
    """First of each distinct element."""
    items = open_list(operand)
    kept = distinct_rows(items.parents, items.flat)
    return fold(call.n, items.parents[kept], items.flat.take(kept), operand.valid)


@operator("Flatten", "20.7", nulls="handled", lift=False)
def flatten(call: Call, operand: Vec) -> Vec:
    """Lists of lists made lists."""
    outer = open_list(operand)
    inner = open_list(outer.flat)
    return fold(call.n, outer.parents[inner.parents], inner.flat, operand.valid)


@operator("SingletonFrom", "20.24", nulls="handled", lift=False)
def singleton_from(call: Call, operand: Vec) -> Vec:
    """The only element; null of an empty list; more than one is a run-time error."""
    items = open_list(operand)
    call.fail(items.lengths > 1, "singleton from a list of more than one element")
    return items.flat.take(np.where(items.lengths == 1, items.offsets[:-1], -1))


@operator("First", "20.6", nulls="handled", lift=False, fields=("source",))
def first(call: Call, source: Vec) -> Vec:
    """First element."""
    items = open_list(source)
    return items.flat.take(np.where(items.lengths > 0, items.offsets[:-1], -1))


@operator("Last", "20.13", nulls="handled", lift=False, fields=("source",))
def last(call: Call, source: Vec) -> Vec:
    """Last element."""
    items = open_list(source)
    return items.flat.take(np.where(items.lengths > 0, items.offsets[1:] - 1, -1))


@operator("Indexer", "17.6/20.11", nulls="handled", lift=False)
def indexer(call: Call, source: Vec, index: Vec) -> Vec:
    """Element at a zero-based index; null outside."""
    if isinstance(source, NullVec) or isinstance(index, NullVec):
        return NullVec(call.n)
    if isinstance(source, ListVec) and isinstance(index, IntVec):
        inside = index.valid & (index.values >= 0) & (index.values < source.lengths)
        return source.flat.take(np.where(inside, source.offsets[:-1] + index.values, -1))
    from fhir_gateway.cql.operators.strings import character_at

    return character_at(call, source, index)


@operator("IndexOf", "20.8", nulls="handled", lift=False, fields=("source", "element"))
def index_of(call: Call, source: Vec, element: Vec) -> Vec:
    """Zero-based index of the first equal element, -1 without one."""
    items = open_list(source)
    owner = items.parents
    equal, _ = equal_masks(call, unwrap(items.flat), element.take(owner))
    position = np.arange(len(owner), dtype=np.int64) - items.offsets[:-1][owner]
    result = np.full(call.n, -1, dtype=np.int64)
    hits = np.flatnonzero(equal)[::-1]
    result[owner[hits]] = position[hits]
    return IntVec(result, source.valid & element.valid)


@operator("ToList", "22.27", nulls="handled", lift=False)
def to_list(call: Call, operand: Vec) -> Vec:
    """A list of one; null gives an empty list."""
    items = open_list(operand)
    return operand if isinstance(operand, ListVec) else ListVec(items.offsets, items.flat)


@operator("Slice", "20.22", nulls="handled", lift=False, fields=("source", "startIndex", "endIndex"))
def slice_(call: Call, source: Vec, low: Vec, high: Vec) -> Vec:
    """Elements from ``startIndex`` (0 if null) up to but without ``endIndex`` (all if null): Skip, Tail and Take.

    Of an index below 0 the list is empty.
    """
    items = open_list(source)
    position = np.arange(len(items.flat), dtype=np.int64) - items.offsets[:-1][items.parents]
    start = _index(call, low, 0)
    stop = np.where(start < 0, 0, _index(call, high, 2**62))
    return items.keep((position >= start[items.parents]) & (position < stop[items.parents]))


def _index(call: Call, vec: Vec, default: int) -> IntArray:
    """An index of each row, ``default`` where it is null."""
    if isinstance(vec, NullVec):
        return np.full(call.n, default, dtype=np.int64)
    if not isinstance(vec, IntVec):
        raise MeasureError(f"a {vec.kind} as the index of a list")
    return np.where(vec.valid, vec.values, default)


__all__ = ["contains_element", "interleave"]
