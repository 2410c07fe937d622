"""Walks over lists outside of queries: Filter, ForEach, Repeat, Times, Aggregate (CQL 1.5 appendix B, 20 and 21).

``Current``, ``Iteration`` and ``Total`` are the item, its number from 0 and the total so far of the walk that their
``scope`` names, or of the innermost one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fhir_gateway.cql.compile import Node, Scope, combine
from fhir_gateway.cql.elm import Elm
from fhir_gateway.cql.folding import distinct_rows, fold, open_list, truth
from fhir_gateway.cql.forms.queries import fold_rows
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.registry import Call, form, operator
from fhir_gateway.cql.values import IntVec, ListVec, TupleVec, Vec, concat
from fhir_gateway.cql.values.base import ranges
from fhir_gateway.errors import MeasureError

_PREFIXES = {"Current": "alias", "Iteration": "iteration", "Total": "total"}
#: Rounds of ``Repeat`` after which its element is taken to make new items without end.
_ROUNDS = 10_000


def _bound(elm: Elm) -> frozenset[str]:
    """Names that a walk binds: with its scope, and without for references that give none."""
    scopes = {"$this", elm.get("scope") or "$this"}
    return frozenset(f"{prefix}:{scope}" for prefix in _PREFIXES.values() for scope in scopes)


def _reference(scope: Scope, elm: Elm) -> Node:
    name = f"{_PREFIXES[elm['type']]}:{elm.get('scope') or '$this'}"
    return Node(
        scope.library, elm, lambda evaluation, frame, env: env.look_up(name, frame), frozenset([name]), cheap=True
    )


for _kind in _PREFIXES:
    form(_kind)(_reference)


def _walk(elm: Elm, frame: Frame, env: Env, items: ListVec) -> tuple[Frame, Env]:
    """A frame with one row for each item, and what is in scope there."""
    inner = frame.child(items.parents)
    number = IntVec(np.arange(inner.n, dtype=np.int64) - items.offsets[:-1][items.parents])
    for name in {"$this", elm.get("scope") or "$this"}:
        env = env.bind(f"alias:{name}", inner, items.flat).bind(f"iteration:{name}", inner, number)
    return inner, env


def _names(elm: Elm, source: Node, *inner: Node) -> tuple[frozenset[str], bool]:
    free, patient = combine(inner)
    return source.free | (free - _bound(elm)), source.patient or patient


@form("Filter")
def filter_(scope: Scope, elm: Elm) -> Node:
    """Elements of a list for which the condition is true."""
    source, condition = scope.compile(elm["source"]), scope.compile(elm["condition"])

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        items = open_list(evaluation.value(source, frame, env))
        return items.keep(truth(evaluation.value(condition, *_walk(elm, frame, env, items))))

    return Node(scope.library, elm, run, *_names(elm, source, condition))


@form("ForEach")
def for_each(scope: Scope, elm: Elm) -> Node:
    """The expression evaluated for each element of a list."""
    source, element = scope.compile(elm["source"]), scope.compile(elm["element"])

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        items = open_list(evaluation.value(source, frame, env))
        return ListVec(items.offsets, evaluation.value(element, *_walk(elm, frame, env, items)), items.valid)

    return Node(scope.library, elm, run, *_names(elm, source, element))


@form("Repeat")
def repeat(scope: Scope, elm: Elm) -> Node:
    """What the element gives for each item, and for each of those again, until nothing new comes; each item once."""
    source, element = scope.compile(elm["source"]), scope.compile(elm["element"])
    node = Node(scope.library, elm, source.run, *_names(elm, source, element))

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        items = open_list(evaluation.value(source, frame, env))
        valid = items.valid
        found: ListVec | None = None
        for _ in range(_ROUNDS):
            made = open_list(evaluation.value(element, *_walk(elm, frame, env, items)))
            parents, values = items.parents[made.parents], made.flat
            known = 0 if found is None else len(found.flat)
            if found is not None:
                parents = np.concatenate([found.parents, parents])
                values = concat([found.flat, values])
            kept = distinct_rows(parents, values)
            kept = kept[values.valid[kept]]
            fresh = kept[kept >= known]
            order = np.argsort(parents[kept], kind="stable")
            found = fold(frame.n, parents[kept][order], values.take(kept[order]), valid)
            if len(fresh) == 0:
                return found
            order = np.argsort(parents[fresh], kind="stable")
            items = fold(frame.n, parents[fresh][order], values.take(fresh[order]), valid)
        raise MeasureError(f"{scope.library.label} at {node.locator}: Repeat makes new items without end")

    node.run = run
    return node


@form("Aggregate")
def aggregate(scope: Scope, elm: Elm) -> Node:
    """The iteration evaluated for each element in turn, with the total so far; the last total."""
    source, iteration = scope.compile(elm["source"]), scope.compile(elm["iteration"])
    initial = scope.compile(elm["initialValue"]) if elm.get("initialValue") else None
    free, patient = _names(elm, source, iteration)
    if initial is not None:
        free, patient = free | initial.free, patient or initial.patient

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        items = open_list(evaluation.value(source, frame, env))
        inner, within = _walk(elm, frame, env, items)

        def bind(scope_env: Env, total: Vec, position: int) -> Env:
            return scope_env.bind("total:$this", frame, total)

        return fold_rows(evaluation, frame, inner, within, items.parents, bind, initial, iteration)

    return Node(scope.library, elm, run, free, patient)


@operator("Times", "20.29", lift=False)
def times(call: Call, left: Vec, right: Vec) -> Vec:
    """Every tuple of the first list with every tuple of the second: tuples with the elements of both."""
    a, b = open_list(left), open_list(right)
    lengths = b.lengths[a.parents]
    at = np.repeat(np.arange(len(a.flat), dtype=np.int64), lengths)
    first, second = a.flat.take(at), b.flat.take(ranges(b.offsets[:-1][a.parents], lengths))
    if not len(at):
        return fold(call.n, a.parents[at], first, left.valid & right.valid)
    if not isinstance(first, TupleVec) or not isinstance(second, TupleVec):
        raise MeasureError(f"lists of tuples are needed, not of {first.kind} and {second.kind}")
    both = TupleVec({**first.fields, **second.fields}, first.valid & second.valid)
    return fold(call.n, a.parents[at], both, left.valid & right.valid)


__all__ = ["aggregate", "filter_", "for_each", "repeat", "times"]
