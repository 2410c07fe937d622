"""Literals and references: definitions, parameters, operands, aliases, terminology (CQL 1.5 appendix B, 2-3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fhir_gateway.cql.compile import Compiler, Node, Scope, compile_operator
from fhir_gateway.cql.elm import Elm, Library
from fhir_gateway.cql.frame import Env, Frame, zeros
from fhir_gateway.cql.literals import literal_vector, out_of_range
from fhir_gateway.cql.registry import form
from fhir_gateway.cql.typespec import local_name
from fhir_gateway.cql.values import CodeVec, ConceptVec, ListVec, NullVec, StrVec, ValueSetVec, Vec, concat
from fhir_gateway.cql.values.base import offsets_of
from fhir_gateway.cql.values.clinical import CodeSystemVec


def library_of(scope: Scope, elm: Elm) -> Library:
    """The library a reference points into."""
    return referenced_library(scope.compiler, scope.library, elm)


def referenced_library(compiler: Compiler, library: Library, elm: Elm) -> Library:
    """The library that a reference in ``library`` points into."""
    alias = elm.get("libraryName")
    return compiler.libraries.included(library, alias) if alias else library


@form("Literal")
def literal(scope: Scope, elm: Elm) -> Node:
    """Literal of a System type."""
    type_name = local_name(elm["valueType"])
    value = elm.get("value", "")

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        return literal_vector(type_name, value, evaluation.offset_ms).take(zeros(frame.n))

    if type_name not in ("Boolean", "Integer", "Long", "Decimal", "String", "Date", "DateTime", "Time"):
        raise scope.error(elm, f"literal of type {type_name}")
    problem = out_of_range(type_name, str(value))
    if problem:
        raise scope.error(elm, problem)
    return Node(scope.library, elm, run)


@form("Negate")
def negate(scope: Scope, elm: Elm) -> Node:
    """Minus; of a literal, the negative literal (so that the smallest Integer and Long can be written)."""
    operand = elm["operand"]
    if operand.get("type") == "Literal" and local_name(operand["valueType"]) in ("Integer", "Long", "Decimal"):
        return scope.compile({**operand, "value": f"-{operand['value']}"})
    return compile_operator(scope, elm)


@form("Null")
def null(scope: Scope, elm: Elm) -> Node:
    """Untyped null."""
    return Node(scope.library, elm, lambda evaluation, frame, env: NullVec(frame.n))


@form("ExpressionRef")
def expression_ref(scope: Scope, elm: Elm) -> Node:
    """An expression definition: computed once for the batch, gathered into the frame that refers to it."""
    library, name = library_of(scope, elm), elm["name"]
    target = scope.compiler.definition(library, name)

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        home: Frame
        vec: Vec
        home, vec = evaluation.definition(library, name)
        rows = zeros(frame.n) if home is evaluation.unit else frame.rows_in(home)
        return vec if rows is None else vec.take(rows)

    return Node(scope.library, elm, run, patient=target.patient)


@form("ParameterRef")
def parameter_ref(scope: Scope, elm: Elm) -> Node:
    """A parameter of the run, else its default."""
    library, name = library_of(scope, elm), elm["name"]
    scope.declared(elm, library, library.parameters, "parameter")

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        vec: Vec = evaluation.parameter(library, name).take(zeros(frame.n))
        return vec

    return Node(scope.library, elm, run)


def _named(prefix: str) -> Any:
    def compiler(scope: Scope, elm: Elm) -> Node:
        name = prefix + elm["name"]
        return Node(
            scope.library, elm, lambda evaluation, frame, env: env.look_up(name, frame), frozenset([name]), cheap=True
        )

    return compiler


form("OperandRef")(_named("operand:"))
form("AliasRef")(_named("alias:"))
form("QueryLetRef")(_named("let:"))


@form("ValueSetRef")
def value_set_ref(scope: Scope, elm: Elm) -> Node:
    """A value set by name; expanded where codes are tested against it."""
    library = library_of(scope, elm)
    declared = scope.declared(elm, library, library.value_sets, "value set")
    url, version = declared["id"], declared.get("version")
    scope.compiler.required_value_sets.add((url, version))
    return Node(scope.library, elm, lambda evaluation, frame, env: ValueSetVec(url, version, frame.n))


def declared_code(library: Library, scope: Scope, elm: Elm, name: str) -> CodeVec:
    """A code of a library's codes section as a one-row vector."""
    declared = scope.declared({**elm, "name": name}, library, library.codes, "code")
    reference = declared.get("codeSystem")
    if reference is None:
        raise scope.error(elm, f"code {name!r} of {library.label} has no code system")
    home = referenced_library(scope.compiler, library, reference)
    system = scope.declared(reference, home, home.code_systems, "code system")
    return _code(declared["id"], system, declared.get("display"))


def _code(code: str, system: Elm, display: str | None) -> CodeVec:
    """A code of a declared code system as a one-row vector."""
    texts = {"code": code, "system": system["id"], "version": system.get("version"), "display": display}
    return CodeVec({k: StrVec.constant(text, 1) for k, text in texts.items()}, np.ones(1, dtype=bool))


@form("CodeSystemRef")
def code_system_ref(scope: Scope, elm: Elm) -> Node:
    """A code system by name; whether its content is in the package shows where codes are tested against it."""
    library = library_of(scope, elm)
    declared = scope.declared(elm, library, library.code_systems, "code system")
    url, version = declared["id"], declared.get("version")
    return Node(scope.library, elm, lambda evaluation, frame, env: CodeSystemVec(url, version, frame.n))


def _code_literal(scope: Scope, elm: Elm) -> CodeVec:
    reference = elm["system"]
    home = library_of(scope, reference)
    system = scope.declared(reference, home, home.code_systems, "code system")
    return _code(elm["code"], system, elm.get("display"))


@form("Code")
def code_literal(scope: Scope, elm: Elm) -> Node:
    """A code selector: code, display and a declared code system."""
    code = _code_literal(scope, elm)
    return Node(scope.library, elm, lambda evaluation, frame, env: code.take(zeros(frame.n)))


@form("Concept")
def concept_literal(scope: Scope, elm: Elm) -> Node:
    """A concept selector: codes and a display."""
    codes = [_code_literal(scope, code) for code in elm.get("code", [])]
    listed = ListVec(offsets_of(np.array([len(codes)], dtype=np.int64)), concat(codes))
    concept = ConceptVec({"codes": listed, "display": StrVec.constant(elm.get("display"), 1)}, np.ones(1, dtype=bool))
    return Node(scope.library, elm, lambda evaluation, frame, env: concept.take(zeros(frame.n)))


@form("CodeRef")
def code_ref(scope: Scope, elm: Elm) -> Node:
    """A code by name."""
    code = declared_code(library_of(scope, elm), scope, elm, elm["name"])
    return Node(scope.library, elm, lambda evaluation, frame, env: code.take(zeros(frame.n)))


@form("ConceptRef")
def concept_ref(scope: Scope, elm: Elm) -> Node:
    """A concept by name: a list of codes."""
    library = library_of(scope, elm)
    declared = scope.declared(elm, library, library.concepts, "concept")
    parts = [
        declared_code(referenced_library(scope.compiler, library, reference), scope, elm, reference["name"])
        for reference in declared["code"]
    ]
    codes = ListVec(offsets_of(np.array([len(parts)], dtype=np.int64)), concat(parts))
    display = StrVec.constant(declared.get("display"), 1)
    concept = ConceptVec({"codes": codes, "display": display}, np.ones(1, dtype=bool))
    return Node(scope.library, elm, lambda evaluation, frame, env: concept.take(zeros(frame.n)))
