"""What one member's evaluation leaves out: expressions over no rows, and reading the same rows again."""

from __future__ import annotations

from typing import Any

from fhir_gateway.cql import Batch, compile_library
from fhir_gateway.measures.population import MemoryPopulation
from fhir_gateway.terminology import ValueSets
from tests.unit.cql.conftest import NOW, Evaluate, library, literal
from tests.unit.cql.test_queries import ENCOUNTERS, encounter, patient, value_of


def query(where: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "Query",
        "source": [{"alias": "E", "expression": ENCOUNTERS}],
        **({"where": where} if where else {}),
    }


def test_a_definition_that_no_row_asks_for_is_not_computed(evaluate: Evaluate) -> None:
    definitions = {
        "Finished": {"type": "Equal", "operand": [literal("Integer", 1), {"type": "Count", "source": ENCOUNTERS}]},
        "Found": query({"type": "ExpressionRef", "name": "Finished"}),
    }
    nobody_came = evaluate(definitions, [("b", [patient("b")])])
    assert nobody_came.values("Found") == [[]]
    assert ("Test|1", "Finished") not in nobody_came._definitions
    somebody = evaluate(definitions, [("a", [patient("a"), encounter("e1", "finished", "2026-01-05")])])
    assert somebody.values("Found") == [["Encounter/e1"]]


def test_nothing_found_is_an_empty_list_and_null_whatever_is_done_with_it(evaluate: Evaluate) -> None:
    first = {"type": "First", "source": query()}
    definitions = {
        "Statuses": {**query(), "return": {"distinct": True, "expression": value_of("status")}},
        "Sorted": {**query(), "sort": {"by": [{"type": "ByColumn", "path": "status.value", "direction": "asc"}]}},
        "Start": {"type": "Property", "path": "period", "source": first},
        "Both": {"type": "Union", "operand": [query(), query({"type": "IsNull", "operand": value_of("status")})]},
        "Count": {"type": "Count", "source": query()},
    }
    run = evaluate(definitions, [("b", [patient("b")])])
    assert run.values("Statuses") == [[]]
    assert run.values("Sorted") == [[]]
    assert run.values("Both") == [[]]
    assert run.values("Start") == [None]
    assert run.values("Count") == [0]


def test_columns_needed_whole_are_read_with_the_others_the_next_time() -> None:
    definitions = {"Services": {**query(), "return": {"distinct": True, "expression": _property("serviceType")}}}
    compiled = compile_library([library(definitions)], ("Test", "1"), ValueSets([]))
    visit = encounter("e1", "finished", "2026-01-05T10:00:00Z") | {"serviceType": {"text": "a visit"}}
    people = [("a", [patient("a"), visit])]
    read: list[list[str]] = []
    results = []
    for _ in range(3):
        (batch,) = MemoryPopulation(people).batches()

        def counted(resource_type: str, columns: Any, batch: Batch = batch) -> Any:
            read.append([resource_type, *columns])
            return batch.read(resource_type, columns)

        results.append(compiled.evaluate(Batch(batch.members, counted), {}, NOW).values("Services"))
    assert results == [[[{"text": "a visit"}]]] * 3
    encounters = [columns for kind, *columns in read if kind == "Encounter"]
    assert len(encounters) == 4  # twice the first time, then once
    assert "serviceType" in encounters[-1]


def _property(path: str) -> dict[str, Any]:
    return {"type": "Property", "path": path, "scope": "E"}
