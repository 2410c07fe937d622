"""Data that an expression cannot work with fails its patient, and nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_gateway.errors import MeasureError
from tests.unit.cql.conftest import FHIR, Evaluate, literal

OBSERVATIONS = {"type": "Retrieve", "dataType": FHIR + "Observation"}


def quantity(alias: str = "O") -> dict[str, Any]:
    """The System quantity of an Observation's valueQuantity."""
    value = {"type": "Property", "path": "valueQuantity", "scope": alias}

    def part(*path: str) -> dict[str, Any]:
        node: dict[str, Any] = value
        for step in (*path, "value"):
            node = {"type": "Property", "path": step, "source": node}
        return node

    return {
        "type": "Instance",
        "classType": "{urn:hl7-org:elm-types:r1}Quantity",
        "element": [{"name": "value", "value": part("value")}, {"name": "unit", "value": part("code")}],
    }


def quantities(**extra: Any) -> dict[str, Any]:
    return {
        "type": "Query",
        "source": [{"alias": "O", "expression": OBSERVATIONS}],
        "return": {"distinct": False, "expression": quantity()},
        **extra,
    }


def person(key: str, *values: tuple[float, str]) -> tuple[str, list[dict[str, Any]]]:
    observations = [
        {
            "resourceType": "Observation",
            "id": f"{key}{number}",
            "status": "final",
            "code": {"text": "x"},
            "subject": {"reference": f"Patient/{key}"},
            "valueQuantity": {"value": value, "code": unit},
        }
        for number, (value, unit) in enumerate(values)
    ]
    return key, [{"resourceType": "Patient", "id": key}, *observations]


PEOPLE = [
    person("a", (1, "mg"), (2, "g")),
    person("b", (1, "mg"), (2, "cm")),
    person("c", (3, "cm"), (2, "cm")),
    person("d"),
]


@pytest.mark.parametrize("node", ["Sum", "Min", "Max"])
def test_units_that_do_not_convert_fail_their_patient(evaluate: Evaluate, node: str) -> None:
    run = evaluate({"V": {"type": node, "source": quantities()}}, PEOPLE)
    values = run.values("V")
    assert set(run.failures) == {1}
    assert "do not convert" in run.failures[1].reason
    assert values[2] is not None
    assert values[3] is None


def test_sorting_compares_within_each_patient_only(evaluate: Evaluate) -> None:
    by_value = {"by": [{"type": "ByDirection", "direction": "asc"}]}
    run = evaluate({"V": quantities(sort=by_value)}, PEOPLE)
    values = run.values("V")
    assert set(run.failures) == {1}
    assert [v["unit"] for v in values[0]] == ["mg", "g"]
    assert [str(v["value"]) for v in values[2]] == ["2", "3"]


def test_an_error_of_one_row_is_found_and_named(evaluate: Evaluate) -> None:
    """A pattern that is no regular expression makes the whole kernel raise."""
    status = {"type": "Property", "path": "value", "source": {"type": "Property", "path": "status", "scope": "O"}}
    pattern = {
        "type": "If",
        "condition": {
            "type": "Equal",
            "operand": [
                {"type": "Property", "path": "value", "source": {"type": "Property", "path": "id", "scope": "O"}},
                literal("String", "b1"),
            ],
        },
        "then": literal("String", "(("),
        "else": literal("String", "fin.*"),
    }
    matching = {
        "type": "Query",
        "source": [{"alias": "O", "expression": OBSERVATIONS}],
        "where": {"type": "Matches", "operand": [status, pattern]},
    }
    run = evaluate({"V": {"type": "Exists", "operand": matching}}, PEOPLE)
    assert run.booleans("V")[[0, 2, 3]].tolist() == [True, True, False]
    assert set(run.failures) == {1}
    assert "((" not in run.failures[1].reason
    assert run.failures[1].definition == "Test.V"


def test_an_error_without_data_is_the_librarys(evaluate: Evaluate) -> None:
    run = evaluate({"V": {"type": "Lower", "operand": literal("Integer", 3)}}, PEOPLE)
    with pytest.raises(MeasureError, match=r"Test\|1 at \?: Lower is not computed for \(Integer\)"):
        run.values("V")


def test_a_kernel_given_another_type_fails_the_patients_who_have_one(evaluate: Evaluate) -> None:
    run = evaluate({"V": {"type": "Lower", "operand": {"type": "ToList", "operand": OBSERVATIONS}}}, PEOPLE)
    assert run.values("V") == [None] * len(PEOPLE)
    assert {failure.reason.partition(": ")[2] for failure in run.failures.values()} == {
        "Lower is not computed for (List)"
    }


def test_a_date_out_of_range_fails_its_patient(evaluate: Evaluate) -> None:
    count = {"type": "Count", "source": OBSERVATIONS}
    years = {"type": "Multiply", "operand": [count, literal("Integer", 5000)]}
    then = {"type": "Date", "year": years, "month": literal("Integer", 2), "day": literal("Integer", 1)}
    run = evaluate({"V": then}, [person("a", (1, "mg")), person("b", (1, "mg"), (2, "mg"))])
    assert run.values("V") == ["5000-02-01", None]
    assert set(run.failures) == {1}


def test_interval_that_ends_before_it_begins_fails_its_patient(evaluate: Evaluate) -> None:
    count = {"type": "Count", "source": OBSERVATIONS}
    interval = {"type": "Interval", "low": literal("Integer", 1), "high": count}
    run = evaluate({"V": {"type": "End", "operand": interval}}, PEOPLE)
    assert run.values("V")[:3] == [2, 2, 2]
    assert set(run.failures) == {3}
