"""Nodes that translators seldom or never write: walks, parts of values, instances, subsumption, offsets, recursion."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fhir_gateway.errors import MeasureError, UnsupportedElm
from tests.unit.cql.conftest import FHIR, SYSTEM, Evaluate, literal

NUMBERS = {"type": "List", "element": [literal("Integer", n) for n in (3, 1, 2)]}
CURRENT, TOTAL, ITERATION = {"type": "Current"}, {"type": "Total"}, {"type": "Iteration"}


def op(kind: str, *operands: Any) -> dict[str, Any]:
    return {"type": kind, "operand": list(operands)}


def tuples(name: str, *values: int) -> dict[str, Any]:
    rows = [{"type": "Tuple", "element": [{"name": name, "value": literal("Integer", v)}]} for v in values]
    return {"type": "List", "element": rows}


def decimals(*values: str) -> dict[str, Any]:
    return {"type": "List", "element": [literal("Decimal", v) for v in values]}


def piece(start: dict[str, Any], end: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Slice", "source": NUMBERS, "startIndex": start, "endIndex": end}


def one(evaluate: Evaluate, node: dict[str, Any], **sections: Any) -> Any:
    return evaluate({"V": node}, **sections).values("V")[0]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (
            {"type": "Aggregate", "source": NUMBERS, "initialValue": literal("Integer", 10),
             "iteration": op("Subtract", TOTAL, CURRENT)},
            4,
        ),
        (
            {"type": "Aggregate", "source": NUMBERS, "initialValue": literal("Integer", 0),
             "iteration": op("Add", TOTAL, op("Multiply", CURRENT, ITERATION))},
            5,
        ),
        ({"type": "Filter", "source": NUMBERS, "condition": op("Greater", ITERATION, literal("Integer", 0))}, [1, 2]),
        (
            {"type": "ForEach", "scope": "X", "source": NUMBERS,
             "element": op("Add", {"type": "Current", "scope": "X"}, {"type": "Iteration", "scope": "X"})},
            [3, 2, 4],
        ),
        (
            {"type": "Repeat", "source": NUMBERS,
             "element": {"type": "If", "condition": op("Less", CURRENT, literal("Integer", 6)),
                         "then": op("Add", CURRENT, literal("Integer", 2)), "else": {"type": "Null"}}},
            [5, 3, 4, 7, 6],
        ),
        (
            op("Times", tuples("a", 1, 2), tuples("b", 5, 6)),
            [{"a": 1, "b": 5}, {"a": 1, "b": 6}, {"a": 2, "b": 5}, {"a": 2, "b": 6}],
        ),
        ({"type": "Sum", "path": "a", "source": tuples("a", 1, 2, 4)}, 7),
        ({"type": "First", "orderBy": "a", "source": tuples("a", 4, 1, 2)}, {"a": 1}),
        ({"type": "Last", "orderBy": "a", "source": tuples("a", 4, 1, 2)}, {"a": 4}),
        (piece(literal("Integer", 1), {"type": "Null"}), [1, 2]),
        (piece({"type": "Null"}, literal("Integer", 2)), [3, 1]),
        (piece(literal("Integer", -1), {"type": "Null"}), []),
        (piece(literal("Integer", 0), literal("Integer", -1)), []),
        (piece(literal("Integer", 2), literal("Integer", 1)), []),
        # 0.00005 * 0.00005 is 0.0000000025: rounding at each step would lose it
        ({"type": "Product", "source": decimals("0.00005", "0.00005", "10000.0")}, Decimal("0.000025")),
        ({"type": "Product", "source": decimals("-0.5", "0.00000001")}, Decimal("-0.00000001")),
        (op("Union", tuples("a", 1), tuples("a", 2), tuples("a", 1, 3)), [{"a": 1}, {"a": 2}, {"a": 3}]),
    ],
)  # fmt: skip
def test_walks_over_lists(evaluate: Evaluate, node: dict[str, Any], expected: Any) -> None:
    assert one(evaluate, node) == expected


def test_walks_see_the_rows_of_their_own_patient(evaluate: Evaluate) -> None:
    people = [
        (p, [{"resourceType": "Patient", "id": p, "name": [{"given": given}]}])
        for p, given in (("p1", ["A", "B"]), ("p2", []), ("p3", ["C"]))
    ]
    patient = {"type": "SingletonFrom", "operand": {"type": "Retrieve", "dataType": FHIR + "Patient"}}
    names = {"type": "Property", "path": "name", "source": patient}
    given = {
        "type": "Flatten",
        "operand": {
            "type": "ForEach",
            "source": names,
            "element": {"type": "Property", "path": "given", "scope": "$this"},
        },
    }
    text = {"type": "Property", "path": "value", "source": CURRENT}
    joined = {"type": "Aggregate", "source": given, "initialValue": literal("String", ">"),
              "iteration": op("Concatenate", TOTAL, text)}  # fmt: skip
    assert evaluate({"V": joined}, people).values("V") == [">AB", ">", ">C"]


def test_repeat_without_end_is_an_error_not_a_hang(evaluate: Evaluate) -> None:
    again = {"type": "Repeat", "source": NUMBERS, "element": op("Add", CURRENT, literal("Integer", 1))}
    with pytest.raises(MeasureError, match="new items without end"):
        one(evaluate, again)


def test_parts_of_values(evaluate: Evaluate) -> None:
    quantity = {"type": "Quantity", "value": 2, "unit": "mg"}
    held = {"type": "Tuple", "element": [{"name": "q", "value": quantity}, {"name": "n", "value": NUMBERS}]}
    assert one(evaluate, {"type": "Children", "source": held}) == [{"value": Decimal(2), "unit": "mg"}, 3, 1, 2]
    assert one(evaluate, {"type": "Descendents", "source": held}) == [
        {"value": Decimal(2), "unit": "mg"}, 3, 1, 2, Decimal(2), "mg",
    ]  # fmt: skip
    assert one(evaluate, {"type": "Children", "source": literal("Integer", 1)}) == []


def test_descendents_of_a_resource(evaluate: Evaluate) -> None:
    people = [("p1", [{"resourceType": "Patient", "id": "p1", "gender": "female", "name": [{"given": ["Ann"]}]}])]
    patient = {"type": "SingletonFrom", "operand": {"type": "Retrieve", "dataType": FHIR + "Patient"}}
    found = evaluate({"V": {"type": "Descendents", "source": patient}}, people).values("V")[0]
    assert {"p1", "female", "Ann"} <= {item for item in found if isinstance(item, str)}


def test_instances_of_fhir_types_are_elements(evaluate: Evaluate) -> None:
    def primitive(kind: str, value: dict[str, Any]) -> dict[str, Any]:
        return {"type": "Instance", "classType": FHIR + kind, "element": [{"name": "value", "value": value}]}

    coding = {
        "type": "Instance",
        "classType": FHIR + "Coding",
        "element": [
            {"name": "system", "value": primitive("uri", literal("String", "urn:s"))},
            {"name": "code", "value": primitive("code", literal("String", "c"))},
        ],
    }
    concept = {
        "type": "Instance",
        "classType": FHIR + "CodeableConcept",
        "element": [{"name": "coding", "value": {"type": "List", "element": [coding]}}],
    }
    observation = {
        "type": "Instance",
        "classType": FHIR + "Observation",
        "element": [
            {"name": "code", "value": concept},
            {"name": "value", "value": primitive("dateTime", {"type": "Now"})},
        ],
    }
    value = {
        "type": "Property",
        "path": "value",
        "source": {"type": "Property", "path": "value", "source": observation},
    }
    code = {"type": "First", "source": {"type": "Property", "path": "code.coding", "source": observation}}
    run = evaluate(
        {
            "Code": {"type": "Property", "path": "code.value", "source": code},
            "Value": op("Equal", value, {"type": "Now"}),
            "Is": {"type": "Is", "isType": FHIR + "Observation", "operand": observation},
            "Absent": {"type": "Property", "path": "status", "source": observation},
        }
    )
    assert [run.values(name)[0] for name in ("Code", "Value", "Is", "Absent")] == ["c", True, True, None]
    with pytest.raises(UnsupportedElm, match="no element starship"):
        one(evaluate, {**coding, "element": [{"name": "starship", "value": literal("String", "x")}]})


def test_subsumption_by_the_hierarchy_in_the_package(evaluate: Evaluate) -> None:
    system = {
        "resourceType": "CodeSystem",
        "url": "urn:s",
        "content": "complete",
        "concept": [{"code": "animal", "concept": [{"code": "dog"}]}],
    }
    codes = [{"name": c, "id": c, "codeSystem": {"name": "S"}} for c in ("animal", "dog")]
    codes.append({"name": "other", "id": "x", "codeSystem": {"name": "T"}})
    sections = {
        "codeSystems": {"def": [{"name": "S", "id": "urn:s"}, {"name": "T", "id": "urn:t"}]},
        "codes": {"def": codes},
        "value_sets": [system],
    }
    animal, dog, other = ({"type": "CodeRef", "name": c} for c in ("animal", "dog", "other"))
    pairs = {"A": op("Subsumes", animal, dog), "B": op("Subsumes", dog, animal), "C": op("SubsumedBy", dog, animal)}
    run = evaluate({**pairs, "D": op("Subsumes", other, other)}, **sections)
    assert [run.values(name)[0] for name in "ABC"] == [True, False, True]
    with pytest.raises(MeasureError, match="code system is not in the package"):
        run.values("D")


def test_a_date_time_keeps_the_offset_it_was_written_with(evaluate: Evaluate) -> None:
    people = [
        (p, [{"resourceType": "Patient", "id": p}, {"resourceType": "Encounter", "id": p, "status": "finished",
              "class": {"code": "AMB"}, "subject": {"reference": f"Patient/{p}"}, "period": {"start": start}}])
        for p, start in (("p1", "2026-02-01T10:00:00+05:30"), ("p2", "2026-02-01T10:00:00Z"), ("p3", "2026-02-01"))
    ]  # fmt: skip
    encounter = {"type": "First", "source": {"type": "Retrieve", "dataType": FHIR + "Encounter"}}
    start = {"type": "Property", "path": "period.start.value", "source": encounter}
    later = op("Add", start, {"type": "Quantity", "value": 1, "unit": "day"})
    run = evaluate(
        {
            "Offset": {"type": "TimezoneOffsetFrom", "operand": later},
            "Text": {"type": "ToString", "operand": later},
        },
        people,
    )
    assert run.values("Offset") == [Decimal("5.5"), Decimal(0), Decimal(-5)]
    assert run.values("Text") == ["2026-02-02T10:00:00.000+05:30", "2026-02-02T10:00:00.000+00:00", "2026-02-02"]


def recursive(name: str, stop: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "FunctionDef",
        "name": name,
        "operand": [{"name": "n", "operandType": SYSTEM + "Integer"}],
        "expression": {"type": "If", "condition": stop, "then": literal("Integer", 1), "else": rest},
    }


def test_recursive_functions_end_with_their_data(evaluate: Evaluate) -> None:
    n = {"type": "OperandRef", "name": "n"}
    less = op("Subtract", n, literal("Integer", 1))
    factorial = recursive(
        "Factorial",
        op("Less", n, literal("Integer", 2)),
        op("Multiply", n, {"type": "FunctionRef", "name": "Factorial", "operand": [less]}),
    )
    each = {"type": "ForEach", "source": NUMBERS,
            "element": {"type": "FunctionRef", "name": "Factorial", "operand": [CURRENT]}}  # fmt: skip
    assert evaluate({"Factorial": factorial, "V": each}).values("V")[0] == [6, 1, 2]


def test_recursion_without_end_fails_the_patient(evaluate: Evaluate) -> None:
    call = {"type": "FunctionRef", "name": "Loop", "operand": [{"type": "OperandRef", "name": "n"}]}
    loop = recursive("Loop", {"type": "IsNull", "operand": {"type": "OperandRef", "name": "n"}}, op("Add", call, call))
    run = evaluate({"Loop": loop, "V": {"type": "FunctionRef", "name": "Loop", "operand": [literal("Integer", 1)]}})
    assert run.values("V") == [None]
    assert "recursion deeper than" in run.failures[0].reason


def test_external_functions_of_fhirhelpers_that_the_data_can_answer(evaluate: Evaluate) -> None:
    from datetime import UTC, datetime

    from fhir_gateway.cql import compile_library
    from fhir_gateway.measures.population import MemoryPopulation
    from fhir_gateway.terminology import ValueSets
    from tests.unit.cql.conftest import library

    def external(name: str, *operands: str) -> dict[str, Any]:
        named = [{"name": o, "operandType": FHIR + "Element"} for o in operands]
        return {"type": "FunctionDef", "name": name, "external": True, "operand": named}

    names = {"extension": 2, "memberOf": 2, "hasValue": 1, "getValue": 1, "resolve": 1}
    helpers = library(
        {n: external(n, *"ab"[:count]) for n, count in names.items()}, name="FHIRHelpers", version="4.4.000"
    )

    def call(name: str, *operands: Any) -> dict[str, Any]:
        return {"type": "FunctionRef", "libraryName": "FH", "name": name, "operand": list(operands)}

    patient = {"type": "SingletonFrom", "operand": {"type": "Retrieve", "dataType": FHIR + "Patient"}}
    gender = {"type": "Property", "path": "gender", "source": patient}
    definitions = {
        "Extensions": {"type": "Count", "source": call("extension", patient, literal("String", "urn:b"))},
        "Member": call(
            "memberOf", {"type": "Property", "path": "maritalStatus", "source": patient}, literal("String", "urn:vs")
        ),
        "Has": call("hasValue", gender),
        "Value": call("getValue", gender),
    }
    includes = {"def": [{"localIdentifier": "FH", "path": "FHIRHelpers", "version": "4.4.000"}]}
    vs = {"resourceType": "ValueSet", "url": "urn:vs",
          "compose": {"include": [{"system": "urn:s", "concept": [{"code": "M"}]}]}}  # fmt: skip
    people: list[tuple[str, list[dict[str, Any]]]] = [
        ("p1", [{"resourceType": "Patient", "id": "p1", "gender": "male",
                 "maritalStatus": {"coding": [{"system": "urn:s", "code": "M"}]},
                 "extension": [{"url": "urn:a"}, {"url": "urn:b"}, {"url": "urn:b"}]}]),
        ("p2", [{"resourceType": "Patient", "id": "p2"}]),
    ]  # fmt: skip
    compiled = compile_library([library(definitions, includes=includes), helpers], ("Test", "1"), ValueSets([vs]))
    run = compiled.evaluate(next(iter(MemoryPopulation(people).batches())), {}, datetime(2026, 1, 1, tzinfo=UTC))
    assert {name: run.values(name) for name in definitions} == {
        "Extensions": [2, 0],
        "Member": [True, None],
        "Has": [True, False],
        "Value": ["male", None],
    }
    with pytest.raises(MeasureError, match=r"urn:vs"):
        compile_library([library(definitions, includes=includes), helpers], ("Test", "1"), ValueSets([]))
    with pytest.raises(UnsupportedElm, match="external function"):
        compile_library(
            [library({"R": call("resolve", patient)}, includes=includes), helpers], ("Test", "1"), ValueSets([])
        )
