"""A tiny library and population for engine tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from fhir_gateway.cql import Evaluation, compile_library
from fhir_gateway.measures.population import MemoryPopulation
from fhir_gateway.terminology import ValueSets

#: Not UTC, so that a lost offset shows.
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=-5)))
FHIR = "{http://hl7.org/fhir}"
SYSTEM = "{urn:hl7-org:elm-types:r1}"

Evaluate = Callable[..., Evaluation]


def literal(kind: str, value: object) -> dict[str, Any]:
    return {"type": "Literal", "valueType": SYSTEM + kind, "value": str(value)}


def library(
    definitions: Mapping[str, Any], *, name: str = "Test", version: str = "1", **sections: Any
) -> dict[str, Any]:
    statements = [
        body if body.get("type") == "FunctionDef" else {"name": key, "context": "Patient", "expression": body}
        for key, body in definitions.items()
    ]
    return {"identifier": {"id": name, "version": version}, "statements": {"def": statements}, **sections}


@pytest.fixture
def evaluate() -> Evaluate:
    def run(
        definitions: Mapping[str, Any],
        groups: list[tuple[str, list[dict[str, Any]]]] | None = None,
        *,
        value_sets: list[dict[str, Any]] | None = None,
        parameters: Mapping[str, object] | None = None,
        **sections: Any,
    ) -> Evaluation:
        people = groups if groups is not None else [("p1", [{"resourceType": "Patient", "id": "p1"}])]
        compiled = compile_library([library(definitions, **sections)], ("Test", "1"), ValueSets(value_sets or []))
        batch = next(iter(MemoryPopulation(people).batches()))
        return compiled.evaluate(batch, parameters or {}, NOW)

    return run
