"""Filters of a retrieve that look at each row's resources: codes from data, dates, ids (ELM ``Retrieve``).

A date filter keeps a resource whose date is in the range, or whose period is included in it: what ``during`` means in
the ``where`` clause that translators turn into a date range. A resource without that date does not pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fhir_gateway.cql.compile import Node, Scope
from fhir_gateway.cql.dispatch import unwrap
from fhir_gateway.cql.elm import Elm
from fhir_gateway.cql.forms.properties import walk
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.operators.comparison import equal_masks
from fhir_gateway.cql.operators.lists import in_, included_in
from fhir_gateway.cql.operators.terminology import coded_mask, codes_equivalent, expansion, is_coded
from fhir_gateway.cql.registry import Call
from fhir_gateway.cql.values import (
    BoolArray,
    BoolVec,
    ChoiceVec,
    ElementVec,
    IntervalVec,
    ListVec,
    NullVec,
    TemporalVec,
    ValueSetVec,
    Vec,
)

Test = Callable[[Call, Vec, Vec], BoolArray]


@dataclass(frozen=True)
class ItemFilter:
    """Elements of a resource, what they are held against, and how."""

    paths: tuple[str, ...]
    wanted: Node
    test: Test

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The expressions it needs."""
        return (self.wanted,)

    def keep(self, evaluation: Any, node: Node, frame: Frame, env: Env, items: ListVec) -> BoolArray:
        """Which of the items pass."""
        if len(items.flat) == 0:
            return np.zeros(0, dtype=bool)
        inner = frame.child(items.parents)
        held = [walk(items.flat, path) for path in self.paths]
        wanted = evaluation.value(self.wanted, frame, env).take(items.parents)
        return self.test(Call(evaluation, node, inner), _between(held) if len(held) == 2 else held[0], wanted)


def item_filters(scope: Scope, elm: Elm, codes: Node | None) -> list[ItemFilter]:
    """The filters of a retrieve; constant ``codes`` are filtered by the retrieve itself."""
    found = []
    if codes is not None and not codes.constant:
        found.append(ItemFilter((elm["codeProperty"],), codes, _has_code))
    if elm.get("id"):
        found.append(ItemFilter((elm.get("idProperty") or "id",), scope.compile(elm["id"]), _is_equal))
    if elm.get("dateRange"):
        found.append(ItemFilter(_date_paths(scope, elm, elm, "date"), scope.compile(elm["dateRange"]), _in_range))
    for one in elm.get("codeFilter") or []:
        _known(scope, elm, one, ("property", "value", "comparator"), (None, "in", "~", "="))
        found.append(ItemFilter((one["property"],), scope.compile(one["value"]), _has_code))
    for one in elm.get("dateFilter") or []:
        _known(scope, elm, one, ("property", "lowProperty", "highProperty", "value"), (None,))
        found.append(ItemFilter(_date_paths(scope, elm, one, ""), scope.compile(one["value"]), _in_range))
    for one in elm.get("otherFilter") or []:
        _known(scope, elm, one, ("property", "value", "comparator"), ("=",))
        found.append(ItemFilter((one["property"],), scope.compile(one["value"]), _is_equal))
    return found


def _known(scope: Scope, elm: Elm, one: Elm, fields: tuple[str, ...], comparators: tuple[str | None, ...]) -> None:
    unknown = sorted({*one} - {*fields, "localId", "locator", "annotation", "resultTypeName", "resultTypeSpecifier"})
    if unknown:
        raise scope.error(elm, f"retrieve with a filter by {', '.join(unknown)}")
    if one.get("comparator") not in comparators:
        raise scope.error(elm, f"retrieve with comparator {one.get('comparator')!r}")
    if not any(one.get(name) for name in fields if name.lower().endswith("property")):
        raise scope.error(elm, "retrieve with a filter of no property")


def _date_paths(scope: Scope, elm: Elm, given: Elm, prefix: str) -> tuple[str, ...]:
    names = ("Property", "LowProperty", "HighProperty") if prefix else ("property", "lowProperty", "highProperty")
    single, low, high = (given.get(prefix + name) for name in names)
    if single:
        return (single,)
    if low and high:
        return (low, high)
    raise scope.error(elm, "retrieve by date without the property of the date, or those of both ends")


def _options(vec: Vec) -> tuple[Vec, ...]:
    return vec.options if isinstance(vec, ChoiceVec) else (vec,)


def _has_code(call: Call, held: Vec, wanted: Vec) -> BoolArray:
    """Resources with a code of those wanted, by system and code."""
    if isinstance(wanted, ValueSetVec):
        return coded_mask(held, expansion(call, wanted))
    hit = np.zeros(call.n, dtype=bool)
    for option in _options(held):
        if is_coded(option) or (isinstance(option, ListVec) and is_coded(option.flat)):
            hit |= codes_equivalent(option, wanted)
    return hit


def _is_equal(call: Call, held: Vec, wanted: Vec) -> BoolArray:
    equal, known = equal_masks(call, unwrap(held), unwrap(wanted))
    return np.asarray(equal & known, dtype=bool)


def _period(vec: Vec) -> Vec:
    """A FHIR Period as an interval, a FHIR primitive as its value."""
    if isinstance(vec, ElementVec) and vec.fhir_type == "Period":
        low, high = (unwrap(vec.property(name)) for name in ("start", "end"))
        closed = np.ones(len(vec), dtype=bool)
        return IntervalVec(low, high, closed, closed, vec.valid & (low.valid | high.valid))
    return unwrap(vec)


def _between(ends: list[Vec]) -> Vec:
    low, high = (unwrap(end) for end in ends)
    closed = np.ones(len(low), dtype=bool)
    return IntervalVec(low, high, closed, closed, low.valid | high.valid)


def _in_range(call: Call, held: Vec, wanted: Vec) -> BoolArray:
    hit = np.zeros(call.n, dtype=bool)
    for option in map(_period, _options(held)):
        if isinstance(option, NullVec) or not isinstance(option, IntervalVec | TemporalVec):
            continue
        found = (included_in if isinstance(option, IntervalVec) else in_)(call, option, wanted)
        if isinstance(found, BoolVec):
            hit |= found.true & option.valid & wanted.valid
    return hit


__all__ = ["ItemFilter", "item_filters"]
