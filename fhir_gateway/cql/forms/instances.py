"""Instance selectors (CQL 1.5 appendix B, 2.2): structured values of System types, and FHIR elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from fhir_gateway.cql.compile import Node, Scope, combine
from fhir_gateway.cql.dispatch import unwrap
from fhir_gateway.cql.elm import Elm
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.registry import form
from fhir_gateway.cql.typespec import SYSTEM, local_name
from fhir_gateway.cql.values import (
    CodeVec,
    ConceptVec,
    DecVec,
    ElementVec,
    IntVec,
    NullVec,
    QuantityVec,
    RatioVec,
    Source,
    StrVec,
    ValueSetVec,
    Vec,
)
from fhir_gateway.cql.values.clinical import CodeSystemVec
from fhir_gateway.cql.values.scalars import ONE
from fhir_gateway.r4 import spec


def _as_decimal(vec: Vec | None, n: int) -> DecVec:
    vec = unwrap(vec) if vec is not None else NullVec(n)
    if isinstance(vec, DecVec):
        return vec
    if isinstance(vec, IntVec):
        return DecVec(vec.values * ONE, vec.valid)
    return DecVec(np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool))


def _as_text(vec: Vec | None, n: int) -> StrVec:
    vec = unwrap(vec) if vec is not None else NullVec(n)
    return vec if isinstance(vec, StrVec) else StrVec.constant(None, n)


@form("Instance")
def instance(scope: Scope, elm: Elm) -> Node:
    """Instance selector of a structured type of System or FHIR."""
    name = local_name(elm["classType"])
    if not elm["classType"].startswith(SYSTEM):
        return _fhir_instance(scope, elm, name)
    if name in ("ValueSet", "CodeSystem"):
        return _vocabulary(scope, elm, ValueSetVec if name == "ValueSet" else CodeSystemVec)
    if name not in ("Quantity", "Code", "Concept", "Ratio"):
        raise scope.error(elm, f"instances of {elm['classType']}")
    parts = {e["name"]: scope.compile(e["value"]) for e in elm.get("element", [])}
    free, patient = combine(parts.values())

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        values = {k: evaluation.value(n, frame, env) for k, n in parts.items()}
        if name == "Quantity":
            return QuantityVec(_as_decimal(values.get("value"), frame.n), _as_text(values.get("unit"), frame.n))
        there = np.ones(frame.n, dtype=bool)
        if name == "Code":
            return CodeVec({k: _as_text(v, frame.n) for k, v in values.items()}, there)
        return (ConceptVec if name == "Concept" else RatioVec)(values, there)

    return Node(scope.library, elm, run, free, patient)


def _vocabulary(scope: Scope, elm: Elm, kind: type[ValueSetVec]) -> Node:
    """A value set or code system by literal id, which only a test of codes against it looks up: TerminologyError then.

    One computed from data cannot be resolved before the run.
    """
    given = {e["name"]: e["value"] for e in elm.get("element", [])}
    if given.get("id", {}).get("type") != "Literal" or any(v.get("type") != "Literal" for v in given.values()):
        raise scope.error(elm, "a value set or code system whose id is not a literal")
    url, version = given["id"].get("value", ""), given.get("version", {}).get("value")
    return Node(scope.library, elm, lambda evaluation, frame, env: kind(url, version, frame.n))


def _fhir_instance(scope: Scope, elm: Elm, name: str) -> Node:
    """A FHIR element or resource made of computed parts: a column of its own, like those that are read."""
    if name not in spec.type_names():
        raise scope.error(elm, f"instances of {elm['classType']}, which FHIR R4 does not have")
    parts = {e["name"]: scope.compile(e["value"]) for e in elm.get("element", [])}
    free, patient = combine(parts.values())
    structure = spec.type_structure(name)
    simple = spec.is_primitive(name)
    if simple and set(parts) - {"value"}:
        raise scope.error(elm, f"a {name} with {', '.join(sorted(set(parts) - {'value'}))}")
    columns = {part: (part, structure) if simple else _column(scope, elm, name, part) for part in parts}

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        arrays = {}
        for part, node in parts.items():
            label, inner = columns[part]  # what is made in a query is small: its values go by way of Python
            arrays[label] = pa.array(evaluation.value(node, frame, env).pylist(), spec.arrow_type(inner))
        if simple:
            array = arrays.get("value", pa.nulls(frame.n, spec.arrow_type(structure)))
        elif arrays:
            array = pa.StructArray.from_arrays(list(arrays.values()), list(arrays))
        else:
            array = pa.array([{}] * frame.n, pa.struct([]))
        source = Source(name, array, evaluation.offset_ms, path=name, structure=structure)
        return ElementVec.of(source, np.arange(frame.n, dtype=np.int64))

    return Node(scope.library, elm, run, free, patient)


def _column(scope: Scope, elm: Elm, fhir_type: str, part: str) -> tuple[str, Any]:
    """Column name and structure of one part of an instance; a choice (``value``) goes by the type it is given."""
    definition = spec.type_definition(fhir_type)
    name = part
    if part in definition.choices:
        given = next(e["value"] for e in elm["element"] if e["name"] == part)
        kind = local_name(str(given.get("classType") or given.get("asType") or "?"))
        found = [e.name for e in definition.choices[part] if e.type.lower() == kind.lower()]
        if not found:
            raise scope.error(elm, f"{fhir_type}.{part} of type {kind}")
        name = found[0]
    if name not in definition.elements:
        raise scope.error(elm, f"{fhir_type} has no element {part} in FHIR R4")
    structure = spec.type_structure(fhir_type)
    if name not in structure:
        raise scope.error(elm, f"{fhir_type}.{part} in an instance")
    return name, structure[name]
