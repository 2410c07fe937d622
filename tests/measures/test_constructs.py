"""Every construct of a Measure over three patients, worked by hand.

| patient | encounters | procedures | medication requests | observations |
|---|---|---|---|---|
| a | e1 finished, e2 planned | p1 completed, p2 not done | m1 active | 10 mg, 20 mg |
| b | e3 finished | | | 0.03 g |
| c | | p3 and p4 completed | m2 stopped | |
"""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.errors import MeasureError, UnsupportedElm
from fhir_gateway.measures import Evaluator, MeasurePackage, MeasureResult, MemoryPopulation, ResultStore, reports
from fhir_gateway.measures.definition import read_measure
from fhir_gateway.measures.model import GroupResult
from fhir_gateway.measures.strata import UNKNOWN, restrict
from tests.measures.agreement import disagreement
from tests.support.measures import BASE, NOW, PERIOD, REPORTER, concept, library, write

Json = dict[str, Any]
SYSTEM, FHIR = "{urn:hl7-org:elm-types:r1}", "{http://hl7.org/fhir}"
FAMILIES = {
    "universal": "http://hl7.org/fhir/uv/cqm/StructureDefinition/cqm-",
    "us": "http://hl7.org/fhir/us/cqfmeasures/StructureDefinition/cqfm-",
    "r5": "http://hl7.org/fhir/5.0/StructureDefinition/extension-Measure.group.",
}
R5_NAMES = {
    "populationBasis": "basis",
    "criteriaReference": "population.inputPopulationId",
    "aggregateMethod": "population.aggregateMethod",
}
#: Ways to name a definition.
LANGUAGES = ("text/cql-identifier", "text/cql.identifier", "text/cql-expression", "text/cql")


def every(kind: str) -> Json:
    return {"type": "Retrieve", "dataType": f"{FHIR}{kind}"}


def text(value: str) -> Json:
    return {"type": "Literal", "valueType": f"{SYSTEM}String", "value": value}


def with_status(kind: str, status: str) -> Json:
    element = {"type": "Property", "path": "status", "scope": "R"}
    same = {"type": "Equal", "operand": [{"type": "Property", "path": "value", "source": element}, text(status)]}
    return {"type": "Query", "source": [{"alias": "R", "expression": every(kind)}], "relationship": [], "where": same}


def exists(operand: Json) -> Json:
    return {"type": "Exists", "operand": operand}


def number(value: int) -> Json:
    return {"type": "Literal", "valueType": f"{SYSTEM}Integer", "value": str(value)}


def path(*names: str, source: Json) -> Json:
    for name in names:
        source = {"type": "Property", "path": name, "source": source}
    return source


_VALUE = {
    "type": "As",
    "asType": f"{FHIR}Quantity",
    "operand": path("value", source={"type": "OperandRef", "name": "o"}),
}
AMOUNT = {
    "type": "Instance",
    "classType": f"{SYSTEM}Quantity",
    "element": [
        {"name": "value", "value": path("value", "value", source=_VALUE)},
        {"name": "unit", "value": path("unit", "value", source=_VALUE)},
    ],
}
DEFINITIONS = {
    "Everybody": {"type": "Literal", "valueType": f"{SYSTEM}Boolean", "value": "true"},
    "Encounters": every("Encounter"),
    "Finished Encounters": with_status("Encounter", "finished"),
    "Procedures": every("Procedure"),
    "Done": with_status("Procedure", "completed"),
    "Active": with_status("MedicationRequest", "active"),
    "Observations": every("Observation"),
    "Has Encounter": exists(every("Encounter")),
    "Has Done": exists(with_status("Procedure", "completed")),
    "Has Medication": exists(every("MedicationRequest")),
    "Has Observation": exists(every("Observation")),
    "Measured": {"type": "Count", "source": every("Observation")},
    "Age": {"type": "If", "condition": exists(every("Encounter")), "then": text("old"), "else": {"type": "Null"}},
}
FUNCTIONS = {
    "Amount": ("Observation", AMOUNT),
    "One": ("Encounter", number(1)),
    "Two": ("Procedure", number(2)),
}


def resource(kind: str, patient: str, identity: str, **content: Any) -> Json:
    about = {"resourceType": kind, "id": identity, "subject": {"reference": f"Patient/{patient}"}}
    return about | content


