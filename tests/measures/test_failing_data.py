"""One member whose data makes an expression fail: in a criterion, an observation, a stratum or supplemental data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.measures import Evaluator, MeasurePackage, MeasureResult, MemoryPopulation, reports
from tests.support.measures import NOW, PERIOD, REPORTER, library, measure, population, true, write

INTEGER = "{urn:hl7-org:elm-types:r1}Integer"
#: ``singleton from [Encounter]`` fails for two encounters.
ENCOUNTERS = {"type": "Retrieve", "dataType": "{http://hl7.org/fhir}Encounter"}
ONLY = {"type": "SingletonFrom", "operand": ENCOUNTERS}
FAILS = {"type": "Or", "operand": [true(), {"type": "Not", "operand": {"type": "IsNull", "operand": ONLY}}]}
ONE = {"type": "Literal", "valueType": INTEGER, "value": "1"}
OBSERVED = {"type": "If", "condition": FAILS, "then": ONE, "else": ONE}


def evaluated(folder: Path, statements: dict[str, Any], made: dict[str, Any]) -> MeasureResult:
    """Three members: one with an encounter, one with two, one with none; ``Observed`` becomes a function."""
    write(folder, made, library("Main", statements, functions={"Observed"} & set(statements)))
    groups = [(member, resources(member, count)) for member, count in (("one", 1), ("two", 2), ("none", 0))]
    return Evaluator(MeasurePackage.load(folder)).evaluate(MemoryPopulation(groups), PERIOD, NOW)


def resources(member: str, encounters: int) -> list[dict[str, Any]]:
    return [
        {"resourceType": "Patient", "id": member},
        *(
            {
                "resourceType": "Encounter",
                "id": f"{member}-{number}",
                "status": "finished",
                "class": {"code": "AMB"},
                "subject": {"reference": f"Patient/{member}"},
            }
            for number in range(encounters)
        ),
    ]


def expression(name: str) -> dict[str, str]:
    return {"language": "text/cql-identifier", "expression": name}


@pytest.mark.parametrize("where", ["criterion", "stratum"])
def test_the_member_is_reported_and_the_others_are_counted(tmp_path: Path, where: str) -> None:
    made = measure("cohort", [population("initial-population", "Fails" if where == "criterion" else "All")])
    if where == "stratum":
        made["group"][0]["stratifier"] = [{"id": "s", "criteria": expression("Fails")}]
    result = evaluated(tmp_path, {"All": true(), "Fails": FAILS}, made)
    assert list(result.failed) == ["two"]
    assert "Main.Fails" in result.failed["two"]
    assert "singleton" in result.failed["two"]
    assert result.groups[0].count("initial-population") == 2
    summary = reports.summary(result, REPORTER)
    (messages,) = (r for r in summary["contained"] if r["id"] == "messages")
    assert messages["issue"][0]["diagnostics"] == "1 subjects could not be evaluated and count in no population"
    assert reports.individual(result, result.members.to_pylist().index("two"), REPORTER)["status"] == "error"


def test_an_observation_that_fails_takes_its_member_out(tmp_path: Path) -> None:
    made = measure(
        "continuous-variable",
        [
            population("initial-population", "All"),
            population("measure-population", "All"),
            population(
                "measure-observation", "Observed", aggregateMethod="sum", criteriaReference="measure-population"
            ),
        ],
    )
    result = evaluated(tmp_path, {"All": true(), "Observed": OBSERVED}, made)
    assert list(result.failed) == ["two"]
    assert [int(p.counts.sum()) for p in result.groups[0].populations] == [2, 2, 2]
    assert result.groups[0].score() == 2


def test_supplemental_data_that_fails_changes_no_count(tmp_path: Path) -> None:
    made = measure("cohort", [population("initial-population", "All")])
    made["supplementalData"] = [{"id": "sde", "criteria": expression("Fails")}]
    result = evaluated(tmp_path, {"All": true(), "Fails": FAILS}, made)
    assert not result.failed
    assert result.groups[0].count("initial-population") == 3
    assert any("sde (1 subjects)" in note for note in result.notes)
