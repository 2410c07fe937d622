"""Function calls: the body is evaluated in the caller's frame with its operands bound (CQL 1.5 appendix B, 3.4)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fhir_gateway.cql.compile import Function, Node, Scope, combine
from fhir_gateway.cql.elm import Elm
from fhir_gateway.cql.external import EXTERNAL
from fhir_gateway.cql.forms.references import library_of
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.native import NATIVE
from fhir_gateway.cql.registry import Call, form
from fhir_gateway.cql.typespec import matches
from fhir_gateway.cql.values import ChoiceVec, NullVec, Vec, select
from fhir_gateway.errors import MeasureError


def _accepts(specifiers: list[Elm], arguments: list[Vec]) -> bool:
    for specifier, argument in zip(specifiers, arguments, strict=True):
        options = argument.options if isinstance(argument, ChoiceVec) else (argument,)
        if not all(matches(option, specifier) for option in options):
            return False
    return True


def _specifiers(body: Elm) -> list[Elm]:
    return [
        o.get("operandTypeSpecifier") or {"type": "NamedTypeSpecifier", "name": o["operandType"]}
        for o in body.get("operand", [])
    ]


def _by_signature(scope: Scope, elm: Elm, bodies: list[Elm]) -> list[Elm]:
    """The overload that the translator named in the call, if it did."""
    signature = elm.get("signature")
    if not signature:
        return bodies
    digest = scope.library.digest(signature)
    exact = [b for b in bodies if scope.library.digest(_specifiers(b)) == digest]
    return exact or bodies


@form("FunctionRef")
def function_ref(scope: Scope, elm: Elm) -> Node:
    """A call of a user-defined function; overloads are told apart by signature, else by the operands' types."""
    library, name = library_of(scope, elm), elm["name"]
    operands = [scope.compile(o) for o in elm.get("operand", [])]
    bodies = [b for b in library.functions.get(name, ()) if len(b.get("operand", [])) == len(operands)]
    if not bodies:
        raise scope.error(elm, f"library {library.label} has no function {name!r} of {len(operands)} operands")
    bodies = _by_signature(scope, elm, bodies)
    native = NATIVE.get((library.name, name))
    named = set(scope.compiler.property_names)
    if library.name == "FHIRHelpers" and name in EXTERNAL and all(body.get("external") for body in bodies):
        return _external(scope, elm, operands)
    candidates = [(_specifiers(body), _function(scope, library, body)) for body in bodies]
    if native is not None:  # what only its ELM would look at need not be read beforehand
        scope.compiler.property_names = named
    free, patient = combine(operands)
    # a function without a body yet is being compiled: this call stands in it
    recursive = any(f.body is None for _, f in candidates)
    patient = patient or recursive or any(f.body is not None and f.body.patient for _, f in candidates)
    node = Node(scope.library, elm, _nothing, free, patient)

    def call(evaluation: Any, frame: Frame, arguments: list[Vec]) -> Vec:
        if native is not None:
            result = native(evaluation, frame, node, *arguments)
            if result is not None:
                return result
        chosen = [c for c in candidates if len(candidates) == 1 or _accepts(c[0], arguments)]
        if not chosen:
            return _lifted(evaluation, frame, arguments)
        function = chosen[0][1]
        if function.body is None:
            raise AssertionError("function without a body")
        env = Env()
        for operand, argument in zip(function.operands, arguments, strict=True):
            env = env.bind("operand:" + operand, frame, argument)
        if not recursive:
            result_vec: Vec = evaluation.value(function.body, frame, env)
            return result_vec
        if frame.n == 0:
            return NullVec(0)
        with deeper(evaluation, node):
            return evaluation.value(function.body, frame, env)  # type: ignore[no-any-return]

    def _lifted(evaluation: Any, frame: Frame, arguments: list[Vec]) -> Vec:
        """No overload takes the whole choice: each option goes to its own overload."""
        for position, argument in enumerate(arguments):
            if not isinstance(argument, ChoiceVec):
                continue
            branches = []
            for option in argument.options:
                rows = np.flatnonzero(option.valid)
                if len(rows):
                    taken = [a.take(rows) for a in arguments]
                    taken[position] = option.take(rows)
                    branches.append((rows, call(evaluation, frame.child(rows), taken)))
            return select(frame.n, branches)
        if all(isinstance(a, NullVec) or not a.valid.any() for a in arguments):
            return NullVec(frame.n)
        kinds = ", ".join(getattr(a, "type_name", a.kind) for a in arguments)
        known = np.logical_and.reduce([a.valid for a in arguments])
        evaluation.fail(frame, known, node, f"no overload of {name!r} takes ({kinds})")
        return NullVec(frame.n)

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        return call(evaluation, frame, [evaluation.value(o, frame, env) for o in operands])

    node.run = run
    return node


def _external(scope: Scope, elm: Elm, operands: list[Node]) -> Node:
    """A call of a function whose body is the engine's."""
    kernel = EXTERNAL[elm["name"]]
    given = elm["operand"][-1]
    if elm["name"] == "memberOf" and given.get("type") == "Literal":  # missing content is refused before the run
        scope.compiler.required_value_sets.add((given["value"], None))
    free, patient = combine(operands)
    node = Node(scope.library, elm, _nothing, free, patient)

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        found: Vec = kernel(Call(evaluation, node, frame), *(evaluation.value(o, frame, env) for o in operands))
        return found

    node.run = run
    return node


#: Calls of recursive functions inside one another; Python is given room for the frames of as many.
DEPTH = 500
_FRAMES = 60 * DEPTH


@contextmanager
def deeper(evaluation: Any, node: Node) -> Iterator[None]:
    """One recursive call more; MeasureError beyond the depth, which fails the patients whose data goes so far."""
    if evaluation.depth >= DEPTH:
        raise MeasureError(f"{node.library.label} at {node.locator}: recursion deeper than {DEPTH} calls")
    limit = sys.getrecursionlimit()
    if evaluation.depth == 0:
        sys.setrecursionlimit(max(limit, _FRAMES))
    evaluation.depth += 1
    try:
        yield
    finally:
        evaluation.depth -= 1
        if evaluation.depth == 0:
            sys.setrecursionlimit(limit)


def _function(scope: Scope, library: Any, body: Elm) -> Function:
    return scope.compiler.function(library, body)


def _nothing(evaluation: Any, frame: Frame, env: Env) -> Vec:
    return NullVec(frame.n)
