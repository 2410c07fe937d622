"""Children and Descendents: the elements of a value as a list of whatever types they are (CQL 1.5 appendix B, 22)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fhir_gateway.cql.compile import Node, Scope
from fhir_gateway.cql.dispatch import unwrap
from fhir_gateway.cql.elm import Elm
from fhir_gateway.cql.folding import fold, open_list
from fhir_gateway.cql.forms.properties import step
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.registry import form
from fhir_gateway.cql.values import (
    ChoiceVec,
    ElementVec,
    IntervalVec,
    ListVec,
    NullVec,
    QuantityVec,
    TupleVec,
    Vec,
    concat,
)
from fhir_gateway.r4 import spec


def _elements(vec: Vec) -> list[Vec]:
    """The elements of a structured value, in their order; none of a simple one."""
    if isinstance(vec, ElementVec):
        if spec.is_primitive(vec.fhir_type):
            return [vec.primitive()]
        definition = spec.type_definition(vec.fhir_type)
        names = dict.fromkeys(element.choice or element.name for element in definition.elements.values())
        return [vec.property(name) for name in names]
    if isinstance(vec, TupleVec):
        return [step(vec, name) for name in vec.fields]
    if isinstance(vec, QuantityVec):
        return [vec.value, vec.unit]
    if isinstance(vec, IntervalVec):
        return [step(vec, name) for name in ("low", "high", "lowClosed", "highClosed")]
    return []


def children(vec: Vec) -> ListVec | None:
    """The elements of each row's value, lists opened, without nulls; None when no value has elements."""
    n = len(vec)
    owners: list[Any] = []
    parts: list[Vec] = []
    if isinstance(vec, ListVec):
        inner = children(vec.flat)
        return None if inner is None else fold(n, vec.parents[inner.parents], inner.flat, vec.valid)
    options = vec.options if isinstance(vec, ChoiceVec) else (vec,)
    for part in (element for option in options for element in _elements(option)):
        opened = open_list(part)
        present = np.flatnonzero(opened.flat.valid & vec.valid[opened.parents])
        owners.append(opened.parents[present])
        parts.append(opened.flat.take(present))
    if not any(len(owner) for owner in owners):
        return None
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return fold(n, owner[order], concat(parts).take(order), vec.valid)


def descendents(vec: Vec) -> ListVec | None:
    """The elements of each row's value, and theirs, level by level."""
    levels = []
    level = children(vec)
    while level is not None:
        levels.append(level)
        level = children(level)
    if not levels:
        return None
    owner = np.concatenate([level.parents for level in levels])
    order = np.argsort(owner, kind="stable")
    return fold(len(vec), owner[order], concat([level.flat for level in levels]).take(order), vec.valid)


def _parts_of(scope: Scope, elm: Elm) -> Node:
    source = scope.compile(elm["source"])
    collect = children if elm["type"] == "Children" else descendents

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        vec = evaluation.value(source, frame, env)
        if isinstance(vec, NullVec):
            return NullVec(frame.n)
        found = collect(vec)
        return found if found is not None else fold(frame.n, np.zeros(0, dtype=np.int64), NullVec(0), unwrap(vec).valid)

    return Node(scope.library, elm, run, source.free, source.patient)


form("Children")(_parts_of)
form("Descendents")(_parts_of)
