"""Records tell the places of a shared node apart, and know what was not reached."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from fhir_gateway.cql import compile_library
from fhir_gateway.cql.clauses import Statement, plain, statements
from fhir_gateway.cql.evidence import evidence
from fhir_gateway.cql.explain import ExplainingEvaluation, truth_of
from fhir_gateway.cql.reasons import deciding
from fhir_gateway.cql.values import BoolVec, ChoiceVec, ListVec, NullVec
from fhir_gateway.measures.population import MemoryPopulation
from fhir_gateway.terminology import ValueSets
from tests.unit.cql.conftest import FHIR, NOW, library, literal

Elm = dict[str, Any]


def encounters(local_id: str) -> Elm:
    return {"type": "Retrieve", "dataType": FHIR + "Encounter", "localId": local_id}


def finished(local_id: str) -> Elm:
    """``E.status = 'finished'``: one node, wherever it stands in the library."""
    status = {"type": "Property", "path": "status.value", "scope": "E", "localId": local_id + "s"}
    return {"type": "Equal", "localId": local_id, "operand": [status, literal("String", "finished")]}


def query(local_id: str, source: Elm, **clauses: Any) -> Elm:
    return {"type": "Query", "localId": local_id, "source": [{"alias": "E", "expression": source}], **clauses}


def explain(definitions: dict[str, Elm], *resources: Elm) -> tuple[ExplainingEvaluation, dict[str, Statement]]:
    document = library(definitions)
    compiled = compile_library([document], ("Test", "1"), ValueSets([]))
    people = [{"resourceType": "Patient", "id": "p"}, *resources]
    (batch,) = MemoryPopulation([("p", people)]).batches()
    evaluation = ExplainingEvaluation(compiled, batch, {}, NOW)
    for name in definitions:
        evaluation.vector(name)
    return evaluation, {s.name: s for s in statements(evaluation, compiled.primary)}


def visit(name: str, status: str) -> Elm:
    return {"resourceType": "Encounter", "id": name, "status": status, "subject": {"reference": "Patient/p"}}


def test_the_same_condition_in_two_queries_has_two_values() -> None:
    none = query("10", encounters("11"), where={"type": "Not", "localId": "12", "operand": finished("13")})
    _, found = explain(
        {"All": query("1", encounters("2"), where=finished("3")), "None": query("20", none, where=finished("21"))},
        visit("a", "finished"),
    )
    assert found["All"].clauses["3"].outcome == "true"
    assert found["None"].clauses["13"].value == [True]
    assert found["None"].clauses["12"].outcome == "false"
    assert found["None"].clauses["21"].outcome == "uncovered"
    assert found["None"].value == []
    assert found["None"].resources == ("Encounter/a",)


def test_an_expression_that_was_computed_before_is_marked_inside_too() -> None:
    definitions = {
        "First": query("1", encounters("2"), where=finished("3")),
        "Second": {"type": "Exists", "localId": "9", "operand": query("4", encounters("5"), where=finished("6"))},
    }
    _, found = explain(definitions, visit("a", "finished"), visit("b", "planned"))
    assert found["Second"].clauses["6"].value == [True, False]
    assert found["Second"].clauses["6"].outcome == "true"
    assert found["Second"].clauses["4"].value == ["Encounter/a"]


def test_an_untaken_branch_is_not_reached() -> None:
    condition = {"type": "Exists", "localId": "1", "operand": encounters("2")}
    one, two = ({**literal("Integer", n), "localId": str(n)} for n in (10, 20))
    _, found = explain({"D": {"type": "If", "localId": "0", "condition": condition, "then": one, "else": two}})
    assert (found["D"].clauses["20"].value, found["D"].clauses["10"].outcome) == (20, "uncovered")


@pytest.mark.parametrize(("kind", "outcome"), [("With", "true"), ("Without", "false")])
def test_a_relationship_says_whether_it_kept_a_row(kind: str, outcome: str) -> None:
    related = {"type": kind, "localId": "5", "alias": "O", "expression": encounters("6"), "suchThat": finished("7")}
    evaluation, found = explain({"D": query("1", encounters("2"), relationship=[related])}, visit("a", "finished"))
    assert found["D"].clauses["5"].outcome == outcome
    stopped = [one.failed for one in evidence(evaluation, evaluation.compiled.primary, "D")]
    assert [None if f is None else (f.local_id, f.outcome) for f in stopped] == [
        None if kind == "With" else ("5", "false")
    ]


@pytest.mark.parametrize(("statuses", "clause"), [((), "2"), (("planned",), "3")])
def test_what_emptied_a_query_decided(statuses: tuple[str, ...], clause: str) -> None:
    definitions = {
        "Finished": query("1", encounters("2"), where=finished("3")),
        "Any": {"type": "Exists", "operand": {"type": "ExpressionRef", "name": "Finished"}},
        "Yes": literal("Boolean", "true"),
        "Both": {"type": "And", "operand": [{"type": "ExpressionRef", "name": name} for name in ("Yes", "Any")]},
    }
    resources = [visit(str(n), status) for n, status in enumerate(statuses)]
    evaluation, _ = explain(definitions, *resources)
    (reason,) = deciding(evaluation, evaluation.compiled.primary, "Both")
    assert (reason.definition, reason.local_id, reason.outcome) == ("Finished", clause, "false")


def test_truth_of_vectors() -> None:
    booleans = BoolVec(np.array([True, False, False]), np.array([True, True, False]))
    assert truth_of(booleans).true.tolist() == [True, False, False]
    assert truth_of(booleans).false.tolist() == [False, True, False]
    lists = ListVec(np.array([0, 1, 1, 1]), NullVec(1), np.array([True, True, False]))
    assert truth_of(lists).true.tolist() == [True, False, False]
    assert truth_of(lists).false.tolist() == [False, True, False]
    assert truth_of(ChoiceVec([booleans, NullVec(3)])).false.tolist() == [False, True, False]
    assert not truth_of(NullVec(3)).true.any()


def test_plain_values_are_json() -> None:
    value = {"a": Decimal("9.50"), "b": None, "c": [Decimal("3.0"), date(2026, 1, 1)]}
    assert plain(value) == {"a": 9.5, "c": [3, "2026-01-01"]}
