"""Tuples, instances, lists, intervals, quantities (CQL 1.5 appendix B, 2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fhir_gateway.cql.compile import Node, Scope, combine
from fhir_gateway.cql.dispatch import unwrap
from fhir_gateway.cql.elm import Elm
from fhir_gateway.cql.frame import Env, Frame, zeros
from fhir_gateway.cql.literals import decimal_vector, malformed
from fhir_gateway.cql.operators.intervals import is_inverted
from fhir_gateway.cql.registry import form
from fhir_gateway.cql.values import (
    BoolVec,
    IntervalVec,
    ListVec,
    NullVec,
    QuantityVec,
    RatioVec,
    StrVec,
    TupleVec,
    Vec,
    concat,
)


def _quantity(scope: Scope, elm: Elm) -> QuantityVec:
    problem = malformed("Decimal", str(elm["value"]))
    if problem:
        raise scope.error(elm, problem)
    return QuantityVec(decimal_vector(str(elm["value"])), StrVec.constant(elm.get("unit", "1"), 1))


@form("Quantity")
def quantity(scope: Scope, elm: Elm) -> Node:
    """Quantity literal."""
    vec = _quantity(scope, elm)
    return Node(scope.library, elm, lambda evaluation, frame, env: vec.take(zeros(frame.n)))


@form("Ratio")
def ratio(scope: Scope, elm: Elm) -> Node:
    """Ratio literal."""
    parts = {k: _quantity(scope, elm[k]) for k in ("numerator", "denominator")}
    vec = RatioVec(parts, np.ones(1, dtype=bool))
    return Node(scope.library, elm, lambda evaluation, frame, env: vec.take(zeros(frame.n)))


@form("Tuple")
def tuple_(scope: Scope, elm: Elm) -> Node:
    """Tuple selector."""
    parts = {e["name"]: scope.compile(e["value"]) for e in elm.get("element", [])}
    free, patient = combine(parts.values())

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        return TupleVec({k: evaluation.value(n, frame, env) for k, n in parts.items()}, np.ones(frame.n, dtype=bool))

    return Node(scope.library, elm, run, free, patient)


@form("List")
def list_(scope: Scope, elm: Elm) -> Node:
    """List selector: the elements of a row stand behind one another."""
    nodes = [scope.compile(e) for e in elm.get("element", [])]
    free, patient = combine(nodes)

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        count, n = len(nodes), frame.n
        offsets = np.arange(n + 1, dtype=np.int64) * count
        if count == 0:
            return ListVec(offsets, NullVec(0))
        joined = concat([unwrap(evaluation.value(node, frame, env)) for node in nodes])
        order = (np.arange(count, dtype=np.int64)[None, :] * n + np.arange(n, dtype=np.int64)[:, None]).ravel()
        return ListVec(offsets, joined.take(order))

    return Node(scope.library, elm, run, free, patient)


@form("Interval")
def interval(scope: Scope, elm: Elm) -> Node:
    """Interval selector; null when both boundaries are (ADR 0110: so do published expectations and cql-engine)."""
    low, high = (scope.compile(elm[k]) if elm.get(k) else None for k in ("low", "high"))
    low_closed = scope.compile(elm["lowClosedExpression"]) if elm.get("lowClosedExpression") else None
    high_closed = scope.compile(elm["highClosedExpression"]) if elm.get("highClosedExpression") else None
    free, patient = combine([n for n in (low, high, low_closed, high_closed) if n is not None])

    def closed(evaluation: Any, frame: Frame, env: Env, node: Node | None, attribute: str) -> Any:
        if node is None:
            return np.full(frame.n, bool(elm.get(attribute, True)))
        vec = unwrap(evaluation.value(node, frame, env))
        return vec.true if isinstance(vec, BoolVec) else np.zeros(frame.n, dtype=bool)

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        ends = [unwrap(evaluation.value(n, frame, env)) if n is not None else NullVec(frame.n) for n in (low, high)]
        made = IntervalVec(
            ends[0],
            ends[1],
            closed(evaluation, frame, env, low_closed, "lowClosed"),
            closed(evaluation, frame, env, high_closed, "highClosed"),
            ends[0].valid | ends[1].valid,
        )
        evaluation.fail(frame, is_inverted(made), node, "an interval that ends before it begins")
        return made

    node = Node(scope.library, elm, run, free, patient)
    return node


__all__ = ["interval", "list_", "quantity", "tuple_"]
