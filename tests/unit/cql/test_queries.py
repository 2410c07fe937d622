"""Queries over resources: nesting, relationships, order, and the isolation of patients from one another."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.unit.cql.conftest import FHIR, Evaluate, literal

ENCOUNTERS = {"type": "Retrieve", "dataType": FHIR + "Encounter"}
CONDITIONS = {"type": "Retrieve", "dataType": FHIR + "Condition"}


def patient(key: str, **extra: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": key, **extra}


def encounter(key: str, status: str, start: str) -> dict[str, Any]:
    return {
        "resourceType": "Encounter",
        "id": key,
        "status": status,
        "class": {"code": "AMB"},
        "period": {"start": start},
        "subject": {"reference": "Patient/x"},
    }


def value_of(path: str, alias: str = "E") -> dict[str, Any]:
    steps = path.split(".")
    node: dict[str, Any] = {"type": "Property", "path": steps[0], "scope": alias}
    for step in [*steps[1:], "value"]:
        node = {"type": "Property", "path": step, "source": node}
    return node


PEOPLE = [
    (
        "a",
        [
            patient("a"),
            encounter("e1", "finished", "2026-01-05T10:00:00-05:00"),
            encounter("e2", "planned", "2026-01-04T10:00:00-05:00"),
        ],
    ),
    ("b", [patient("b")]),
    ("c", [patient("c"), encounter("e3", "finished", "2025-06-01")]),
]


def test_where_keeps_rows_inside_their_patient(evaluate: Evaluate) -> None:
    finished = {
        "type": "Query",
        "source": [{"alias": "E", "expression": ENCOUNTERS}],
        "where": {"type": "Equal", "operand": [value_of("status"), literal("String", "finished")]},
    }
    run = evaluate({"Finished": finished, "Any": {"type": "Exists", "operand": finished}}, PEOPLE)
    assert run.values("Finished") == [["Encounter/e1"], [], ["Encounter/e3"]]
    assert run.booleans("Any").tolist() == [True, False, True]


def test_episodes_are_distinct_and_know_their_member(evaluate: Evaluate) -> None:
    run = evaluate({"E": {"type": "Union", "operand": [ENCOUNTERS, ENCOUNTERS]}}, PEOPLE)
    episodes = run.episodes("E")
    assert episodes.member.tolist() == [0, 0, 2]
    assert episodes.references() == ["Encounter/e1", "Encounter/e2", "Encounter/e3"]


def test_sort_by_start_descending_and_first(evaluate: Evaluate) -> None:
    newest = {
        "type": "First",
        "source": {
            "type": "Query",
            "source": [{"alias": "E", "expression": ENCOUNTERS}],
            "return": {"distinct": False, "expression": value_of("period.start")},
            "sort": {"by": [{"type": "ByDirection", "direction": "desc"}]},
        },
    }
    run = evaluate({"Newest": newest}, PEOPLE)
    assert run.values("Newest") == ["2026-01-05T10:00:00.000", None, "2025-06-01"]


def test_with_and_without_look_only_at_the_same_patient(evaluate: Evaluate) -> None:
    def related(kind: str) -> dict[str, Any]:
        return {
            "type": "Query",
            "source": [{"alias": "E", "expression": ENCOUNTERS}],
            "relationship": [
                {
                    "type": kind,
                    "alias": "C",
                    "expression": CONDITIONS,
                    "suchThat": {
                        "type": "Equal",
                        "operand": [
                            {
                                "type": "Property",
                                "path": "value",
                                "source": {
                                    "type": "Property",
                                    "path": "reference",
                                    "source": {"type": "Property", "path": "encounter", "scope": "C"},
                                },
                            },
                            {"type": "Concatenate", "operand": [literal("String", "Encounter/"), value_of("id")]},
                        ],
                    },
                }
            ],
        }

    condition = {
        "resourceType": "Condition",
        "id": "c1",
        "code": {"text": "x"},
        "subject": {"reference": "Patient/a"},
        "encounter": {"reference": "Encounter/e1"},
    }
    stray = {**condition, "id": "c2"}  # of another patient, naming e1 as well
    people = [("a", [*PEOPLE[0][1], condition]), ("b", [patient("b"), stray]), PEOPLE[2]]
    run = evaluate({"With": related("With"), "Without": related("Without")}, people)
    assert run.values("With") == [["Encounter/e1"], [], []]
    assert run.values("Without") == [["Encounter/e2"], [], ["Encounter/e3"]]


def test_a_patient_whose_data_fails_is_named_and_the_others_are_evaluated(evaluate: Evaluate) -> None:
    run = evaluate({"Only": {"type": "SingletonFrom", "locator": "3:1", "operand": ENCOUNTERS}}, PEOPLE)
    assert run.values("Only") == [None, None, "Encounter/e3"]
    assert list(run.failures) == [0]
    assert run.failures[0].reason == "singleton from a list of more than one element"
    assert "Only" in run.failures[0].definition


def test_branches_that_are_not_taken_do_not_run(evaluate: Evaluate) -> None:
    one = {
        "type": "If",
        "condition": {"type": "Greater", "operand": [{"type": "Count", "source": ENCOUNTERS}, literal("Integer", 1)]},
        "then": {"type": "First", "source": ENCOUNTERS},
        "else": {"type": "SingletonFrom", "operand": ENCOUNTERS},
    }
    run = evaluate({"One": one}, PEOPLE)
    assert run.values("One") == ["Encounter/e1", None, "Encounter/e3"]
    assert not run.failures


def test_no_member_at_all(evaluate: Evaluate) -> None:
    import pyarrow as pa

    from fhir_gateway.cql import Batch

    run = evaluate({"Any": {"type": "Exists", "operand": ENCOUNTERS}}, PEOPLE)
    nobody = run.compiled.evaluate(Batch(pa.array([], pa.string()), run.batch.read), {}, run.now)
    assert nobody.booleans("Any").tolist() == []
    assert isinstance(nobody.booleans("Any"), np.ndarray)
