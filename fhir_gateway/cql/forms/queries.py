"""Queries: sources open a child frame, clauses narrow it, closing folds rows into lists (CQL 1.5 appendix B, 12)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fhir_gateway.cql.compile import Node, Scope, combine
from fhir_gateway.cql.elm import Elm
from fhir_gateway.cql.folding import distinct_rows, fold, open_list, truth
from fhir_gateway.cql.forms.properties import walk
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.operators.aggregate import MIXED
from fhir_gateway.cql.operators.ordering import mixed_units, sort_keys
from fhir_gateway.cql.registry import form
from fhir_gateway.cql.values import IntArray, ListVec, NullVec, TupleVec, Vec, select
from fhir_gateway.cql.values.base import offsets_of


@dataclass(frozen=True)
class Relationship:
    """A ``with`` or ``without`` clause."""

    keep_related: bool
    alias: str
    source: Node
    such_that: Node


@dataclass(frozen=True)
class SortItem:
    """One key of a sort clause."""

    descending: bool
    path: str | None
    expression: Node | None


def compile_sort(scope: Scope, elm: Elm | None) -> list[SortItem]:
    """Keys of a sort clause."""
    items = []
    for by in (elm or {}).get("by", []):
        descending = by["direction"] in ("desc", "descending")
        if by["type"] == "ByDirection":
            items.append(SortItem(descending, None, None))
        elif by["type"] == "ByColumn":
            scope.compiler.property_names.update(by["path"].split("."))
            items.append(SortItem(descending, by["path"], None))
        elif by["type"] == "ByExpression":
            items.append(SortItem(descending, None, scope.compile(by["expression"])))
        else:
            raise scope.error(by, "unknown kind of sort item")
    return items


def sort_order(
    evaluation: Any, node: Node, frame: Frame, env: Env, parents: IntArray, items: Vec, keys: list[SortItem]
) -> IntArray:
    """Order of ``items`` within their parents: nulls first ascending, last descending; equal items keep their order."""
    columns: list[Any] = []
    this = frame.child(parents)
    scope = env.bind("alias:$this", this, items)
    for key in keys:
        if key.expression is not None:
            vec = evaluation.value(key.expression, this, scope)
        else:
            vec = walk(items, key.path) if key.path else items
        evaluation.fail(frame, mixed_units(vec, parents, frame.n), node, MIXED)
        columns.extend(-column if key.descending else column for column in sort_keys(vec))
    return np.lexsort((*reversed(columns), parents))


@form("Query")
def query(scope: Scope, elm: Elm) -> Node:
    """A query over one or more sources."""
    sources = [(s["alias"], scope.compile(s["expression"])) for s in elm["source"]]
    lets = [(x["identifier"], scope.compile(x["expression"])) for x in elm.get("let") or []]
    relationships = [
        Relationship(r["type"] == "With", r["alias"], scope.compile(r["expression"]), scope.compile(r["suchThat"]))
        for r in elm.get("relationship") or []
    ]
    where = scope.compile(elm["where"]) if elm.get("where") else None
    returned = elm.get("return") or {}
    result = scope.compile(returned["expression"]) if returned.get("expression") else None
    distinct = bool(returned.get("distinct", True)) if result is not None else False
    keys = compile_sort(scope, elm.get("sort"))
    aggregate = elm.get("aggregate")
    starting = scope.compile(aggregate["starting"]) if aggregate and aggregate.get("starting") else None
    folding = scope.compile(aggregate["expression"]) if aggregate else None

    clauses = [n for _, n in lets] + [n for r in relationships for n in (r.source, r.such_that)]
    clauses += [n for n in (where, result, folding) if n is not None]
    bound = {f"alias:{a}" for a, _ in sources} | {f"let:{x}" for x, _ in lets}
    bound |= {f"alias:{r.alias}" for r in relationships}
    if aggregate:
        bound |= {f"let:{aggregate['identifier']}", f"alias:{aggregate['identifier']}"}
    sorting = [k.expression for k in keys if k.expression is not None]
    outer = [n for _, n in sources] + ([starting] if starting is not None else [])
    free = combine(outer)[0] | (combine(clauses)[0] - bound) | (combine(sorting)[0] - bound - {"alias:$this"})
    patient = combine([*outer, *clauses, *sorting])[1]

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        rows, single, valid = frame, True, np.ones(frame.n, dtype=bool)
        for position, (alias, node) in enumerate(sources):
            value = evaluation.value(node, rows, env)
            single = single and not isinstance(value, ListVec)
            items = open_list(value)
            if position == 0:
                valid = items.valid
            rows = rows.child(items.parents)
            env = env.bind(f"alias:{alias}", rows, items.flat)
        for name, node in lets:
            env = env.bind(f"let:{name}", rows, evaluation.value(node, rows, env))
        for relationship in relationships:
            rows = _related(evaluation, rows, env, relationship)
        if where is not None:
            rows = rows.child(np.flatnonzero(truth(evaluation.value(where, rows, env))))
        parents = rows.rows_in(frame)
        if parents is None:
            raise AssertionError("a query opens at least one frame")
        if folding is not None and aggregate is not None:
            if aggregate.get("distinct"):
                items_of = {a: env.look_up(f"alias:{a}", rows) for a, _ in sources}
                rows = rows.child(distinct_rows(parents, TupleVec(items_of, np.ones(rows.n, dtype=bool))))
                parents = rows.rows_in(frame)
                if parents is None:
                    raise AssertionError("a query opens at least one frame")
            name = aggregate["identifier"]

            def bind(scope_env: Env, total: Vec, position: int) -> Env:
                return scope_env.bind(f"let:{name}", frame, total).bind(f"alias:{name}", frame, total)

            return fold_rows(evaluation, frame, rows, env, parents, bind, starting, folding)
        if result is not None:
            value = evaluation.value(result, rows, env)
        elif len(sources) == 1:
            value = env.look_up(f"alias:{sources[0][0]}", rows)
        else:
            value = TupleVec({a: env.look_up(f"alias:{a}", rows) for a, _ in sources}, np.ones(rows.n, dtype=bool))
        if distinct and not single:
            kept = distinct_rows(parents, value)
            if len(kept) != rows.n:
                parents, value = parents[kept], value.take(kept)
        if keys:
            order = sort_order(evaluation, query_node, frame, env, parents, value, keys)
            parents, value = parents[order], value.take(order)
        if single:
            at = np.full(frame.n, -1, dtype=np.int64)
            at[parents] = np.arange(len(parents), dtype=np.int64)
            only: Vec = value.take(at)
            return only
        return fold(frame.n, parents, value, valid)

    query_node = Node(scope.library, elm, run, free, patient)
    return query_node


def _related(evaluation: Any, rows: Frame, env: Env, relationship: Relationship) -> Frame:
    """Rows that have (``with``) or do not have (``without``) a related element."""
    items = open_list(evaluation.value(relationship.source, rows, env))
    inner = rows.child(items.parents)
    scope = env.bind(f"alias:{relationship.alias}", inner, items.flat)
    hit = truth(evaluation.value(relationship.such_that, inner, scope))
    related = np.zeros(rows.n, dtype=bool)
    related[items.parents[hit]] = True
    return rows.child(np.flatnonzero(related if relationship.keep_related else ~related))


def fold_rows(
    evaluation: Any,
    frame: Frame,
    rows: Frame,
    env: Env,
    parents: IntArray,
    bind: Callable[[Env, Vec, int], Env],
    starting: Node | None,
    folding: Node,
) -> Vec:
    """Fold the rows of each parent in order, one position of all parents at a time.

    ``bind`` puts the total so far (a vector of ``frame``) and the position into scope.
    """
    total: Vec = evaluation.value(starting, frame, env) if starting is not None else NullVec(frame.n)
    counts = np.bincount(parents, minlength=frame.n)
    starts = offsets_of(counts.astype(np.int64))[:-1]
    for position in range(int(counts.max(initial=0))):
        owners = np.flatnonzero(counts > position)
        at = rows.child(starts[owners] + position)
        value = evaluation.value(folding, at, bind(env, total, position))
        rest = np.flatnonzero(counts <= position)
        total = select(frame.n, [(owners, value), (rest, total.take(rest))] if len(rest) else [(owners, value)])
    return total


@form("Sort")
def sort(scope: Scope, elm: Elm) -> Node:
    """Sort of a list outside a query."""
    source = scope.compile(elm["source"])
    keys = compile_sort(scope, elm)
    sorting = [k.expression for k in keys if k.expression is not None]
    free = source.free | (combine(sorting)[0] - {"alias:$this"})
    patient = combine([source, *sorting])[1]

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        items = open_list(evaluation.value(source, frame, env))
        order = sort_order(evaluation, node, frame, env, items.parents, items.flat, keys)
        return ListVec(items.offsets, items.flat.take(order), items.valid)

    node = Node(scope.library, elm, run, free, patient)
    return node
