"""Damaged ELM gives an error of our tree that says where, never a crash: a small library with one random change."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from fhir_gateway.cql import compile_library, schema
from fhir_gateway.errors import GatewayError, MeasureError, UnsupportedElm
from fhir_gateway.measures.population import MemoryPopulation
from fhir_gateway.terminology import ValueSets
from tests.unit.cql.conftest import FHIR, NOW, SYSTEM, library, literal

VALUE_SET = {
    "resourceType": "ValueSet",
    "url": "urn:vs",
    "compose": {"include": [{"system": "urn:s", "concept": [{"code": "c"}]}]},
}
PEOPLE: list[tuple[str, list[dict[str, Any]]]] = [
    (
        "p1",
        [
            {"resourceType": "Patient", "id": "p1", "birthDate": "1960-05-01", "gender": "female"},
            {
                "resourceType": "Encounter",
                "id": "e1",
                "status": "finished",
                "class": {"code": "AMB"},
                "type": [{"coding": [{"system": "urn:s", "code": "c"}]}],
                "subject": {"reference": "Patient/p1"},
                "period": {"start": "2026-02-01T10:00:00Z", "end": "2026-02-01T11:00:00Z"},
            },
        ],
    ),
    ("p2", [{"resourceType": "Patient", "id": "p2"}]),
]


def _alias(name: str, path: str) -> dict[str, Any]:
    return {"type": "Property", "path": path, "scope": name}


def _interval(*points: str) -> dict[str, Any]:
    low, high = ({"type": "ToDateTime", "operand": literal("String", point)} for point in points)
    return {"type": "Interval", "low": low, "high": high, "lowClosed": True, "highClosed": False}


def whole_library() -> dict[str, Any]:
    """A library with every section and the forms that bind names."""
    encounters = {
        "type": "Retrieve",
        "dataType": FHIR + "Encounter",
        "codeProperty": "type",
        "codes": {"type": "ValueSetRef", "name": "Visits"},
    }
    period = {
        "type": "Interval",
        "low": _alias("E", "period.start.value"),
        "high": _alias("E", "period.end.value"),
        "lowClosed": True,
        "highClosed": True,
    }
    visits = {
        "type": "Query",
        "source": [{"alias": "E", "expression": encounters}],
        "let": [{"identifier": "when", "expression": period}],
        "relationship": [
            {
                "type": "With",
                "alias": "O",
                "expression": encounters,
                "suchThat": {"type": "Equal", "operand": [_alias("O", "id.value"), _alias("E", "id.value")]},
            }
        ],
        "where": {
            "type": "IncludedIn",
            "precision": "Day",
            "operand": [{"type": "QueryLetRef", "name": "when"}, {"type": "ParameterRef", "name": "Year"}],
        },
        "return": {"distinct": True, "expression": {"type": "AliasRef", "name": "E"}},
        "sort": {"by": [{"type": "ByExpression", "direction": "asc", "expression": _alias("$this", "id.value")}]},
    }
    decade = {
        "type": "FunctionDef",
        "name": "Decade",
        "operand": [{"name": "n", "operandType": SYSTEM + "Integer"}],
        "expression": {
            "type": "TruncatedDivide",
            "operand": [{"type": "OperandRef", "name": "n"}, literal("Integer", 10)],
        },
    }
    age = {
        "type": "CalculateAge",
        "precision": "Year",
        "operand": {
            "type": "Property",
            "path": "birthDate.value",
            "source": {"type": "SingletonFrom", "operand": {"type": "Retrieve", "dataType": FHIR + "Patient"}},
        },
    }
    chosen = {
        "type": "Case",
        "caseItem": [
            {
                "when": {"type": "Exists", "operand": {"type": "ExpressionRef", "name": "Visits"}},
                "then": {
                    "type": "FunctionRef",
                    "name": "Decade",
                    "operand": [{"type": "ExpressionRef", "name": "Age"}],
                },
            }
        ],
        "else": {"type": "As", "asType": SYSTEM + "Integer", "operand": {"type": "Null"}},
    }
    coded = {
        "type": "InValueSet",
        "code": {"type": "CodeRef", "name": "C"},
        "valueset": {"name": "Visits"},
    }
    listed = {
        "type": "List",
        "element": [
            {"type": "Tuple", "element": [{"name": "q", "value": {"type": "Quantity", "value": 2, "unit": "mg"}}]},
            {"type": "Tuple", "element": [{"name": "q", "value": {"type": "Null"}}]},
        ],
    }
    concept = {
        "type": "Equivalent",
        "operand": [{"type": "ConceptRef", "name": "K"}, {"type": "ConceptRef", "name": "K"}],
    }
    definitions = {
        "Visits": visits,
        "Decade": decade,
        "Age": age,
        "Chosen": chosen,
        "Coded": coded,
        "Listed": {"type": "First", "source": listed},
        "Alike": concept,
    }
    return library(
        definitions,
        parameters={"def": [{"name": "Year", "default": _interval("2026-01-01T00:00:00.0", "2027-01-01T00:00:00.0")}]},
        valueSets={"def": [{"name": "Visits", "id": "urn:vs"}]},
        codeSystems={"def": [{"name": "S", "id": "urn:s"}]},
        codes={"def": [{"name": "C", "id": "c", "codeSystem": {"name": "S"}}]},
        concepts={"def": [{"name": "K", "code": [{"name": "C"}]}]},
    )


def _places(node: Any) -> list[tuple[Any, Any]]:
    pairs = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    return [place for key, value in pairs for place in ((node, key), *_places(value))]


_ODD: tuple[Any, ...] = (
    "x", "", 5, -1, True, 1.5, [], {}, [None], "Year", SYSTEM + "Boolean", {"type": "Null"}, {"type": ["Add"]},
    {"type": "Literal", "valueType": SYSTEM + "Integer", "value": "abc"}, {"type": "AliasRef", "name": "nobody"},
)  # fmt: skip
_KINDS = "Add Query As Property AliasRef OperandRef In FunctionRef Interval List Sum DateTime Retrieve CodeRef".split()


def damage(elm: dict[str, Any], chance: random.Random) -> None:
    """One change anywhere below the identifier: dropped, null, of another type, wrapped, swapped, renamed."""
    places = _places({name: part for name, part in elm.items() if name != "identifier"})
    node, key = chance.choice(places)
    old, way = node[key], chance.randrange(7)
    if way == 0:
        node[key] = None
    elif way == 1:
        del node[key]
    elif way == 2:
        node[key] = copy.deepcopy(chance.choice(_ODD))
    elif way == 3:
        node[key] = [old]
    elif way == 4:
        other, there = chance.choice(places)
        node[key] = copy.deepcopy(other[there])
    elif way == 5 and isinstance(old, dict):
        node[key] = {**old, "type": chance.choice(_KINDS)}
    elif isinstance(old, str):
        node[key] = old[:-1]


def outcomes(elm: dict[str, Any]) -> dict[str, Any]:
    """Value or error of every definition; anything but an error of our tree passes through."""
    try:
        compiled = compile_library([elm], ("Test", "1"), ValueSets([VALUE_SET]), [])
    except GatewayError as error:
        return {"": error}
    batch = next(iter(MemoryPopulation(PEOPLE).batches()))
    evaluation = compiled.evaluate(batch, {}, NOW)
    found: dict[str, Any] = {}
    for name in compiled.primary.definitions:
        try:
            compiled.require([name])
            found[name] = evaluation.values(name)
        except GatewayError as error:
            found[name] = error
    return found


def test_the_library_itself_runs() -> None:
    found = outcomes(whole_library())
    assert [name for name, value in found.items() if isinstance(value, Exception)] == []
    assert found["Chosen"] == [6, None]
    assert found["Coded"] == [True, True]


@pytest.mark.parametrize("seed", range(4))
def test_any_single_damage_gives_a_value_or_an_error_of_ours(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    refused = 0
    for _ in range(40):
        elm = whole_library()
        damage(elm, chance)
        refused += any(isinstance(value, GatewayError) for value in outcomes(elm).values())
    assert refused > 10


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ({"type": "Not"}, "Not without operand"),
        ({"type": "Not", "operand": None}, "Not without operand"),
        ({"type": "Add", "operand": [literal("Integer", 1)]}, "Add with 1 operands instead of 2"),
        ({"type": "Add", "operand": [literal("Integer", 1), None]}, "Add.operand is null"),
        ({"type": "Null", "mood": "bad"}, "Null has no field 'mood'"),
        ({"type": "Exists", "operand": {"type": "Query", "source": [{"alias": "A"}]}}, "without expression"),
        ({"type": "AliasRef", "name": "A"}, "no alias A in scope"),
        ({"type": "OperandRef", "name": "x"}, "no operand x in scope"),
        ({"type": "Property", "path": "x"}, "either a source or a scope"),
        ({"type": "Today", "operand": literal("Integer", 1)}, "Today has no field 'operand'"),
        ({"type": "CodeRef", "name": "C"}, "declares no code 'C'"),
        ({"type": "DurationBetween", "precision": "Eon", "operand": [{"type": "Now"}, {"type": "Now"}]}, "none of"),
    ],
)  # fmt: skip
def test_the_error_names_node_and_reason(node: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedElm, match=reason) as raised:
        compile_library([library({"D": {**node, "locator": "1:2-3:4"}})], ("Test", "1"), ValueSets([]))
    assert "Test|1, definition 'D', at" in str(raised.value)


def test_sections_of_another_shape_are_named() -> None:
    for section in ({"def": {"name": "x"}}, {"def": [7]}, "x", {"def": [{"name": "A", "expression": 3}]}):
        with pytest.raises(MeasureError, match=r"Test\|1.*statements"):
            compile_library([{**library({}), "statements": section}], ("Test", "1"), ValueSets([]))


def test_the_schema_knows_nodes_fields_and_what_they_extend() -> None:
    assert schema.ancestry("With") == ("With", "RelationshipClause", "AliasedQuerySource", "Element")
    assert "suchThat" in schema.fields("With")
    assert len(schema.nodes()) == 198
