"""Strata: whatever the kind, a stratum's populations are those of its cases alone."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.cql.values import BoolVec, IntVec, NullVec, StrVec, Vec
from fhir_gateway.cql.values.clinical import code_vec
from fhir_gateway.errors import MeasureError
from fhir_gateway.measures.definition import read_measure
from fhir_gateway.measures.merge import merge_groups
from fhir_gateway.measures.model import GroupResult
from fhir_gateway.measures.populations import evaluate_group
from fhir_gateway.measures.strata import UNKNOWN, only, restrict
from tests.support.measures import FakeEvaluation, concept, measure, population

NOBODY = np.zeros(0, np.intp)
_APPLIES = "http://hl7.org/fhir/us/cqfmeasures/StructureDefinition/cqfm-appliesTo"
POPULATIONS = [population("initial-population", "IP"), population("denominator", "D"), population("numerator", "N")]


def criteria(expression: str) -> dict[str, Any]:
    return {"criteria": {"language": "text/cql-identifier", "expression": expression}}


def evaluated(
    stratifier: dict[str, Any], evaluation: FakeEvaluation, size: int, basis: str = "boolean", *functions: str
) -> GroupResult:
    made = measure("proportion", POPULATIONS, basis)
    made["group"][0]["stratifier"] = [{"id": "s"} | stratifier]
    return evaluate_group(read_measure(made).groups[0], evaluation, size, NOBODY, frozenset(functions))


def table(group: GroupResult) -> dict[Any, list[int]]:
    (stratifier,) = group.stratifiers
    found = {}
    for number, values in enumerate(stratifier.values):
        inside = restrict(group, stratifier, number)
        shown = tuple("unknown" if v == UNKNOWN else next(iter(v.values())) for v in values)
        found[shown if len(shown) > 1 else shown[0]] = [inside.count(p.code) for p in inside.populations]
    return found


def members(*rows: tuple[bool | None, ...], vectors: dict[str, Vec] | None = None) -> FakeEvaluation:
    columns = list(zip(*rows, strict=True))
    return FakeEvaluation(dict(zip(("IP", "D", "N", "S"), columns, strict=False)), vectors=vectors)


def test_a_criterion_gives_true_and_false_and_null_is_false() -> None:
    rows = [(True, True, True, True), (True, True, False, None), (True, False, True, False), (False, True, True, True)]
    group = evaluated(criteria("S"), members(*rows), 4)
    assert table(group) == {True: [1, 1, 1], False: [2, 1, 0]}
    (stratifier,) = group.stratifiers
    assert restrict(group, stratifier, 0).score() == 1
    assert restrict(group, stratifier, 1).score() == 0
    assert stratifier.applies_to == ("initial-population", "denominator", "numerator")


def test_values_give_a_stratum_each_and_unknown_comes_last() -> None:
    rows = [(True, True, True), (True, True, False), (True, True, True), (False, True, True)]
    texts = StrVec.of_arrow(pa.array(["z", None, "a", "nobody's"]))
    assert table(evaluated(criteria("S"), members(*rows, vectors={"S": texts}), 4)) == {
        "a": [1, 1, 1],
        "z": [1, 1, 1],
        "unknown": [1, 1, 0],
    }
    whole = IntVec(np.array([2, 1, 2, 7]))
    assert table(evaluated(criteria("S"), members(*rows, vectors={"S": whole}), 4)) == {1: [1, 1, 0], 2: [2, 2, 2]}
    codes = code_vec(StrVec.of_arrow(pa.array(["m", "f", "m", "f"])), StrVec.constant("urn:sex", 4), 4)
    group = evaluated(criteria("S"), members(*rows, vectors={"S": codes}), 4)
    assert [values[0] for values in group.stratifiers[0].values] == [
        {"valueCodeableConcept": {"coding": [{"system": "urn:sex", "code": code}]}} for code in ("f", "m")
    ]
    nulls = evaluated(criteria("S"), members(*rows, vectors={"S": NullVec(4)}), 4)
    assert table(nulls) == {"unknown": [3, 3, 2]}
    (merged,) = merge_groups([[nulls], [evaluated(criteria("S"), members((True, True, True, True)), 1)]], [4, 1])
    assert table(merged) == {True: [1, 1, 1], False: [3, 3, 2]}


def test_components_give_a_stratum_for_each_combination() -> None:
    rows = [(True, True, True)] * 4
    vectors: dict[str, Vec] = {
        "Sex": StrVec.of_arrow(pa.array(["f", "m", "f", "f"])),
        "Old": BoolVec(np.array([True, True, False, False]), np.array([True, True, True, False])),
    }
    stratifier = {
        "component": [
            {"id": "sex", "code": {"text": "Sex"}} | criteria("Sex"),
            {"id": "old", "code": {"text": "Old"}} | criteria("Old"),
        ]
    }
    group = evaluated(stratifier, members(*rows, vectors=vectors), 4)
    assert table(group) == {
        ("f", False): [1, 1, 1],
        ("f", True): [1, 1, 1],
        ("f", "unknown"): [1, 1, 1],
        ("m", True): [1, 1, 1],
    }
    assert group.stratifiers[0].components == (("sex", {"text": "Sex"}), ("old", {"text": "Old"}))


LISTS = {"IP": [[1, 2, 3], [4]], "D": [[1, 2, 3], [4]], "N": [[1], [4]]}


def test_episodes_by_list_by_member_and_by_function() -> None:
    listed = FakeEvaluation(episodes=LISTS | {"S": [[1, 2, 9], []]})
    assert table(evaluated(criteria("S"), listed, 2, "Encounter")) == {True: [2, 2, 1], False: [2, 2, 1]}
    by_member = FakeEvaluation(episodes=LISTS, vectors={"S": StrVec.of_arrow(pa.array(["a", None]))})
    assert table(evaluated(criteria("S"), by_member, 2, "Encounter")) == {"a": [3, 3, 1], "unknown": [1, 1, 1]}
    by_episode = FakeEvaluation(episodes=LISTS, functions={"S": lambda key: key % 2})
    group = evaluated(criteria("S"), by_episode, 2, "Encounter", "S")
    assert table(group) == {0: [2, 2, 1], 1: [2, 2, 1]}
    assert table(only(group, 1)) == {0: [1, 1, 1], 1: [0, 0, 0]}


def test_observations_of_a_stratum_are_aggregated_anew() -> None:
    made = measure(
        "continuous-variable",
        [
            population("initial-population", "IP"),
            population("measure-population", "IP"),
            population("measure-observation", "Obs", aggregateMethod="average"),
        ],
        "Encounter",
    )
    made["group"][0]["stratifier"] = [{"id": "s"} | criteria("S")]
    evaluation = FakeEvaluation(
        episodes={"IP": [[1, 2], [30]], "S": [[2], [30]]}, functions={"Obs": lambda key: key * 10}
    )
    definition = read_measure(made).groups[0]
    part = evaluate_group(definition, evaluation, 2, NOBODY)
    (whole,) = merge_groups([[part], [part]], [2, 2])
    assert whole.score() == Decimal(330) / Decimal(3)
    for group in (part, whole):
        (stratifier,) = group.stratifiers
        assert [restrict(group, stratifier, n).score() for n in (0, 1)] == [Decimal(160), Decimal(10)]
    alone = only(whole, 2)
    assert restrict(alone, alone.stratifiers[0], 0).score() == 20
    assert whole.member_score(2) == alone.score() == 15


def test_applies_to_and_what_makes_no_sense_is_refused() -> None:
    rows = [(True, True, True, True)]
    applies = [{"url": _APPLIES, "valueCodeableConcept": concept("measure-population", "numerator")}]
    group = evaluated(criteria("S") | {"extension": applies}, members(*rows), 1)
    assert group.stratifiers[0].applies_to == ("numerator",)
    applies[0]["valueCodeableConcept"] = concept("measure-population", "numerator-exclusion")
    with pytest.raises(MeasureError, match="which the group does not have"):
        evaluated(criteria("S") | {"extension": applies}, members(*rows), 1)
    with pytest.raises(MeasureError, match="only one of them"):
        evaluated(criteria("S") | {"component": [criteria("S")]}, members(*rows), 1)
    lists = FakeEvaluation({"IP": [True], "D": [True], "N": [True]}, {"S": [[1]]})
    with pytest.raises(MeasureError, match="gives a list"):
        evaluated(criteria("S"), lists, 1)


cases = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["a", "b", "c", None])), max_size=30
)


@given(cases, st.integers(0, 30))
def test_strata_partition_and_do_not_depend_on_batches(
    rows: list[tuple[bool, bool, bool, str | None]], cut: int
) -> None:
    def part(some: list[tuple[bool, bool, bool, str | None]]) -> GroupResult:
        columns: Any = {name: [row[n] for row in some] for n, name in enumerate(("IP", "D", "N"))}
        texts = StrVec.of_arrow(pa.array([row[3] for row in some], pa.string()))
        return evaluated(criteria("S"), FakeEvaluation(columns, vectors={"S": texts}), len(some))

    whole = part(rows)
    totals = [sum(column) for column in zip(*table(whole).values(), strict=True)] or [0, 0, 0]
    assert totals == [whole.count(p.code) for p in whole.populations]
    (merged,) = merge_groups([[part(rows[:cut])], [part(rows[cut:])]], [len(rows[:cut]), len(rows[cut:])])
    assert table(merged) == table(whole)
    assert list(table(merged)) == list(table(whole))
    for index in range(len(rows)):
        alone = only(whole, index)
        assert sum(column[0] for column in table(alone).values()) == int(rows[index][0])
