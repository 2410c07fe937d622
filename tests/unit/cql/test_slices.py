"""Elements that only profiles have: the components of a blood pressure by name."""

from __future__ import annotations

from typing import Any

from fhir_gateway.cql import compile_library
from fhir_gateway.measures.population import MemoryPopulation
from fhir_gateway.terminology import ValueSets
from tests.unit.cql.conftest import FHIR, NOW, library


def measured(key: str, *components: tuple[str, float]) -> dict[str, Any]:
    found = [
        {"code": {"coding": [{"system": "http://loinc.org", "code": code}]}, "valueQuantity": {"value": value}}
        for code, value in components
    ]
    observation = {"resourceType": "Observation", "id": key, "status": "final", "subject": {"reference": "Patient/p"}}
    return observation | ({"component": found} if found else {})


def test_components_by_name() -> None:
    """A query over two readings, of which one has no systolic component; and one without components at all."""
    readings = [measured("one", ("8462-4", 80), ("8480-6", 120)), measured("two", ("8462-4", 90)), measured("none")]

    def values(name: str) -> list[float | None]:
        path = {"type": "Property", "scope": "O", "path": f"{name}.value.value"}
        retrieve = {"type": "Retrieve", "dataType": FHIR + "Observation"}
        query = {
            "type": "Query",
            "source": [{"alias": "O", "expression": retrieve}],
            "relationship": [],
            "return": {"distinct": False, "expression": path},
        }
        compiled = compile_library([library({"V": query})], ("Test", "1"), ValueSets([]))
        (batch,) = MemoryPopulation.from_resources([{"resourceType": "Patient", "id": "p"}, *readings]).batches()
        (found,) = compiled.evaluate(batch, {}, NOW).values("V")
        return [None if value is None else float(value) for value in found]

    assert sorted(values("diastolic"), key=str) == [80.0, 90.0, None]
    assert sorted(values("systolic"), key=str) == [120.0, None, None]
