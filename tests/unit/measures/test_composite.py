"""Composite measures: the numbers of the Quality Measure IG, polarity, and how components are found."""

from __future__ import annotations

import dataclasses
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fhir_gateway.errors import MeasureError, UnsupportedElm
from fhir_gateway.measures import CompositePackage, MeasurePackage, MemoryPopulation, ResultStore, evaluate, reports
from fhir_gateway.measures.combine import composite_group
from fhir_gateway.measures.composite import CompositeGroup, read_composite
from fhir_gateway.measures.model import Component, GroupResult, PopulationResult
from fhir_gateway.measures.strata import only
from tests.support.measures import MEASURES, NAMES, NOW, PERIOD, REPORTER, concept, groups_of

CODES = ("initial-population", "denominator", "denominator-exclusion", "numerator", "denominator-exception")
_FAMILIES = {
    "us": "http://hl7.org/fhir/us/cqfmeasures/StructureDefinition/cqfm-",
    "uv": "http://hl7.org/fhir/uv/cqm/StructureDefinition/cqm-",
}


def proportion(*rows: str, flipped: bool = False, weight: str = "1") -> Component:
    """A component; each row names what a subject is in: d(enominator), x(cluded), n(umerator), e(xception)."""
    letters = {"initial-population": "d", "denominator": "d", "denominator-exclusion": "x", "numerator": "n"}
    columns = {code: np.array([letters.get(code, "e") in row for row in rows], np.int64) for code in CODES}
    populations = tuple(PopulationResult(code, code, counts, counts) for code, counts in columns.items())
    notation = "decrease" if flipped else "increase"
    return Component(
        "m", GroupResult("g", None, "proportion", notation, "boolean", populations), Decimal(weight), flipped
    )


def composite(method: Any, *components: Component) -> GroupResult:
    return composite_group(CompositeGroup("c", None, method, "increase", ()), components)


# ten subjects, ten components: numerator and denominator memberships of each subject
GRID = [(5, 9), (6, 6), (7, 9), (4, 5), (6, 10), (5, 7), (8, 8), (6, 10), (4, 5), (8, 10)]


def grid() -> list[Component]:
    return [
        proportion(*("dn" if n < numerator else "d" if n < denominator else "" for numerator, denominator in GRID))
        for n in range(10)
    ]


def test_the_grid_of_the_guide() -> None:
    assert round(composite("linear", *grid()).score() or 0, 4) == Decimal("0.7648")
    opportunity = composite("opportunity", *grid())
    assert opportunity.score() == Decimal(59) / Decimal(79)
    assert opportunity.score(np.arange(10) < 2) == Decimal(11) / Decimal(15)
    assert composite("linear", *grid()).member_score(0) == opportunity.member_score(0) == Decimal(5) / Decimal(9)
    nothing = composite("all-or-nothing", *grid())
    assert [int(n) for n in nothing.population("numerator").counts] == [n == d for n, d in GRID]  # type: ignore[union-attr]
    assert nothing.score() == Decimal("0.2")


def test_a_component_that_improves_by_decreasing_is_turned_round() -> None:
    two = ["dn"] * 80 + ["d"] * 20
    fewer = ["dn"] * 20 + ["d"] * 80
    parts = [proportion(*two), proportion(*two), proportion(*fewer, flipped=True)]
    assert composite("weighted", *parts).score() == Decimal("0.8")
    assert composite("opportunity", *parts).score() == Decimal("0.8")
    assert composite("linear", *parts).score() == Decimal("0.8")
    assert composite("all-or-nothing", *parts).score() == Decimal("0.6")  # 20 to 80 of the first 80 are good in all


def test_weights() -> None:
    parts = [proportion("dn", "d", weight="0.25"), proportion("dn", "dn", weight="0.75"), proportion("", "")]
    group = composite("weighted", *parts)
    assert group.score() == Decimal("0.875")  # a component without a denominator has no weight
    assert group.member_score(1) == only(group, 1).score() == Decimal("0.75")
    assert composite("weighted", proportion(""), proportion("")).score() is None
    assert composite("linear", proportion(""), proportion("")).score() is None


def test_all_or_nothing_joins_exclusions_and_exceptions() -> None:
    first = proportion("dn", "dx", "d", "de", "", "dn")
    second = proportion("dn", "dn", "dn", "dn", "dn", "d")
    group = composite("all-or-nothing", first, second)
    counts = {population.code: population.counts.tolist() for population in group.populations}
    assert counts["denominator"] == [1, 1, 1, 1, 1, 1]
    assert counts["denominator-exclusion"] == [0, 1, 0, 0, 0, 0]
    assert counts["numerator"] == [1, 0, 0, 0, 1, 0]
    assert counts["denominator-exception"] == [0, 0, 0, 1, 0, 0]
    assert group.score() == Decimal(2) / Decimal(4)
    opportunity = composite("opportunity", first, second)  # net of exclusions and exceptions of each component
    assert opportunity.score() == Decimal(7) / Decimal(9)


CONTROL, POOR = (MeasurePackage.load(MEASURES / name) for name in NAMES[:2])


