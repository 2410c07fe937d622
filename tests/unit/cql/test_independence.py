"""Results do not depend on the batch: shuffled, split or one at a time, every patient gets the same answers."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.cql import compile_library
from fhir_gateway.measures.population import MemoryPopulation
from fhir_gateway.terminology import ValueSets
from tests.unit.cql.conftest import FHIR, NOW, SYSTEM, library, literal

OBSERVATIONS = {"type": "Retrieve", "dataType": FHIR + "Observation"}


def of(path: str, alias: str) -> dict[str, Any]:
    return {"type": "Property", "path": path, "scope": alias}


def value(node: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Property", "path": "value", "source": node}


QUANTITY = {"type": "As", "asType": FHIR + "Quantity", "operand": of("value", "O")}
AMOUNTS = {
    "type": "Query",
    "source": [{"alias": "O", "expression": OBSERVATIONS}],
    "where": {"type": "Not", "operand": {"type": "IsNull", "operand": of("value", "O")}},
    "return": {"distinct": False, "expression": value({"type": "Property", "path": "value", "source": QUANTITY})},
    "sort": {"by": [{"type": "ByDirection", "direction": "asc"}]},
}
DEFINITIONS = {
    "Amounts": AMOUNTS,
    "Sum": {"type": "Sum", "source": AMOUNTS},
    "Last": {"type": "Last", "source": AMOUNTS},
    "High": {"type": "Greater", "operand": [{"type": "Max", "source": AMOUNTS}, literal("Decimal", "9.0")]},
    "Either": {
        "type": "Or",
        "operand": [
            {"type": "Exists", "operand": OBSERVATIONS},
            {"type": "As", "asType": SYSTEM + "Boolean", "operand": {"type": "Null"}},
        ],
    },
}
COMPILED = compile_library([library(DEFINITIONS)], ("Test", "1"), ValueSets([]))

observations = st.lists(
    st.one_of(st.none(), st.decimals(min_value=0, max_value=20, places=2), st.text("abc", min_size=1, max_size=2)),
    max_size=4,
)


def resources(key: str, values: list[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"resourceType": "Patient", "id": key}]
    for number, amount in enumerate(values):
        item: dict[str, Any] = {
            "resourceType": "Observation",
            "id": f"{key}-{number}",
            "status": "final",
            "code": {"text": "x"},
        }
        if isinstance(amount, str):
            item["valueString"] = amount
        elif amount is not None:
            item["valueQuantity"] = {"value": float(amount)}
        found.append(item)
    return found


def answers(groups: list[tuple[str, list[dict[str, Any]]]], size: int | None) -> dict[str, list[Any]]:
    result: dict[str, list[Any]] = {}
    for batch in MemoryPopulation(groups, batch_size=size).batches():
        run = COMPILED.evaluate(batch, {}, NOW)
        columns = [run.values(name) for name in DEFINITIONS]
        for row, member in enumerate(batch.members.to_pylist()):
            result[member] = [column[row] for column in columns]
    return result


@settings(max_examples=40)
@given(st.lists(observations, min_size=1, max_size=6), st.randoms(), st.integers(1, 3))
def test_shuffled_split_and_alone_give_the_same(values: list[list[Any]], random: Any, size: int) -> None:
    groups = [(f"p{i}", resources(f"p{i}", v)) for i, v in enumerate(values)]
    whole = answers(groups, None)
    assert answers(groups, size) == whole
    shuffled = [(key, random.sample(found, len(found))) for key, found in groups]
    random.shuffle(shuffled)
    assert answers(shuffled, None) == whole
    for group in groups:
        assert answers([group], None) == {group[0]: whole[group[0]]}
