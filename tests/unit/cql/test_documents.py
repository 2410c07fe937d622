"""Elements that are not in the columns are read from the resources' JSON, for one patient as for many."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fhir_gateway.errors import ResourceError
from tests.unit.cql.conftest import FHIR, Evaluate, literal

AGE = "http://example.org/age"
REASON = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"


def person(key: str, **patient: Any) -> tuple[str, list[dict[str, Any]]]:
    return (key, [{"resourceType": "Patient", "id": key, **patient}])


PEOPLE = [
    person("a", birthDate="1980-01-01", _birthDate={"id": "b1", "extension": [{"url": AGE, "valueDecimal": 1.5}]}),
    person("b", _birthDate={"extension": [{"url": REASON, "valueCode": "masked"}]}),
    person(
        "c",
        text={"status": "generated", "div": "<div>c</div>"},
        name=[
            {"family": "One"},
            {"family": "Two", "extension": [{"url": AGE, "valueAge": {"value": 4, "unit": "a", "code": "a"}}]},
        ],
        contained=[
            {"resourceType": "Organization", "id": "o", "name": "Home"},
            {"resourceType": "Practitioner", "id": "p"},
        ],
    ),
    person("d"),
]
PATIENT = {"type": "SingletonFrom", "operand": {"type": "Retrieve", "dataType": FHIR + "Patient"}}


def prop(source: dict[str, Any], *path: str) -> dict[str, Any]:
    for name in path:
        source = {"type": "Property", "path": name, "source": source}
    return source


def first(source: dict[str, Any]) -> dict[str, Any]:
    return {"type": "First", "source": source}


NAME = {
    "type": "Filter",
    "source": prop(PATIENT, "name"),
    "condition": {"type": "Equal", "operand": [prop({"type": "Current"}, "family", "value"), literal("String", "Two")]},
}
ORGANIZATION = {
    "type": "As",
    "asType": FHIR + "Organization",
    "operand": first(prop(PATIENT, "contained")),
}
DEFINITIONS = {
    "Extended": {"type": "Count", "source": prop(PATIENT, "birthDate", "extension")},
    "Value": prop(first(prop(PATIENT, "birthDate", "extension")), "value", "value"),
    "Id": prop(PATIENT, "birthDate", "id"),
    "Narrative": prop(PATIENT, "text", "status", "value"),
    "Deep": prop(first(prop(first(NAME), "extension")), "valueAge", "value", "value"),
    "Contained": prop(ORGANIZATION, "name", "value"),
}


@pytest.fixture(params=[False, True], ids=["together", "one at a time"])
def values(request: pytest.FixtureRequest, evaluate: Evaluate) -> dict[str, list[Any]]:
    batches = [[p] for p in PEOPLE] if request.param else [PEOPLE]
    found: dict[str, list[Any]] = {name: [] for name in DEFINITIONS}
    for batch in batches:
        run = evaluate(DEFINITIONS, batch)
        for name in DEFINITIONS:
            found[name] += run.values(name)
    return found


def test_ids_and_extensions_of_primitives(values: dict[str, list[Any]]) -> None:
    assert values["Extended"] == [1, 1, 0, 0]
    assert values["Value"] == [Decimal("1.5"), "masked", None, None]
    assert values["Id"] == ["b1", None, None, None]


def test_narrative_deep_extensions_and_contained_resources(values: dict[str, list[Any]]) -> None:
    assert values["Narrative"] == [None, None, "generated", None]
    assert values["Deep"] == [None, None, Decimal(4), None]
    assert values["Contained"] == [None, None, "Home", None]


def test_a_race_is_read_without_the_json(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: Any) -> Any:
        raise AssertionError("the JSON was parsed")

    monkeypatch.setattr("fhir_gateway.cql.values.documents.documents", unwanted)
    race = [{"url": "http://example.org/race", "extension": [{"url": "text", "valueString": "x"}]}]
    value = prop(first(prop(first(prop(PATIENT, "extension")), "extension")), "value", "value")
    people = [person("a", extension=race), person("b", extension=[{"url": AGE, "valueDecimal": 1}]), person("c")]
    definitions = {"Race": value, "Root": prop(first(prop(PATIENT, "extension")), "value", "value")}
    run = evaluate(definitions, people)
    assert run.values("Race") == ["x", None, None]
    assert run.values("Root") == [None, Decimal(1), None]


def test_a_number_that_no_decimal_holds_is_named_and_not_null(evaluate: Evaluate) -> None:
    wide = person("a", _birthDate={"extension": [{"url": AGE, "valueDecimal": 1e30}]})
    with pytest.raises(ResourceError, match=r"Patient\.birthDate\.extension\.valueDecimal \[decimal\]"):
        evaluate(DEFINITIONS, [wide]).values("Value")
