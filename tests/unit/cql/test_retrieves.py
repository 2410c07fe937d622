"""Filters of retrieves: by date, by code of whatever form, by id; references through lists; other contexts."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_gateway.errors import UnsupportedElm
from fhir_gateway.measures.population import MemoryPopulation
from tests.unit.cql.conftest import FHIR, NOW, Evaluate, library, literal

CODES = {
    "codeSystems": {"def": [{"name": "S", "id": "urn:s"}]},
    "codes": {"def": [{"name": c, "id": c, "codeSystem": {"name": "S"}} for c in "xyz"]},
    "concepts": {"def": [{"name": "XY", "code": [{"name": "x"}, {"name": "y"}]}]},
}
YEAR = ("2026-01-01T00:00:00", "2026-12-31T23:59:59")


def observation(key: str, code: str, **effective: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": key,
        "status": "final",
        "subject": {"reference": "Patient/p"},
        "code": {"coding": [{"system": "urn:s", "code": code, "display": "shown"}]},
        **effective,
    }


PEOPLE = [
    (
        "p",
        [
            {"resourceType": "Patient", "id": "p", "maritalStatus": {"coding": [{"system": "urn:s", "code": "z"}]}},
            observation("a", "x", effectiveDateTime="2026-03-01"),
            observation("b", "y", effectiveDateTime="2025-03-01T10:00:00Z"),
            observation("c", "z", effectivePeriod={"start": "2026-05-01", "end": "2026-06-01"}),
            observation("d", "x", effectivePeriod={"start": "2025-12-01", "end": "2026-06-01"}),
            observation("e", "y"),
        ],
    ),
    ("q", [{"resourceType": "Patient", "id": "q"}]),
]


def interval(low: str, high: str) -> dict[str, Any]:
    ends = [{"type": "ToDateTime", "operand": literal("String", text)} for text in (low, high)]
    return {"type": "Interval", "low": ends[0], "high": ends[1], "lowClosed": True, "highClosed": True}


def retrieve(**parts: Any) -> dict[str, Any]:
    return {"type": "Retrieve", "dataType": FHIR + "Observation", **parts}


MARITAL = {
    "type": "Property",
    "path": "maritalStatus",
    "source": {"type": "SingletonFrom", "operand": {"type": "Retrieve", "dataType": FHIR + "Patient"}},
}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (retrieve(dateProperty="effective", dateRange=interval(*YEAR)), "a c"),
        (retrieve(dateFilter=[{"property": "effective", "value": interval(*YEAR)}]), "a c"),
        (
            retrieve(
                codeProperty="code", codes={"type": "CodeRef", "name": "x"}, dateProperty="effective",
                dateRange=interval(*YEAR),
            ),
            "a",
        ),
        (retrieve(dateLowProperty="effectivePeriod.start", dateHighProperty="effectivePeriod.end",
                  dateRange=interval(*YEAR)), "c"),
        (retrieve(codeProperty="code", codeComparator="~", codes={"type": "CodeRef", "name": "x"}), "a d"),
        (retrieve(codeProperty="code", codeComparator="=", codes={"type": "CodeRef", "name": "x"}), "a d"),
        (retrieve(codeProperty="code", codes={"type": "ConceptRef", "name": "XY"}), "a b d e"),
        (
            retrieve(codeProperty="code", codeComparator="in", codes={"type": "List", "element": [
                {"type": "CodeRef", "name": "y"}, {"type": "CodeRef", "name": "z"}]}),
            "b c e",
        ),
        (retrieve(codeProperty="code", codes=MARITAL), "c"),
        (retrieve(codeFilter=[{"property": "code", "comparator": "in", "value": {"type": "CodeRef", "name": "z"}}]),
         "c"),
        (retrieve(id=literal("String", "b")), "b"),
        (retrieve(idProperty="id", id=literal("String", "nobody")), ""),
        (retrieve(otherFilter=[{"property": "id", "comparator": "=", "value": literal("String", "e")}]), "e"),
    ],
)  # fmt: skip
def test_filters(evaluate: Evaluate, node: dict[str, Any], expected: str) -> None:
    found = evaluate({"V": node}, PEOPLE, **CODES).values("V")
    assert found == [[f"Observation/{key}" for key in expected.split()], []]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"context": literal("String", "other")}, "somebody else"),
        ({"include": [{"relatedDataType": FHIR + "Patient"}]}, "one type at a time"),
        ({"codeProperty": "code", "codeComparator": "<", "codes": {"type": "CodeRef", "name": "x"}}, "comparator '<'"),
        ({"codes": {"type": "CodeRef", "name": "x"}}, "without codeProperty"),
        ({"dateRange": interval(*YEAR)}, "without the property of the date"),
        ({"codeFilter": [{"search": "c", "comparator": "in", "value": {"type": "Null"}}]}, "a filter by search"),
    ],
)
def test_what_a_retrieve_cannot_do_is_refused(evaluate: Evaluate, parts: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedElm, match=reason):
        evaluate({"V": retrieve(**parts)}, **CODES)


def test_everybodys_resources_are_refused(evaluate: Evaluate) -> None:
    from fhir_gateway.cql import compile_library
    from fhir_gateway.terminology import ValueSets

    elm = library({"Ours": retrieve(), "All": {"type": "Exists", "operand": retrieve()}})
    elm["statements"]["def"][1]["context"] = "Unfiltered"
    with pytest.raises(UnsupportedElm, match=r"'All', at .*, node Retrieve: retrieve in the context Unfiltered"):
        compile_library([elm], ("Test", "1"), ValueSets([]))
    elm["statements"]["def"][1]["context"] = "Practitioner"
    with pytest.raises(UnsupportedElm, match="context Practitioner"):
        compile_library([elm], ("Test", "1"), ValueSets([]))


def test_references_in_lists_are_followed() -> None:
    from fhir_gateway.cql import compile_library
    from fhir_gateway.terminology import ValueSets

    def encounter(key: str, patient: str, *locations: str) -> dict[str, Any]:
        return {
            "resourceType": "Encounter",
            "id": key,
            "status": "finished",
            "class": {"code": "IMP"},
            "subject": {"reference": f"Patient/{patient}"},
            "location": [{"location": {"reference": f"Location/{one}"}} for one in locations],
        }

    resources = [
        *({"resourceType": "Patient", "id": key} for key in "abc"),
        *({"resourceType": "Location", "id": key} for key in ("icu", "ward", "far")),
        encounter("e0", "b"),
        encounter("e1", "a", "icu", "ward"),
        encounter("e2", "b", "ward"),
        encounter("e3", "a", "ward"),
    ]
    held = {"type": "Property", "path": "location", "source": {"type": "First", "source": {
        "type": "Property", "path": "location", "source": {"type": "First", "source": {
            "type": "Retrieve", "dataType": FHIR + "Encounter"}}}}}  # fmt: skip
    elm = library({"L": {"type": "Retrieve", "dataType": FHIR + "Location"}, "H": held})
    compiled = compile_library([elm], ("Test", "1"), ValueSets([]))
    for size in (1, 3):
        found: dict[str, Any] = {}
        for batch in MemoryPopulation.from_resources(resources, batch_size=size).batches():
            run = compiled.evaluate(batch, {}, NOW)
            found |= dict(zip(batch.members.to_pylist(), run.values("L"), strict=True))
        assert found == {"a": ["Location/icu", "Location/ward"], "b": ["Location/ward"], "c": []}
