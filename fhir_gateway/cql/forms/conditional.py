"""If and Case: each branch is evaluated only for the rows that take it (CQL 1.5 appendix B, 5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fhir_gateway.cql.compile import Node, Scope, combine
from fhir_gateway.cql.dispatch import unwrap
from fhir_gateway.cql.elm import Elm
from fhir_gateway.cql.folding import truth
from fhir_gateway.cql.frame import Env, Frame
from fhir_gateway.cql.operators.comparison import equal_masks
from fhir_gateway.cql.registry import Call, form
from fhir_gateway.cql.typespec import matches, specifier_of
from fhir_gateway.cql.values import BoolArray, ChoiceVec, NullVec, Vec, select


def _branches(evaluation: Any, frame: Frame, env: Env, taken: list[tuple[BoolArray, Node]]) -> Vec:
    """Evaluate each node over its rows and put the results together."""
    results = []
    for rows_mask, node in taken:
        rows = np.flatnonzero(rows_mask)
        if len(rows) == 0:
            continue
        if len(rows) == frame.n:
            whole: Vec = evaluation.value(node, frame, env)
            return whole
        results.append((rows, evaluation.value(node, frame.child(rows), env)))
    return select(frame.n, results)


@form("If")
def if_(scope: Scope, elm: Elm) -> Node:
    """If-then-else."""
    condition, then, otherwise = (scope.compile(elm[k]) for k in ("condition", "then", "else"))
    free, patient = combine([condition, then, otherwise])

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        chosen = truth(evaluation.value(condition, frame, env))
        return _branches(evaluation, frame, env, [(chosen, then), (~chosen, otherwise)])

    return Node(scope.library, elm, run, free, patient)


@form("Case")
def case(scope: Scope, elm: Elm) -> Node:
    """Case with or without comparand; later conditions are evaluated only where no earlier one held."""
    comparand = scope.compile(elm["comparand"]) if elm.get("comparand") else None
    items = [(scope.compile(item["when"]), scope.compile(item["then"])) for item in elm["caseItem"]]
    otherwise = scope.compile(elm["else"])
    parts = [n for pair in items for n in pair] + [otherwise] + ([comparand] if comparand else [])
    free, patient = combine(parts)
    node = Node(scope.library, elm, otherwise.run, free, patient)
    tested = _tested_type(scope, elm)
    if tested is not None:
        operand = scope.compile(tested)
        specifiers = [specifier_of(item["when"], "is") for item in elm["caseItem"]]

        def run_types(evaluation: Any, frame: Frame, env: Env) -> Vec:
            """The first ``is`` that holds depends on a row's type only: each option of a choice has its branch."""
            vec = evaluation.value(operand, frame, env)
            rest = np.ones(frame.n, dtype=bool)
            chosen: dict[int, BoolArray] = {}
            for option in vec.options if isinstance(vec, ChoiceVec) else (vec,):
                if isinstance(option, NullVec):
                    continue
                branch = next((i for i, specifier in enumerate(specifiers) if matches(option, specifier)), None)
                if branch is not None:
                    held = option.valid
                    chosen[branch] = chosen[branch] | held if branch in chosen else held
                    rest &= ~held
            taken = [(held, items[branch][1]) for branch, held in chosen.items()]
            return _branches(evaluation, frame, env, [*taken, (rest, otherwise)])

        node.run = run_types
        return node

    def run(evaluation: Any, frame: Frame, env: Env) -> Vec:
        open_rows = np.ones(frame.n, dtype=bool)
        taken: list[tuple[BoolArray, Node]] = []
        for when, then in items:
            rows = np.flatnonzero(open_rows)
            if len(rows) == 0:
                break
            part = frame if len(rows) == frame.n else frame.child(rows)
            condition = evaluation.value(when, part, env)
            if comparand is None:
                hit = truth(condition)
            else:
                equal, known = equal_masks(
                    Call(evaluation, node, part), unwrap(evaluation.value(comparand, part, env)), unwrap(condition)
                )
                hit = equal & known
            chosen = np.zeros(frame.n, dtype=bool)
            chosen[rows[hit]] = True
            open_rows &= ~chosen
            taken.append((chosen, then))
        taken.append((open_rows, otherwise))
        return _branches(evaluation, frame, env, taken)

    node.run = run
    return node


def _tested_type(scope: Scope, elm: Elm) -> Elm | None:
    """The operand of a case whose every condition is an ``is`` of the same operand."""
    conditions = [item["when"] for item in elm["caseItem"]]
    if elm.get("comparand") or any(c.get("type") != "Is" for c in conditions):
        return None
    operand: Elm = conditions[0]["operand"]
    same = scope.library.digest(operand)
    return operand if all(scope.library.digest(c["operand"]) == same for c in conditions) else None
