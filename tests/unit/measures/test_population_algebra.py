"""Population algebra against the rules written out for one case at a time (Quality Measure IG)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.cql.values import DecVec, IntVec, QuantityVec, StrVec
from fhir_gateway.errors import MeasureError
from fhir_gateway.measures.definition import GroupDefinition, read_measure
from fhir_gateway.measures.merge import merge_groups
from fhir_gateway.measures.model import GroupResult
from fhir_gateway.measures.populations import evaluate_group
from fhir_gateway.measures.scoring import aggregate, rounded
from tests.support.measures import FakeEvaluation, measure, population

PROPORTION = (
    "initial-population",
    "denominator",
    "denominator-exclusion",
    "numerator",
    "numerator-exclusion",
    "denominator-exception",
)
RATIO = PROPORTION[:5]
NOBODY = np.zeros(0, np.intp)


def group(scoring: str, populations: list[dict[str, Any]], basis: str = "boolean") -> GroupDefinition:
    return read_measure(measure(scoring, populations, basis)).groups[0]


def effective(result: GroupResult) -> dict[str, list[int]]:
    return {p.id: p.counts.tolist() for p in result.populations}


def one_case(ip: bool, denom: bool, denex: bool, numer: bool, numex: bool, denexcep: bool) -> tuple[bool, ...]:
    """Section 4 of the calculation rules, word by word."""
    in_denom = ip and denom
    in_denex = in_denom and denex
    in_numer = in_denom and not in_denex and numer
    in_denexcep = in_denom and not in_denex and not numer and denexcep
    return ip, in_denom, in_denex, in_numer, in_numer and numex, in_denexcep


cases = st.lists(st.tuples(*[st.booleans()] * 6), max_size=40)


@given(cases)
def test_proportion_of_members(rows: list[tuple[bool, ...]]) -> None:
    definition = group("proportion", [population(code) for code in PROPORTION])
    columns = {code: [row[n] for row in rows] for n, code in enumerate(PROPORTION)}
    result = evaluate_group(definition, FakeEvaluation(columns), len(rows), NOBODY)
    expected = [one_case(*row) for row in rows]
    assert effective(result) == {code: [int(row[n]) for row in expected] for n, code in enumerate(PROPORTION)}
    assert {p.id: p.raw.tolist() for p in result.populations} == {c: [int(v) for v in columns[c]] for c in columns}
    totals = [sum(column) for column in zip(*expected, strict=True)] or [0] * 6
    divisor = totals[1] - totals[2] - totals[5]
    score = result.score()
    assert (score is None) == (divisor == 0)
    if score is not None:
        assert 0 <= score <= 1
        assert abs(score - Decimal(totals[3] - totals[4]) / Decimal(divisor)) < Decimal("1e-20")


@given(cases, st.integers(1, 5))
def test_proportion_of_episodes_counts_the_same_cases(rows: list[tuple[bool, ...]], members: int) -> None:
    definition = group("proportion", [population(code) for code in PROPORTION], "Encounter")
    lists: dict[str, list[list[int]]] = {code: [[] for _ in range(members)] for code in PROPORTION}
    for episode, row in enumerate(rows):
        for code, holds in zip(PROPORTION, row, strict=True):
            if holds:
                lists[code][episode % members] += [episode, episode]  # a list may hold an episode twice
    result = evaluate_group(definition, FakeEvaluation(episodes=lists), members, NOBODY)
    expected = [one_case(*row) for row in rows]
    for n, code in enumerate(PROPORTION):
        counts = [sum(row[n] for e, row in enumerate(expected) if e % members == m) for m in range(members)]
        assert effective(result)[code] == counts
    assert sum(len(found.reference) for found in result.cases) == len({e for e, row in enumerate(rows) if any(row)})


@given(cases)
def test_ratio_branches_do_not_gate_each_other(rows: list[tuple[bool, ...]]) -> None:
    definition = group("ratio", [population(code) for code in RATIO])
    columns = {code: [row[n] for row in rows] for n, code in enumerate(RATIO)}
    result = evaluate_group(definition, FakeEvaluation(columns), len(rows), NOBODY)
    expected = [(ip, ip and d, ip and d and dx, ip and n, ip and n and nx) for ip, d, dx, n, nx, _ in rows]
    assert effective(result) == {code: [int(row[n]) for row in expected] for n, code in enumerate(RATIO)}


def test_ratio_with_two_initial_populations_of_different_basis() -> None:
    definition = group(
        "ratio",
        [
            population("initial-population", "IPd", "ipd", populationBasis="boolean"),
            population("initial-population", "IPn", "ipn", populationBasis="Encounter"),
            population("denominator", "D", criteriaReference="ipd"),
            population("numerator", "N", criteriaReference="ipn"),
            population(
                "measure-observation", "Months", "months", aggregateMethod="Sum", criteriaReference="denominator"
            ),
            population("measure-observation", "Weight", "weight", aggregateMethod="Sum", criteriaReference="numerator"),
        ],
    )
    evaluation = FakeEvaluation(
        booleans={"IPd": [True, True, None], "D": [True, False, True]},
        episodes={"IPn": [[1, 2], [3], [4]], "N": [[2, 9], [3], []]},
        functions={"Months": IntVec(np.array([12, 6, 3])), "Weight": lambda episode: 1000 * episode},
    )
    result = evaluate_group(definition, evaluation, 3, NOBODY)
    assert effective(result) == {
        "ipd": [1, 1, 0],
        "ipn": [2, 1, 1],
        "denominator": [1, 0, 0],
        "numerator": [1, 1, 0],
        "months": [1, 0, 0],
        "weight": [1, 1, 0],
    }
    assert result.score() == Decimal(5000) / Decimal(12)
    assert result.member_score(0) == Decimal(2000) / Decimal(12)
    assert result.member_score(1) is None
    assert result.score(np.array([True, False, True])) == result.member_score(0)


def test_ratio_without_one_observation_uses_the_net_count() -> None:
    definition = group(
        "ratio",
        [
            population("initial-population", "IP"),
            population("denominator", "D"),
            population("denominator-exclusion", "DX"),
            population("numerator", "N"),
            population("measure-observation", "Obs", aggregateMethod="sum", criteriaReference="numerator"),
        ],
    )
    yes = [True] * 4
    evaluation = FakeEvaluation(
        {"IP": yes, "D": yes, "DX": [True, False, False, False], "N": [True, True, False, False]},
        functions={"Obs": IntVec(np.array([5, 7, 100, 100]))},
    )
    assert evaluate_group(definition, evaluation, 4, NOBODY).score() == Decimal(12) / Decimal(3)


METHODS = {
    "sum": Decimal(6),
    "average": Decimal("1.2"),
    "median": Decimal(1),
    "minimum": Decimal(0),
    "maximum": Decimal(3),
    "count": Decimal(5),
}


@pytest.mark.parametrize(("method", "score"), METHODS.items())
def test_continuous_variable_by_each_method(method: str, score: Decimal) -> None:
    definition = group(
        "continuous-variable",
        [
            population("initial-population", "IP"),
            population("measure-population", "M"),
            population("measure-population-exclusion", "MX"),
            population("measure-observation", "Obs", aggregateMethod=method, criteriaReference="measure-population"),
        ],
    )
    valid = np.array([True, True, True, True, True, True, True, False])
    evaluation = FakeEvaluation(
        {"IP": [True] * 7 + [True], "M": [True] * 6 + [False, True], "MX": [False] * 5 + [True, False, False]},
        functions={"Obs": IntVec(np.array([0, 0, 1, 2, 3, 50, 60, 70]), valid)},
    )
    result = evaluate_group(definition, evaluation, 8, NOBODY)
    assert result.score() == score
    assert effective(result)["measure-observation"] == [1, 1, 1, 1, 1, 0, 0, 0]  # null is not observed
    assert result.member_score(3) == (1 if method == "count" else 2)
    assert result.member_score(6) == ({"sum": 0, "count": 0}.get(method))


def test_observations_may_be_quantities() -> None:
    definition = group(
        "continuous-variable",
        [
            population("initial-population", "IP"),
            population("measure-population", "IP"),
            population("measure-observation", "Obs", aggregateMethod="median"),
        ],
    )
    wide = np.array([10**8 * 10**12, -(10**8)], dtype=object)

    def quantities(values: np.ndarray[Any, Any], units: list[str]) -> QuantityVec:
        return QuantityVec(DecVec(values), StrVec.of_arrow(pa.array(units)))

    def observed(vector: Any) -> GroupResult:
        return evaluate_group(definition, FakeEvaluation({"IP": [True, True]}, functions={"Obs": vector}), 2, NOBODY)

    result = observed(quantities(np.array([150_000_000, -250_000_000]), ["d", "d"]))
    assert result.score() == Decimal("-0.5")
    observations = result.population("measure-observation").observations  # type: ignore[union-attr]
    assert observations is not None
    assert observations.unit == "d"
    assert observed(quantities(wide, ["d", "d"])).score() == Decimal("499999999999.5")
    with pytest.raises(MeasureError, match="gave a String"):
        observed(StrVec.of_arrow(pa.array(["a", "b"])))


def test_cohort_score_is_its_count() -> None:
    definition = group("cohort", [population("initial-population", "IP")])
    assert evaluate_group(definition, FakeEvaluation({"IP": [True, None, True]}), 3, NOBODY).score() == 2


def test_members_that_failed_count_nowhere() -> None:
    populations = [population(code, "All") for code in ("initial-population", "denominator", "numerator")]
    failed = np.array([1], np.intp)
    boolean = evaluate_group(group("proportion", populations), FakeEvaluation({"All": [True, True]}), 2, failed)
    assert effective(boolean)["numerator"] == [1, 0]
    definition = group("proportion", populations, "Encounter")
    stays = evaluate_group(definition, FakeEvaluation(episodes={"All": [[1], [2, 3]]}), 2, failed)
    assert effective(stays)["initial-population"] == [1, 0]
    assert stays.population("initial-population").raw.tolist() == [1, 0]  # type: ignore[union-attr]


@given(cases, st.integers(0, 40))
def test_merged_batches_equal_one_batch(rows: list[tuple[bool, ...]], cut: int) -> None:
    definition = group("proportion", [population(code) for code in PROPORTION], "Encounter")

    def part(some: list[tuple[bool, ...]]) -> GroupResult:
        lists = {
            code: [[m, m + 1] if row[n] else [] for m, row in enumerate(some)] for n, code in enumerate(PROPORTION)
        }
        return evaluate_group(definition, FakeEvaluation(episodes=lists), len(some), NOBODY)

    first, second = rows[:cut], rows[cut:]
    (merged,) = merge_groups([[part(first)], [part(second)]], [len(first), len(second)])
    assert effective(merged) == effective(part(rows))
    assert merged.cases[0].member.tolist() == part(rows).cases[0].member.tolist()
    assert merged.score() == part(rows).score()


def test_aggregates_of_nothing() -> None:
    nothing = pa.array([], pa.decimal128(28, 8))
    assert {m: aggregate(m, nothing) for m in METHODS} == dict.fromkeys(METHODS) | {"sum": 0, "count": 0}
    with pytest.raises(MeasureError, match="mode"):
        aggregate("mode", nothing)


def test_rounding_is_half_up_at_output_only() -> None:
    assert rounded(Decimal("0.125"), 2) == Decimal("0.13")
    assert rounded(Decimal(1) / Decimal(3), None) == Decimal("0.33333333")
