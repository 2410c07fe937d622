"""Property access: elements of resources, tuples, quantities, codes and intervals (CQL 1.5 appendix B, 2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fhir_gateway.cql.compile import Node, Scope
from fhir_gateway.cql.elm import Elm
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.registry import form
from fhir_gateway.cql.slices import COMPONENTS, ELEMENTS, component, is_slice
from fhir_gateway.cql.values import (
    BoolVec,
    ChoiceVec,
    ElementVec,
    IntervalVec,
    NullVec,
    QuantityVec,
    StrVec,
    TupleVec,
    ValueSetVec,
    Vec,
    select,
)
from fhir_gateway.errors import MeasureError

_SYSTEM_FIELDS = {"Code": {"code", "system", "version", "display"}, "Concept": {"codes", "display"}}


def step(vec: Vec, name: str) -> Vec:
    """One step of a property path."""
    n = len(vec)
    if isinstance(vec, NullVec):
        return vec
    if isinstance(vec, ElementVec):
        return component(vec, name) if is_slice(vec, name) else vec.property(name)
    if isinstance(vec, ChoiceVec):
        branches = []
        for option in vec.options:
            rows = np.flatnonzero(option.valid)
            if len(rows):
                branches.append((rows, _try_step(option.take(rows), name)))
        return select(n, branches)
    if isinstance(vec, QuantityVec) and name in ("value", "unit"):
        return vec.value if name == "value" else vec.unit
    if isinstance(vec, TupleVec):
        if name in vec.fields:
            return _masked(vec.fields[name], vec)
        if vec.kind == "Tuple" or name in _SYSTEM_FIELDS.get(vec.kind, ()):
            return NullVec(n)
    if isinstance(vec, IntervalVec):
        if name in ("low", "high"):
            return vec.low if name == "low" else vec.high
        if name in ("lowClosed", "highClosed"):
            return BoolVec(vec.low_closed if name == "lowClosed" else vec.high_closed, vec.valid)
    if isinstance(vec, ValueSetVec) and name in ("id", "version"):
        return StrVec.constant(vec.url if name == "id" else vec.version, n)
    if name == "value":  # a System value where a FHIR primitive was expected
        return vec
    raise MeasureError(f"a {vec.kind} has no property {name!r}")


def _try_step(vec: Vec, name: str) -> Vec:
    """A step into one option of a choice: an option without that property gives null."""
    if isinstance(vec, ElementVec):  # an element that it has and that cannot be read is an error also here
        return step(vec, name) if vec.has_element(name) or is_slice(vec, name) else NullVec(len(vec))
    try:
        return step(vec, name)
    except MeasureError:
        return NullVec(len(vec))


def _masked(field: Vec, owner: Vec) -> Vec:
    ok = owner.valid
    return field if ok.all() else field.take(np.where(ok, np.arange(len(ok), dtype=np.int64), -1))


def walk(vec: Vec, path: str) -> Vec:
    """All steps of a dotted path."""
    owner, names = vec, path.split(".")
    for position, name in enumerate(names):
        if name in _OF_PRIMITIVES and position:
            found = _beside(owner, names[position - 1], name)
            if found is not None:
                vec = found
                continue
        owner, vec = vec, step(vec, name)
    return vec


#: What a primitive has beside its value, also where it has none: ``birthDate.extension``.
_OF_PRIMITIVES = frozenset({"extension", "id"})


def _beside(owner: Vec, name: str, part: str) -> Vec | None:
    """``part`` of the primitive ``name`` of ``owner``; None where ``name`` is no primitive."""
    return owner.sibling(name, part) if isinstance(owner, ElementVec) else None


@form("Property")
def property_(scope: Scope, elm: Elm) -> Node:
    """A property of an expression (``source``) or of an alias (``scope``)."""
    path = elm["path"]
    scope.compiler.property_names.update(path.split("."))
    if not COMPONENTS.keys().isdisjoint(path.split(".")):
        scope.compiler.property_names.update(ELEMENTS)
    inner = elm.get("source") or {}
    if path in _OF_PRIMITIVES and inner.get("type") == "Property":  # looked at from the owner of what may be null
        joined = {k: v for k, v in inner.items() if k in ("source", "scope")}
        beside: Node = property_(scope, {**elm, "source": None, **joined, "path": f"{inner['path']}.{path}"})
        return beside
    if elm.get("source") is not None:
        source = scope.compile(elm["source"])

        def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
            return _located(scope, elm, evaluation.value(source, frame, env), path)

        return Node(scope.library, elm, run, source.free, source.patient)
    name = "alias:" + elm["scope"]

    def run_alias(evaluation: Any, frame: Frame, env: Env) -> Vec:
        return _located(scope, elm, env.look_up(name, frame), path)

    return Node(scope.library, elm, run_alias, frozenset([name]))


def _located(scope: Scope, elm: Elm, vec: Vec, path: str) -> Vec:
    try:
        return walk(vec, path)
    except MeasureError as error:
        raise scope.error(elm, error.message) from error


@form("IdentifierRef")
def identifier_ref(scope: Scope, elm: Elm) -> Node:
    """In ``sort by``: an element of the item being sorted (``$this`` is the item itself)."""
    name = elm["name"]
    scope.compiler.property_names.add(name)

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        this = env.look_up("alias:$this", frame)
        return this if name == "$this" else _located(scope, elm, this, name)

    return Node(scope.library, elm, run, frozenset(["alias:$this"]))
