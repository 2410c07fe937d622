"""Supplemental data: what it may be, who it is for, and that it never disturbs the counts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from fhir_gateway.cql.values import BoolVec, ChoiceVec, DecVec, IntVec, ListVec, QuantityVec, StrVec, TupleVec, Vec
from fhir_gateway.cql.values.clinical import code_vec, concept_of
from fhir_gateway.errors import TerminologyError
from fhir_gateway.measures import Evaluator, MeasurePackage, MeasureResult, MemoryPopulation, ResultStore, reports
from fhir_gateway.measures.distinct import Value, distinct, value_key
from fhir_gateway.measures.merge import merge_supplemental
from fhir_gateway.measures.model import SupplementalResult
from fhir_gateway.measures.supplemental import SupplementalDefinition, supplemental_result
from tests.support.measures import (
    COHORT,
    NOW,
    PERIOD,
    REPORTER,
    concept,
    in_value_set,
    library,
    true,
    write,
)

SEX = SupplementalDefinition("sde-sex", "supplemental-data", {"text": "Sex"}, "SDE Sex", ())
_SUPPLEMENTAL = "http://hl7.org/fhir/5.0/StructureDefinition/extension-MeasureReport.supplementalData"


def texts(*values: str | None) -> StrVec:
    return StrVec.of_arrow(pa.array(values, pa.string()))


def codes(*values: str | None) -> Vec:
    return code_vec(texts(*values), StrVec.constant("urn:s", len(values)), len(values))


def coded(*found: str) -> Value:
    return {"valueCodeableConcept": {"coding": [{"system": "urn:s", "code": code} for code in found]}}


def pairs(element: SupplementalResult) -> list[tuple[int, Any]]:
    return list(zip(element.member.tolist(), map(orjson.loads, element.value.to_pylist()), strict=True))


def test_lists_are_taken_apart_and_nulls_left_out() -> None:
    flat = texts("b", "a", "b", None, "c", "d")
    lists = ListVec(np.array([0, 3, 4, 6, 6]), flat)
    found = supplemental_result(SEX, lists, np.array([True, True, True, True]))
    assert pairs(found) == [
        (0, {"valueString": "a"}),
        (0, {"valueString": "b"}),
        (2, {"valueString": "c"}),
        (2, {"valueString": "d"}),
    ]
    assert pairs(supplemental_result(SEX, lists, np.array([False, True, False, True]))) == []
    nested = ListVec(np.array([0, 1, 4]), lists)
    assert pairs(supplemental_result(SEX, nested, np.array([False, True]))) == [
        (1, {"valueString": "c"}),
        (1, {"valueString": "d"}),
    ]


SOME = np.array([True, True])
VALUES: list[tuple[Vec, list[Value]]] = [
    (BoolVec(SOME), [{"valueBoolean": True}]),
    (IntVec(np.array([4, 5])), [{"valueInteger": 4}, {"valueInteger": 5}]),
    (DecVec(np.array([150_000_000] * 2)), [{"valueQuantity": {"value": 1.5}}]),
    (QuantityVec(DecVec(np.array([10**8] * 2)), texts("d", "d")), [{"valueQuantity": {"value": 1.0, "unit": "d"}}]),
    (codes("f", "f"), [coded("f")]),
    (concept_of(codes("f", "m")), [coded("f"), coded("m")]),
    (ChoiceVec([texts("a", None), codes(None, "f")]), [{"valueString": "a"}, coded("f")]),
    (
        TupleVec({"codes": ListVec(np.array([0, 2, 2]), codes("b", "a")), "display": texts("A or B", "none")}, SOME),
        [coded("a", "b")],
    ),
    (
        TupleVec({"id": texts("e", "e"), "result": IntVec(np.array([1, 1]))}, SOME),
        [
            {
                "component": [
                    {"code": {"text": "id"}, "valueString": "e"},
                    {"code": {"text": "result"}, "valueInteger": 1},
                ]
            }
        ],
    ),
]


@pytest.mark.parametrize(("vector", "expected"), VALUES, ids=[type(vector).__name__ for vector, _ in VALUES])
def test_values_are_told_apart_by_content(vector: Vec, expected: list[Value]) -> None:
    numbers, values = distinct(vector)
    assert sorted(values, key=value_key) == sorted(expected, key=value_key)
    assert {int(n) for n in numbers} - {-1} == set(range(len(expected)))


def test_batches_are_merged_by_member() -> None:
    one = supplemental_result(SEX, texts("a", "b"), SOME)
    (merged,) = merge_supplemental([[one], [], [one]], [2, 3, 2])
    assert merged.member.tolist() == [0, 1, 5, 6]
    assert merged.value.to_pylist() == one.value.to_pylist() * 2


def element(name: str, expression: str, usage: str = "supplemental-data") -> dict[str, Any]:
    return {
        "id": name,
        "usage": [concept("measure-data-usage", usage)],
        "criteria": {"language": "text/cql-identifier", "expression": expression},
    }


def package(folder: Path, *elements: dict[str, Any]) -> MeasurePackage:
    text = {"type": "Literal", "valueType": "{urn:hl7-org:elm-types:r1}String", "value": "x"}
    statements = {
        "Initial Population": true(),
        "Text": text,
        "Both": {"type": "List", "element": [text, true()]},
        "Gone": in_value_set("Codes"),
        "Unknown": {"type": "NoSuchNode"},
    }
    made = COHORT | {"supplementalData": list(elements)}
    write(folder, made, library("Main", statements, value_sets={"Codes": "http://measures.example/ValueSet/gone"}))
    return MeasurePackage.load(folder)


PEOPLE = MemoryPopulation.from_resources({"resourceType": "Patient", "id": name} for name in ("p", "q"))


def run(made: MeasurePackage, **options: Any) -> MeasureResult:
    return Evaluator(made, **options).evaluate(PEOPLE, PERIOD, NOW)


def test_what_cannot_be_compiled_is_noted_and_stops_nothing(tmp_path: Path) -> None:
    made = package(tmp_path, element("gone", "Gone"), element("unknown", "Unknown"), element("text", "Text"))
    result = run(made)
    assert result.groups[0].count("initial-population") == 2
    assert [found.id for found in result.supplemental] == ["text"]
    gone, unknown = result.notes
    assert gone.startswith("supplemental data gone is not computed: value set http://measures.example/ValueSet/gone")
    assert unknown.startswith("supplemental data unknown is not computed: ")
    with pytest.raises(TerminologyError):
        Evaluator(made, supplemental="required")
    without = run(made, supplemental="none")
    assert (without.supplemental, without.notes) == ((), ())
    assert without.groups[0].count("initial-population") == 2


def extensions(report: dict[str, Any]) -> list[tuple[str, str]]:
    found = [e["valueReference"] for e in report["extension"] if e["url"] == _SUPPLEMENTAL]
    return [(reference["extension"][0]["valueString"], reference["reference"]) for reference in found]


def test_reports_hold_observations(tmp_path: Path) -> None:
    result = run(package(tmp_path, element("text", "Text"), element("risk", "Text", "risk-adjustment-factor")))
    assert [found.usage for found in result.supplemental] == ["supplemental-data", "risk-adjustment-factor"]
    one = reports.individual(result, 1, REPORTER)
    assert extensions(one) == [("text", "#sde1"), ("risk", "#sde2")]
    observations = [r for r in one["contained"] if r["resourceType"] == "Observation"]
    assert [(o["code"], o["valueString"]) for o in observations] == [({"text": "Text"}, "x")] * 2
    assert observations[0]["subject"] == {"reference": "Patient/q"}
    whole = reports.summary(result, REPORTER)
    assert extensions(whole) == [("text", "#sde1"), ("risk", "#sde2")]
    observations = [r for r in whole["contained"] if r["resourceType"] == "Observation"]
    assert [(o["code"], o["valueInteger"]) for o in observations] == [({"text": "x"}, 2)] * 2
    assert all("subject" not in o for o in observations)
    masked = reports.summary(result, REPORTER, np.array([True, False]))
    assert [o["valueInteger"] for o in masked["contained"] if o["resourceType"] == "Observation"] == [1, 1]
    store = ResultStore(tmp_path / "runs")
    loaded = store.load(store.save(result))
    assert reports.summary(loaded, REPORTER) == whole
    assert reports.individual(loaded, 1, REPORTER) == one


def test_resources_are_references_and_not_counted(tmp_path: Path) -> None:
    patients = SupplementalResult(
        "who", "supplemental-data", {"text": "Who"}, (), np.array([0], np.int32), pa.array([REFERENCE])
    )
    plain = run(package(tmp_path))
    result = dataclasses.replace(plain, supplemental=(patients,))
    assert extensions(reports.individual(result, 0, REPORTER)) == [("who", "Encounter/e")]
    assert extensions(reports.individual(result, 1, REPORTER)) == []
    assert extensions(reports.summary(result, REPORTER)) == []


REFERENCE = json.dumps({"valueReference": {"reference": "Encounter/e"}}, separators=(",", ":"))


def test_an_element_may_be_for_some_reports_only(tmp_path: Path) -> None:
    url = "http://hl7.org/fhir/uv/cqm/StructureDefinition/cqm-includeInReportType"
    only = element("text", "Text") | {"extension": [{"url": url, "valueCode": "individual"}]}
    result = run(package(tmp_path, only))
    assert extensions(reports.individual(result, 0, REPORTER)) == [("text", "#sde1")]
    assert extensions(reports.summary(result, REPORTER)) == []


def test_only_members_of_an_initial_population_have_any(tmp_path: Path) -> None:
    made = package(tmp_path, element("text", "Text"))
    nobody = {"type": "Literal", "valueType": "{urn:hl7-org:elm-types:r1}Boolean", "value": "false"}
    text = {"type": "Literal", "valueType": "{urn:hl7-org:elm-types:r1}String", "value": "x"}
    write(tmp_path, made.measure, library("Main", {"Initial Population": nobody, "Text": text}))
    (found,) = run(MeasurePackage.load(tmp_path)).supplemental
    assert len(found.value) == 0