def amount(patient: str, identity: str, value: float, unit: str) -> Json:
    quantity = {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
    return resource("Observation", patient, identity, status="final", code={"text": "dose"}, valueQuantity=quantity)


PATIENTS: list[tuple[str | None, list[Json]]] = [
    (
        "a",
        [
            {"resourceType": "Patient", "id": "a"},
            resource("Encounter", "a", "e1", status="finished"),
            resource("Encounter", "a", "e2", status="planned"),
            resource("Procedure", "a", "p1", status="completed"),
            resource("Procedure", "a", "p2", status="not-done"),
            resource("MedicationRequest", "a", "m1", status="active", intent="order"),
            amount("a", "o1", 10, "mg"),
            amount("a", "o2", 20, "mg"),
        ],
    ),
    (
        "b",
        [
            {"resourceType": "Patient", "id": "b"},
            resource("Encounter", "b", "e3", status="finished"),
            amount("b", "o3", 0.03, "g"),
        ],
    ),
    (
        "c",
        [
            {"resourceType": "Patient", "id": "c"},
            resource("Procedure", "c", "p3", status="completed"),
            resource("Procedure", "c", "p4", status="completed"),
            resource("MedicationRequest", "c", "m2", status="stopped", intent="order"),
        ],
    ),
]


class Author:
    """Writes groups in one family of extensions, naming definitions in every way there is, one after the other."""

    def __init__(self, family: str) -> None:
        self._family = family
        self._written = 0

    def extension(self, name: str, **value: Any) -> Json:
        url = FAMILIES[self._family] + (R5_NAMES.get(name, name) if self._family == "r5" else name)
        return {"url": url, **value}

    def criteria(self, expression: str) -> Json:
        self._written += 1
        language = LANGUAGES[self._written % len(LANGUAGES)]
        quoted = f'"{expression}"' if self._written % 3 else expression
        return {"criteria": {"language": language, "expression": quoted}}

    def population(self, code: str, expression: str, name: str | None = None, **extensions: str) -> Json:
        found = {"id": name or code, "code": concept("measure-population", code)} | self.criteria(expression)
        told = [self.extension(key, valueString=value) for key, value in extensions.items()]
        return found | ({"extension": told} if told else {})

    def group(self, name: str, scoring: str, basis: str, *populations: Json, **content: Any) -> Json:
        extensions = [
            self.extension("scoring", valueCodeableConcept=concept("measure-scoring", scoring)),
            self.extension("populationBasis", valueCode=basis),
        ]
        if scoring != "cohort":
            notation = concept("measure-improvement-notation", "increase")
            extensions.append(self.extension("improvementNotation", valueCodeableConcept=notation))
        return {"id": name, "extension": extensions, "population": list(populations)} | content

    def doses(self, method: str) -> Json:
        observation = self.population(
            "measure-observation", "Amount", aggregateMethod=method, criteriaReference="measure-population"
        )
        return self.group(
            f"doses-{method}",
            "continuous-variable",
            "Observation",
            self.population("initial-population", "Observations"),
            self.population("measure-population", "Observations"),
            observation,
        )

    def measure(self) -> Json:
        """Groups of every scoring and several bases."""
        strata = [
            {"id": "criterion"} | self.criteria("Has Medication"),
            {"id": "value"} | self.criteria("Measured"),
            {"id": "stated", "extension": [self.extension("valueSet", valueCanonical=f"{BASE}/ValueSet/ages")]}
            | self.criteria("Age"),
            {"id": "pair", "component": [{"id": n} | self.criteria(n) for n in ("Has Done", "Has Medication")]},
        ]
        groups = [
            self.group(
                "procedures",
                "proportion",
                "Procedure",
                self.population("initial-population", "Procedures"),
                self.population("denominator", "Procedures"),
                self.population("numerator", "Done"),
            ),
            self.group(
                "people",
                "proportion",
                "boolean",
                self.population("initial-population", "Everybody"),
                self.population("denominator", "Has Encounter"),
                self.population("denominator-exclusion", "Has Done"),
                self.population("numerator", "Has Observation"),
                self.population("numerator-exclusion", "Has Medication"),
                stratifier=strata,
            ),
            self.group("active", "cohort", "MedicationRequest", self.population("initial-population", "Active")),
            self.group(
                "finished",
                "ratio",
                "Encounter",
                self.population("initial-population", "Encounters"),
                self.population("denominator", "Encounters"),
                self.population("numerator", "Finished Encounters"),
            ),
            self.group(
                "two-bases",
                "ratio",
                "Encounter",
                self.population("initial-population", "Encounters", "visits"),
                self.population("initial-population", "Procedures", "procedures", populationBasis="Procedure"),
                self.population("denominator", "Encounters", criteriaReference="visits"),
                self.population("numerator", "Done", criteriaReference="procedures"),
                self.population(
                    "measure-observation", "One", "ones", criteriaReference="denominator", aggregateMethod="sum"
                ),
                self.population(
                    "measure-observation", "Two", "twos", criteriaReference="numerator", aggregateMethod="sum"
                ),
            ),
            *(self.doses(method) for method in DOSES),
        ]
        return {
            "resourceType": "Measure",
            "url": f"{BASE}/Measure/Constructs",
            "version": "1",
            "name": "Constructs",
            "library": [f"{BASE}/Library/Main|1"],
            "group": groups,
        }


def package(folder: Path, made: Json) -> MeasurePackage:
    written = library("Main", DEFINITIONS)
    elm = json.loads(base64.b64decode(written["content"][0]["data"]))
    elm["library"]["usings"]["def"].append(
        {"localIdentifier": "FHIR", "uri": "http://hl7.org/fhir", "version": "4.0.1"}
    )
    for name, (kind, body) in FUNCTIONS.items():
        operand = {"name": "o", "operandTypeSpecifier": {"type": "NamedTypeSpecifier", "name": f"{FHIR}{kind}"}}
        head = {"name": name, "context": "Patient", "type": "FunctionDef", "operand": [operand]}
        elm["library"]["statements"]["def"].append(head | {"expression": body})
    written["content"][0]["data"] = base64.b64encode(json.dumps(elm).encode()).decode()
    ages = [{"system": f"{BASE}/CodeSystem/ages", "concept": [{"code": "old"}, {"code": "young"}]}]
    value_set = {"resourceType": "ValueSet", "url": f"{BASE}/ValueSet/ages", "compose": {"include": ages}}
    return MeasurePackage.load(write(folder, made, written, value_set))


#: Doses are 0.01, 0.02 and 0.03 g, whichever patient comes first.
DOSES = {"count": "3", "sum": "0.06", "average": "0.02", "median": "0.02", "minimum": "0.01", "maximum": "0.03"}
COUNTS = {
    "procedures": ([4, 4, 3], "0.75"),
    "people": ([3, 2, 1, 1, 0], "1"),
    "active": ([1], "1"),
    "finished": ([3, 3, 2], str(Decimal(2) / Decimal(3))),
    "two-bases": ([3, 4, 3, 3, 3, 3], "2"),
} | {f"doses-{method}": ([3, 3, 3], score) for method, score in DOSES.items()}
STRATA = {
    "criterion": {("true",): [2, 1, 1, 0, 0], ("false",): [1, 1, 0, 1, 0]},
    "value": {("0",): [1, 0, 0, 0, 0], ("1",): [1, 1, 0, 1, 0], ("2",): [1, 1, 1, 0, 0]},
    "stated": {
        ("old",): [2, 2, 1, 1, 0],
        ("young",): [0, 0, 0, 0, 0],
        ("unknown",): [1, 0, 0, 0, 0],
    },
    "pair": {("false", "false"): [1, 1, 0, 1, 0], ("true", "true"): [2, 1, 1, 0, 0]},
}


def evaluated(made: MeasurePackage, batch_size: int | None) -> MeasureResult:
    return Evaluator(made).evaluate(MemoryPopulation(PATIENTS, batch_size=batch_size), PERIOD, NOW)


def shown(value: Any) -> str:
    if value == UNKNOWN:
        return "unknown"
    ((kind, content),) = value.items()
    return str(content["coding"][0]["code"]) if kind == "valueCodeableConcept" else json.dumps(content)


def strata(group: GroupResult) -> dict[str, dict[tuple[str, ...], list[int]]]:
    return {
        stratifier.id: {
            tuple(map(shown, values)): [int(p.counts.sum()) for p in restrict(group, stratifier, place).populations]
            for place, values in enumerate(stratifier.values)
        }
        for stratifier in group.stratifiers
    }


@pytest.mark.parametrize("batch_size", [None, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_construct_counts_as_worked_by_hand(tmp_path: Path, family: str, batch_size: int | None) -> None:
    result = evaluated(package(tmp_path, Author(family).measure()), batch_size)
    assert not result.failed
    for name, (counts, score) in COUNTS.items():
        group = result.group(name)
        assert [int(p.counts.sum()) for p in group.populations] == counts, name
        found = group.score()
        assert found is not None
        assert abs(found - Decimal(score)) < Decimal("1e-20"), name
    assert strata(result.group("people")) == STRATA
    observations = result.group("doses-median").populations[2].observations
    assert observations is not None
    assert observations.unit == "g"
    assert disagreement(result) is None
    (people,) = (g for g in reports.summary(result, REPORTER)["group"] if g["id"] == "people")
    (stated,) = (s for s in people["stratifier"] if s["id"] == "stated")
    counts = {s["value"]["coding"][0]["code"]: s["population"][0]["count"] for s in stated["stratum"]}
    assert counts == {"old": 2, "young": 0, "unknown": 1}
    store = ResultStore(tmp_path / "results")
    assert reports.summary(store.load(store.save(result)), REPORTER) == reports.summary(result, REPORTER)


@pytest.mark.parametrize("language", ["text/cql", "text/cql-expression"])
@pytest.mark.parametrize("expression", ["exists [Encounter]", '"Has Done" and "Has Medication"', "Count(Observations)"])
def test_cql_written_into_the_measure_is_refused(language: str, expression: str) -> None:
    made = Author("us").measure()
    made["group"][0]["population"][0]["criteria"] = {"language": language, "expression": expression}
    with pytest.raises(UnsupportedElm, match="population initial-population has CQL of its own"):
        read_measure(made)


def test_aggregates_that_the_code_system_lacks_are_refused() -> None:
    with pytest.raises(MeasureError, match="aggregate method 'population-stdev' is not one of the six"):
        read_measure({"name": "m", "group": [Author("us").doses("population-stdev")]})
