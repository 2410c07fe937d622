"""Reading Measures: both families of extensions, where they stand, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_gateway.errors import MeasureError, UnsupportedElm
from fhir_gateway.measures.definition import read_measure
from tests.support.measures import concept, measure, population

IP, DENOM, NUMER = (population(code) for code in ("initial-population", "denominator", "numerator"))
UV = "http://hl7.org/fhir/uv/cqm/StructureDefinition/cqm-"
LINK = "http://hl7.org/fhir/5.0/StructureDefinition/extension-Measure.group.population.linkId"


def test_group_extensions_of_the_us_family() -> None:
    (group,) = read_measure(measure("proportion", [IP, DENOM, NUMER], "Encounter")).groups
    assert (group.scoring, group.basis, group.improvement_notation) == ("proportion", "Encounter", "increase")


def test_root_applies_to_every_group_and_the_group_wins() -> None:
    made = measure("proportion", [IP, DENOM, NUMER])
    other = {"id": "other", "population": [IP]}
    made["group"].append(other)
    made["scoring"] = concept("measure-scoring", "cohort")
    made["improvementNotation"] = concept("measure-improvement-notation", "decrease")
    made["extension"] = [
        {"url": UV + "populationBasis", "valueCode": "Encounter"},
        {"url": UV + "scoringUnit", "valueCodeableConcept": {"text": "stays"}},
        {"url": UV + "scoringPrecision", "valuePositiveInt": 2},
    ]
    first, second = read_measure(made).groups
    assert (first.scoring, first.basis, first.improvement_notation) == ("proportion", "boolean", "increase")
    assert (second.scoring, second.basis, second.improvement_notation) == ("cohort", "Encounter", "decrease")
    assert (second.scoring_unit, second.scoring_precision) == ({"text": "stays"}, 2)


def test_universal_extensions_on_the_group() -> None:
    made = measure("proportion", [IP])
    made["group"][0]["extension"] = [
        {"url": UV + "scoring", "valueCodeableConcept": concept("measure-scoring", "cohort")},
        {"url": UV + "populationBasis", "valueCode": "Procedure"},
        {
            "url": UV + "improvementNotation",
            "valueCodeableConcept": concept("measure-improvement-notation", "decrease"),
        },
    ]
    (group,) = read_measure(made).groups
    assert (group.scoring, group.basis, group.improvement_notation) == ("cohort", "Procedure", "decrease")


def test_basis_is_boolean_when_nothing_is_said() -> None:
    made = measure("cohort", [IP])
    made["group"][0]["extension"] = made["group"][0]["extension"][:1]
    assert read_measure(made).groups[0].basis == "boolean"


def test_references_find_link_id_then_id_then_code() -> None:
    linked = IP | {"id": "x", "extension": [{"url": LINK, "valueString": "numerator"}]}
    (group,) = read_measure(measure("proportion", [linked, DENOM, NUMER])).groups
    assert group.named("numerator").code == "initial-population"  # type: ignore[union-attr]
    assert group.named("denominator").code == "denominator"  # type: ignore[union-attr]
    assert group.named("initial-population").id == "x"  # type: ignore[union-attr]
    assert group.named("nobody") is None


def observation(**extensions: str) -> dict[str, Any]:
    return population("measure-observation", **extensions)


SECOND_IP = population("initial-population", name="ip2")
REFUSED = {
    "no scoring": ("none", [IP], "scoring 'none' is none of"),
    "foreign population": ("cohort", [IP, NUMER], "numerator has no place in a cohort"),
    "missing population": ("proportion", [IP, NUMER], "needs the population denominator"),
    "population twice": ("proportion", [IP, DENOM, DENOM, NUMER], "2 populations denominator"),
    "exception in a ratio": ("ratio", [IP, DENOM, NUMER, population("denominator-exception")], "has no place"),
    "two initial populations": ("ratio", [IP, SECOND_IP, DENOM, NUMER], "which of the two initial populations"),
    "dangling reference": (
        "ratio",
        [IP, population("denominator", criteriaReference="nobody"), NUMER],
        "'nobody', which does not exist",
    ),
    "aggregate method": (
        "continuous-variable",
        [IP, population("measure-population"), observation(aggregateMethod="mode")],
        "'mode' is not one of the six",
    ),
    "observation of nothing": (
        "ratio",
        [IP, DENOM, NUMER, observation(aggregateMethod="sum")],
        "does not say which population it observes",
    ),
    "another basis": (
        "proportion",
        [IP, DENOM, population("numerator", populationBasis="Encounter")],
        "numerator has another basis",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_measure_that_contradicts_its_scoring_is_refused(name: str) -> None:
    scoring, populations, reason = REFUSED[name]
    with pytest.raises(MeasureError, match=reason):
        read_measure(measure(scoring, populations))


def test_composites_are_refused_clearly() -> None:
    with pytest.raises(UnsupportedElm, match="load it as a CompositePackage"):
        read_measure(measure("composite", []))


def test_criteria_must_name_a_definition() -> None:
    with pytest.raises(UnsupportedElm, match="'text/fhirpath'"):
        read_measure(measure("cohort", [IP | {"criteria": {"language": "text/fhirpath", "expression": "true"}}]))
    with pytest.raises(MeasureError, match="no criteria expression"):
        read_measure(measure("cohort", [IP | {"criteria": {"language": "text/cql-identifier"}}]))


def test_groups_need_to_be_there_and_have_ids_of_their_own() -> None:
    made = measure("cohort", [IP])
    with pytest.raises(MeasureError, match="has no group"):
        read_measure(made | {"group": []})
    with pytest.raises(MeasureError, match="groups with the same id: g"):
        read_measure(made | {"group": made["group"] * 2})
