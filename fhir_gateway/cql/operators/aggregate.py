"""Aggregates over lists; nulls are ignored (CQL 1.5 appendix B, 21)."""

from __future__ import annotations

import numpy as np

from fhir_gateway.cql.dispatch import unwrap
from fhir_gateway.cql.folding import open_list
from fhir_gateway.cql.operators.ordering import mixed_units, sort_keys
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.units import common_scale, converted
from fhir_gateway.cql.values import BoolVec, DecVec, IntVec, ListVec, LongVec, NullVec, QuantityVec, StrVec, Vec
from fhir_gateway.cql.values.base import AnyArray
from fhir_gateway.cql.values.scalars import ONE, divide_half_up, magnitude, narrow, overflows, widen_if
from fhir_gateway.errors import MeasureError


def present(source: Vec) -> ListVec:
    """The lists without their nulls, elements as System values."""
    items = open_list(source)
    values = ListVec(items.offsets, unwrap(items.flat), items.valid)
    return values.keep(values.flat.valid)


def totals(items: ListVec, values: AnyArray) -> AnyArray:
    """Sum of ``values`` (one for each element) in each row; exact."""
    (wide,) = widen_if(overflows(magnitude(values) * max(len(values), 1)), values)
    if wide.dtype == object:
        result = np.zeros(len(items), dtype=object)
        np.add.at(result, items.parents, wide)
        return narrow(result)
    running = np.concatenate([[0], np.cumsum(wide)])
    result_int: AnyArray = running[items.offsets[1:]] - running[items.offsets[:-1]]
    return result_int


@operator("Count", "21.4", nulls="handled", lift=False, fields=("source",))
def count(call: Call, source: Vec) -> Vec:
    """Number of elements that are not null; 0 for null."""
    return IntVec(present(source).lengths)


def in_one_unit(call: Call, items: ListVec) -> tuple[AnyArray, StrVec]:
    """Values of quantity elements in the unit of their row's first element, and that unit for each row.

    Rows with units that do not convert into each other fail.
    """
    flat = items.flat
    if not isinstance(flat, QuantityVec):
        raise MeasureError("quantities are needed")
    at = np.where(items.lengths > 0, items.offsets[:-1], -1)
    unit = flat.unit.take(at)
    scale = common_scale(flat.unit, unit.take(items.parents), where=flat.valid)
    failed = np.zeros(len(items), dtype=bool)
    failed[items.parents[~scale.comparable]] = True
    call.fail(failed, MIXED)
    return converted(flat.value.values, scale), unit


@operator("Sum", "21.17", fields=("source",))
def sum_(call: Call, source: Vec) -> Vec:
    """Sum; null for no elements."""
    items = present(source)
    some = items.lengths > 0
    flat = items.flat
    if isinstance(flat, QuantityVec):
        values, unit = in_one_unit(call, items)
        return QuantityVec(DecVec(totals(items, values), some), unit)
    if isinstance(flat, IntVec | LongVec | DecVec):
        return type(flat)(totals(items, flat.values), some)
    if len(flat) == 0:
        return NullVec(call.n)
    raise MeasureError(f"sum of {flat.kind}")


@operator("Avg", "21.3", fields=("source",))
def avg(call: Call, source: Vec) -> Vec:
    """Arithmetic mean."""
    items = present(source)
    n = np.maximum(items.lengths, 1)
    some = items.lengths > 0
    flat = items.flat
    if isinstance(flat, QuantityVec):
        values, unit = in_one_unit(call, items)
        return QuantityVec(DecVec(divide_half_up(totals(items, values), n), some), unit)
    if isinstance(flat, DecVec):
        return DecVec(divide_half_up(totals(items, flat.values), n), some)
    if isinstance(flat, IntVec | LongVec):
        return DecVec(divide_half_up(totals(items, flat.values) * ONE, n), some)
    return NullVec(call.n)


#: Why a patient fails whose quantities cannot be compared.
MIXED = "quantities in units that do not convert into each other"


def _extreme(call: Call, items: ListVec, largest: bool) -> Vec:
    """First smallest or largest element of each row."""
    call.fail(mixed_units(items.flat, items.parents, len(items)), MIXED)
    keys = sort_keys(items.flat)
    if largest:
        keys = [-k for k in keys]
    order = np.lexsort((*reversed(keys), items.parents))
    at = np.where(items.lengths > 0, items.offsets[:-1], -1)
    return items.flat.take(np.where(at >= 0, order[at], -1) if len(order) else at)


@operator("Min", "21.11", fields=("source",))
def min_(call: Call, source: Vec) -> Vec:
    """Smallest element."""
    return _extreme(call, present(source), largest=False)


@operator("Max", "21.8", fields=("source",))
def max_(call: Call, source: Vec) -> Vec:
    """Largest element."""
    return _extreme(call, present(source), largest=True)


@operator("Median", "21.10", fields=("source",))
def median(call: Call, source: Vec) -> Vec:
    """Middle element; the mean of the middle two of an even number."""
    items = present(source)
    flat = items.flat
    if not isinstance(flat, IntVec | LongVec | DecVec):
        raise MeasureError(f"median of {flat.kind}")
    order = np.lexsort((*reversed(sort_keys(flat)), items.parents))
    values = flat.values[order] * (1 if isinstance(flat, DecVec) else ONE)
    some = items.lengths > 0
    if len(values) == 0:
        return DecVec(np.zeros(call.n, dtype=np.int64), some)
    low = items.offsets[:-1] + np.maximum(items.lengths - 1, 0) // 2
    high = items.offsets[:-1] + items.lengths // 2
    last = len(values) - 1
    pair = values[np.minimum(low, last)] + values[np.minimum(high, last)]
    return DecVec(divide_half_up(pair, np.full(call.n, 2, dtype=np.int64)), some)


@operator("AllTrue", "21.1", nulls="handled", lift=False, fields=("source",))
def all_true(call: Call, source: Vec) -> Vec:
    """Whether no element is false; true for none."""
    items = present(source)
    hit = np.ones(call.n, dtype=bool)
    if isinstance(items.flat, BoolVec):
        hit[items.parents[~items.flat.values]] = False
    return BoolVec(hit)


@operator("AnyTrue", "21.2", nulls="handled", lift=False, fields=("source",))
def any_true(call: Call, source: Vec) -> Vec:
    """Whether some element is true."""
    items = present(source)
    hit = np.zeros(call.n, dtype=bool)
    if isinstance(items.flat, BoolVec):
        hit[items.parents[items.flat.values]] = True
    return BoolVec(hit)