def measure(method: str, family: str = "uv", **changes: Any) -> dict[str, Any]:
    weights = [{"url": _FAMILIES[family] + "weight", "valueDecimal": 3}, None]
    artifacts = [
        {"type": "composed-of", "resource": f"{package.url}|{package.version}"} | ({"extension": [w]} if w else {})
        for package, w in zip((CONTROL, POOR), weights, strict=True)
    ]
    return {
        "resourceType": "Measure",
        "url": "http://measures.example/Measure/Both",
        "version": "1",
        "name": "Both",
        "scoring": concept("measure-scoring", "composite"),
        "compositeScoring": concept("composite-measure-scoring", method),
        "improvementNotation": concept("measure-improvement-notation", "increase"),
        "relatedArtifact": artifacts,
    } | changes


@pytest.mark.parametrize("family", ["us", "uv"])
def test_components_may_stand_on_the_group(family: str) -> None:
    artifact = {
        "type": "composed-of",
        "resource": "http://x",
        "extension": [
            {"url": _FAMILIES[family] + "groupId", "valueString": "one"},
            {"url": _FAMILIES[family] + "weight", "valueDecimal": 0.2},
        ],
    }
    scoring = {
        "url": _FAMILIES[family] + "compositeScoring",
        "valueCodeableConcept": concept("composite-measure-scoring", "weighted"),
    }
    component = {"url": _FAMILIES[family] + "component", "valueRelatedArtifact": artifact}
    made = {"name": "M", "group": [{"id": "g", "extension": [scoring, component, component]}]}
    (group,) = read_composite(made)
    assert (group.id, group.method, len(group.components)) == ("g", "weighted", 2)
    assert (group.components[0].group_id, group.components[0].weight) == ("one", Decimal("0.2"))


@pytest.mark.parametrize("method", ["all-or-nothing", "opportunity", "linear", "weighted"])
def test_a_composite_is_evaluated_reported_and_stored(method: str, tmp_path: Path) -> None:
    (tmp_path / "composite.json").write_text(json.dumps(measure(method)))
    package = CompositePackage.load(tmp_path, [POOR, CONTROL])
    people = [*groups_of(NAMES[0]), *((f"other-{who}", resources) for who, resources in groups_of(NAMES[1]))]
    people = [(who, [r | {"id": who} if r["resourceType"] == "Patient" else r for r in rs]) for who, rs in people]
    population = MemoryPopulation(people)
    result = package.evaluate(population, PERIOD, NOW)
    alone = [evaluate(p, population, PERIOD, NOW).groups[0] for p in (CONTROL, POOR)]
    (group,) = result.groups
    assert group.count("initial-population") == int(
        np.sum([(a + b) > 0 for a, b in [tuple(g.populations[0].counts for g in alone)]])
    )
    if method == "weighted":
        scores = [g.score() for g in alone]
        assert scores[0] is not None
        assert scores[1] is not None
        flip = alone[1].improvement_notation == "decrease", alone[0].improvement_notation == "decrease"
        second, first = (1 - s if f else s for s, f in zip(reversed(scores), flip, strict=True) if s is not None)
        assert group.score() == (3 * first + second) / 4
    report = reports.summary(result, REPORTER)
    scoring = next(e for e in report["group"][0]["extension"] if "coring" in e["url"])
    assert scoring["valueCodeableConcept"]["coding"][0]["code"] == "composite"
    assert report["measure"] == "http://measures.example/Measure/Both|1"
    store = ResultStore(tmp_path / "runs")
    loaded = store.load(store.save(result))
    assert reports.summary(loaded, REPORTER) == report
    index = int(np.flatnonzero(group.populations[0].counts)[0])
    assert reports.individual(loaded, index, REPORTER) == reports.individual(result, index, REPORTER)


def test_what_cannot_be_combined_is_refused() -> None:
    with pytest.raises(MeasureError, match="lacks its components"):
        CompositePackage.of(measure("linear"), [CONTROL])
    with pytest.raises(MeasureError, match="none of all-or-nothing"):
        CompositePackage.of(measure("mean"), [CONTROL, POOR])
    with pytest.raises(MeasureError, match="at least two"):
        CompositePackage.of(measure("linear", relatedArtifact=[]), [CONTROL, POOR])
    cohort = dataclasses.replace(
        POOR,
        definition=dataclasses.replace(
            POOR.definition, groups=(dataclasses.replace(POOR.definition.groups[0], scoring="cohort"),)
        ),
    )
    with pytest.raises(UnsupportedElm, match="a cohort component"):
        CompositePackage.of(measure("linear"), [CONTROL, cohort])


def test_what_a_composite_states_itself_is_noted() -> None:
    made = measure("linear", supplementalData=[{"id": "sde-own"}], group=[{"id": "g", "stratifier": [{"id": "s-own"}]}])
    result = CompositePackage.of(made, [CONTROL, POOR]).evaluate(MemoryPopulation([]), PERIOD, NOW)
    assert result.notes == (
        "supplemental data sde-own of the composite is not computed, only that of its components",
        "stratifier s-own of the composite is not computed",
    )
