"""Aggregates beyond sums: products, modes, variances, deviations, geometric means (CQL 1.5 appendix B, 21).

Sums of squares are exact integers; roots are taken once for each row. Nulls are ignored; no element gives null.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal

import numpy as np

from fhir_gateway.cql.folding import distinct_rows
from fhir_gateway.cql.operators.aggregate import MIXED, in_one_unit, present, totals
from fhir_gateway.cql.operators.arithmetic import number
from fhir_gateway.cql.operators.ordering import as_decimal, mixed_units, sort_keys
from fhir_gateway.cql.registry import Call, operator
from fhir_gateway.cql.values import AnyArray, BoolArray, DecVec, IntVec, ListVec, LongVec, NullVec, QuantityVec, Vec
from fhir_gateway.cql.values.base import dense
from fhir_gateway.cql.values.scalars import ONE, SCALE, divide_half_up, narrow
from fhir_gateway.errors import MeasureError

#: Enough digits for roots and products of 28-digit decimals.
_CONTEXT = Context(prec=60)


@operator("Product", "21.16", fields=("source",))
def product(call: Call, source: Vec) -> Vec:
    """Product, rounded once at its end; of quantities in the unit ``1`` only."""
    items = present(source)
    flat = items.flat.value if isinstance(items.flat, QuantityVec) else items.flat
    some = items.lengths > 0
    if len(flat) == 0:
        return NullVec(call.n)
    if isinstance(items.flat, QuantityVec) and any(u not in (None, "1") for u in items.flat.unit.pylist()):
        raise MeasureError("product of quantities with units")
    if not isinstance(flat, IntVec | LongVec | DecVec):
        raise MeasureError(f"product of {flat.kind}")
    result = np.ones(len(items), dtype=object)
    place = np.arange(len(flat), dtype=np.int64) - items.offsets[:-1][items.parents]
    values = flat.values.astype(object)
    for position in range(int(items.lengths.max(initial=0))):  # one factor of every row at a time
        at = np.flatnonzero(place == position)
        result[items.parents[at]] *= values[at]
    if isinstance(flat, DecVec):  # each factor has brought its own ONE
        result = divide_half_up(result * ONE, np.array([ONE**count for count in items.lengths.tolist()], dtype=object))
    vec = number(type(flat), result, some)
    if isinstance(items.flat, QuantityVec) and isinstance(vec, DecVec):
        at = np.where(some, items.offsets[:-1], -1)
        return QuantityVec(vec, items.flat.unit.take(at))
    return vec


@operator("Mode", "21.11", fields=("source",))
def mode(call: Call, source: Vec) -> Vec:
    """Most frequent element; the smallest of several."""
    items = present(source)
    flat = items.flat
    if len(flat) == 0:
        return NullVec(call.n)
    call.fail(mixed_units(flat, items.parents, len(items)), MIXED)
    first = distinct_rows(items.parents, flat)
    group = dense(items.parents, *flat.key_columns())
    counts = np.bincount(group)[group[first]]
    ordered = np.lexsort((*reversed(sort_keys(flat.take(first))), -counts, items.parents[first]))
    best = first[ordered]
    starts = np.searchsorted(items.parents[best], np.arange(len(items), dtype=np.int64))
    return flat.take(np.where(items.lengths > 0, np.append(best, -1)[starts], -1))


def _squares(call: Call, items: ListVec, population: bool) -> tuple[AnyArray, AnyArray, BoolArray, Vec | None]:
    """Variance of each row as a fraction of scaled squares (10**-16), where it is known, and the unit of quantities."""
    flat = items.flat
    unit: Vec | None = None
    if isinstance(flat, QuantityVec):
        values, unit = in_one_unit(call, items)
    else:
        values = as_decimal(flat).values
    wide = values.astype(object)
    n = items.lengths.astype(object)
    total, squares = totals(items, wide).astype(object), totals(items, wide * wide).astype(object)
    below = n if population else n - 1
    known = items.lengths > (0 if population else 1)
    return n * squares - total * total, np.where(known, n * below, 1), known, unit


def _spread(call: Call, source: Vec, finish: Callable[[Decimal], Decimal], *, population: bool) -> Vec:
    items = present(source)
    if len(items.flat) == 0:
        return NullVec(call.n)
    top, bottom, known, unit = _squares(call, items, population)
    scale = Decimal(10) ** (2 * SCALE)
    results = [
        _scaled(finish(_CONTEXT.divide(Decimal(int(a)), Decimal(int(b)) * scale))) if ok else 0
        for a, b, ok in zip(top.tolist(), bottom.tolist(), known.tolist(), strict=True)
    ]
    value = DecVec(narrow(np.array(results, dtype=object)), known)
    return QuantityVec(value, unit) if unit is not None else value  # type: ignore[arg-type]


def _scaled(value: Decimal) -> int:
    return int(value.scaleb(SCALE, _CONTEXT).to_integral_value(rounding="ROUND_HALF_UP"))


def _same(value: Decimal) -> Decimal:
    return value


@operator("Variance", "21.19", fields=("source",))
def variance(call: Call, source: Vec) -> Vec:
    """Variance of a sample; null for fewer than two elements."""
    return _spread(call, source, _same, population=False)


@operator("PopulationVariance", "21.15", fields=("source",))
def population_variance(call: Call, source: Vec) -> Vec:
    """Variance of a whole population."""
    return _spread(call, source, _same, population=True)


@operator("StdDev", "21.17", fields=("source",))
def std_dev(call: Call, source: Vec) -> Vec:
    """Standard deviation of a sample; null for fewer than two elements."""
    return _spread(call, source, _CONTEXT.sqrt, population=False)


@operator("PopulationStdDev", "21.14", fields=("source",))
def population_std_dev(call: Call, source: Vec) -> Vec:
    """Standard deviation of a whole population."""
    return _spread(call, source, _CONTEXT.sqrt, population=True)


@operator("GeometricMean", "21.7", fields=("source",))
def geometric_mean(call: Call, source: Vec) -> Vec:
    """The n-th root of the product; null for no element or one that is not positive."""
    items = present(source)
    if len(items.flat) == 0:
        return NullVec(call.n)
    values = as_decimal(items.flat).values
    positive = np.asarray(values > 0, dtype=bool)
    known: BoolArray = items.lengths > 0
    known[items.parents[~positive]] = False
    results = [
        _scaled(_root_of_product(values[start:end].tolist())) if ok else 0
        for start, end, ok in zip(items.offsets[:-1].tolist(), items.offsets[1:].tolist(), known.tolist(), strict=True)
    ]
    return DecVec(narrow(np.array(results, dtype=object)), known)


def _root_of_product(scaled: list[int]) -> Decimal:
    logs = sum((_CONTEXT.ln(Decimal(v).scaleb(-SCALE, _CONTEXT)) for v in scaled), Decimal(0))
    return _CONTEXT.exp(_CONTEXT.divide(logs, Decimal(len(scaled))))
