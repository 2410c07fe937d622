"""As, Is, Convert on types and choices (CQL 1.5 appendix B, 4)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fhir_gateway.cql.compile import Node, Scope
from fhir_gateway.cql.elm import Elm
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.registry import form
from fhir_gateway.cql.typespec import any_matches, matches, specifier_of
from fhir_gateway.cql.values import BoolVec, ChoiceVec, ListVec, NullVec, Vec


def cast(vec: Vec, specifier: dict[str, Any]) -> Vec:
    """The values of the type; null where the value is of another one."""
    if isinstance(vec, NullVec):
        return vec
    if isinstance(vec, ChoiceVec):
        kept = [o for o in vec.options if matches(o, specifier)]
        if not kept:
            return NullVec(len(vec))
        return kept[0] if len(kept) == 1 else ChoiceVec(kept)
    if isinstance(vec, ListVec) and specifier["type"] == "ListTypeSpecifier":
        return ListVec(vec.offsets, cast(vec.flat, specifier["elementType"]), vec.valid)
    return vec if any_matches(vec, specifier) else NullVec(len(vec))


@form("As")
def as_(scope: Scope, elm: Elm) -> Node:
    """Cast; a strict cast of a value of another type is a run-time error for that row."""
    operand = scope.compile(elm["operand"])
    specifier = specifier_of(elm, "as")
    strict = bool(elm.get("strict", False))
    node = Node(scope.library, elm, operand.run, operand.free, operand.patient)

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        vec = evaluation.value(operand, frame, env)
        result = cast(vec, specifier)
        if strict:
            evaluation.fail(frame, vec.valid & ~result.valid, node, "a value is not of the type it is cast to")
        return result

    node.run = run
    return node


@form("Is")
def is_(scope: Scope, elm: Elm) -> Node:
    """Type test; null is of no type."""
    operand = scope.compile(elm["operand"])
    specifier = specifier_of(elm, "is")

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        vec = evaluation.value(operand, frame, env)
        hit = np.zeros(frame.n, dtype=bool)
        for option in vec.options if isinstance(vec, ChoiceVec) else (vec,):
            if not isinstance(option, NullVec) and matches(option, specifier):
                hit |= option.valid
        return BoolVec(hit)

    return Node(scope.library, elm, run, operand.free, operand.patient)
