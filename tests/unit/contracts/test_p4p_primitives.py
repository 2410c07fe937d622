"""What pay for performance can say beyond a fixed pool: improvement, peers, heirs, gates, pools, rounding."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from contract_parts import exposure, inputs, measure
from hypothesis import given
from hypothesis import strategies as st
from p4p_parts import Settled, problems, settled

from fhir_gateway.contracts import Contract, MeasureScore, settle
from fhir_gateway.contracts.scoring import percentile_rank, points, score_measures
from fhir_gateway.contracts.terms import MeasureTerms, Scoring
from fhir_gateway.errors import ContractError

D = Decimal


def p4p(**changes: Any) -> dict[str, Any]:
    return {"kind": "pay_for_performance", "budget": {"kind": "fixed", "amount": 10_000}} | changes


def paid(score: str | Decimal, terms: dict[str, Any], **more: Any) -> Settled:
    return settled(terms, measures=[measure("q", "1")], outcomes={"q": MeasureScore(None, 100, D(score))}, **more)


@pytest.mark.parametrize(
    ("direction", "terms", "score", "expected"),
    [
        ("increase", {"baseline": "0.5", "target": "0.7"}, "0.6", "0.5"),  # half of the way
        ("increase", {"baseline": "0.5", "target": "0.7"}, "0.4", "0"),
        ("increase", {"baseline": "0.5", "target": "0.7"}, "0.9", "1"),
        ("increase", {"baseline": "0.5", "target": "0.7", "threshold": "0.5"}, "0.59", "0"),
        ("increase", {"baseline": "0.8", "target": "0.7"}, "0.75", "1"),  # holds the target: nothing left to improve
        ("decrease", {"baseline": "0.4", "target": "0.2"}, "0.25", "0.75"),
        ("increase", {"baseline": "0.5", "target": "0.04", "improvement": "absolute"}, "0.53", "0.75"),
        ("decrease", {"baseline": "0.5", "target": "0.04", "improvement": "absolute"}, "0.47", "0.75"),
        (
            "increase",
            {"baseline": "0.5", "target": "0.04", "threshold": "0.02", "improvement": "absolute"},
            "0.53",
            "0.5",
        ),
        (
            "increase",
            {"baseline": "0.5", "target": "0.03", "threshold": "0.03", "improvement": "absolute"},
            "0.53",
            "1",
        ),
    ],
)
def test_improvement(direction: Any, terms: dict[str, str], score: str, expected: str) -> None:
    assert points(D(score), direction, Scoring.model_validate({"kind": "improvement"} | terms)) == D(expected)


def test_percentile_ranks_count_ties_by_half() -> None:
    peers = [D(n) for n in (1, 2, 2, 3)]
    assert percentile_rank(D(2), peers) == D("0.5")
    assert percentile_rank(D(3), peers) == D("0.875")
    assert percentile_rank(D(1), peers, "decrease") == D("0.875")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "0.875"),
        ({"threshold": "0.5", "target": 1}, "0.75"),
        ({"steps": [{"at": "0.5", "points": "0.5"}, {"at": "0.9", "points": 1}]}, "0.5"),
    ],
)
def test_percentile_points(more: dict[str, Any], expected: str) -> None:
    peers = [{"measure": "q", "score": n} for n in (1, 2, 2, 3)] + [{"measure": "other", "score": 9}]
    measures = [measure("q", "1", scoring={"kind": "percentile"} | more)]
    outcomes = {"q": MeasureScore(None, 100, D(3))}
    result = settled(p4p(peers="peers"), tables={"peers": peers}, measures=measures, outcomes=outcomes)
    assert result.paid == 10_000 * D(expected)
    with pytest.raises(ContractError, match="no peer set"):
        settled(p4p(), measures=measures, outcomes=outcomes)


def measures_of(*weights: str, **first: Any) -> list[MeasureTerms]:
    stated = [
        measure(name, weight, **(first if name == "a" else {})) for name, weight in zip("abc", weights, strict=False)
    ]
    return [MeasureTerms.model_validate(one) for one in stated]


def test_a_weight_goes_to_the_measure_that_is_named() -> None:
    found = score_measures(
        measures_of("0.2", "0.3", "0.5", min_denominator=30),
        {name: MeasureScore(None, 20, D(1)) for name in "abc"},
        "reweight",
        heirs={"a": "c"},
    )
    assert [one.weight for one in found] == [0, D("0.3"), D("0.7")]
    # the heir does not take part either: in proportion
    missing = {"a": MeasureScore(None, 20, D(1)), "b": MeasureScore(None, 20, D(1)), "c": MeasureScore(None, 0, None)}
    again = score_measures(measures_of("0.2", "0.3", "0.5", min_denominator=30), missing, "reweight", heirs={"a": "c"})
    assert [one.weight for one in again] == [0, 1, 0]


CONDITIONS = [{"measure": name, "at_least": "0.5"} for name in "abcde"]


@pytest.mark.parametrize(
    ("needed", "effect", "met", "share"),
    [
        ("all", "forfeit", 5, "1"),
        ("all", "forfeit", 4, "0"),
        ("any", "forfeit", 1, "1"),
        ("any", "forfeit", 0, "0"),
        (3, "forfeit", 3, "1"),  # 3 of 5
        (3, "forfeit", 2, "0"),
        (4, "pro_rate", 3, "0.75"),
        (4, "pro_rate", 5, "1"),
    ],
)
def test_gates(needed: Any, effect: str, met: int, share: str) -> None:
    measures = [measure(name, "0.2", scoring={"kind": "threshold", "target": 0}) for name in "abcde"]
    outcomes = {name: MeasureScore(None, 100, D("0.6" if n < met else "0.4")) for n, name in enumerate("abcde")}
    terms = p4p(gates={"conditions": CONDITIONS, "needed": needed, "effect": effect})
    assert settled(terms, measures=measures, outcomes=outcomes).paid == 10_000 * D(share)


@pytest.mark.parametrize(
    ("permanency", "reentry", "paid"), [("0.53", "0.10", 10_000), ("0.529", "0.10", 0), ("0.6", "0.11", 0)]
)
def test_child_welfare_bonus_of_the_sheet(permanency: str, reentry: str, paid: int) -> None:
    gates = {
        "conditions": [
            {"measure": "permanency", "baseline": "0.50", "rises_by": "0.03"},
            {"measure": "reentry", "at_most": "0.10"},
        ]
    }
    measures = [measure("permanency", "1", scoring={"kind": "threshold", "target": 0})]
    outcomes = {"permanency": MeasureScore(None, 100, D(permanency)), "reentry": MeasureScore(None, 100, D(reentry))}
    assert settled(p4p(gates=gates), measures=measures, outcomes=outcomes).paid == paid


@pytest.mark.parametrize(
    ("budget", "amount"),
    [
        ({"kind": "percent_of_premium", "amount": "0.02", "premium": 1_000_000}, 20_000),
        ({"kind": "percent_of_savings", "amount": "0.1", "target": 1_500_000}, 50_000),
        ({"kind": "percent_of_savings", "amount": "0.1", "target_pmpm": "12.5"}, 50_000),
        ({"kind": "percent_of_savings", "amount": "0.1", "target": 900_000}, 0),
    ],
)
def test_pools(budget: dict[str, Any], amount: int) -> None:
    assert paid("1", p4p(budget=budget), seen=exposure("1000000")).paid == amount


def test_a_part_of_the_year_counts_in_proportion() -> None:
    assert paid("1", p4p(), part=D("0.25")).paid == 2_500
    assert paid("1", p4p(cap=1_000), part=D("0.25")).paid == 250


def test_a_budget_neutral_pool_pays_back_what_was_withheld() -> None:
    budget = {"kind": "budget_neutral", "amount": "0.02", "table": "network"}

    def of(own: str, own_base: int, other: str, other_base: int) -> Decimal:
        rows = [{"provider": "me", "base": own_base}, {"provider": "you", "base": other_base, "score": other}]
        return paid(own, p4p(budget=budget), tables={"network": rows}).paid

    first, second = of("0.4", 100_000, "0.2", 50_000), of("0.2", 50_000, "0.4", 100_000)
    assert (first, second) == (2_400, 600)  # withheld 2,000 and 1,000
    with pytest.raises(ContractError, match="one row has no score"):
        paid("1", p4p(budget=budget), tables={"network": [{"provider": "you", "base": 1, "score": 1}]})


@pytest.mark.parametrize(("mode", "amount"), [("half_up", 6_700), ("down", 6_600)])
def test_points_are_rounded_by_the_rule(mode: str, amount: int) -> None:
    assert paid("0.6666", p4p(points_rounding={"digits": 2, "mode": mode})).paid == amount


@pytest.mark.parametrize(
    ("direction", "numerator", "missing"), [("increase", 150, 10), ("increase", 161, 19), ("decrease", 150, 10)]
)
def test_members_to_the_next_step(direction: str, numerator: int, missing: int) -> None:
    """ceil(cut x denominator - numerator) of 200; of an inverse measure, so many fewer."""
    at = ["0.8", "0.9"] if direction == "increase" else ["0.8", "0.7"]
    ladder = {"kind": "ladder", "steps": [{"at": at[0], "points": "0.5"}, {"at": at[1], "points": 1}]}
    stars = measure("stars", "1", direction=direction, scoring=ladder)
    outcomes = {"stars": MeasureScore(numerator, 200, D(numerator) / 200)}
    assert settled(p4p(), measures=[stars], outcomes=outcomes).value("stars.to-next-step") == missing


def test_beyond_the_last_step_nothing_is_missing() -> None:
    stars = measure("stars", "1", scoring={"kind": "threshold", "target": "0.8"})
    assert "stars.to-next-step" not in settled(
        p4p(), measures=[stars], outcomes={"stars": MeasureScore(80, 100, D("0.8"))}
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": {"kind": "fixed", "amount": 1, "premium": 1}}, "a fixed pool has no use for it"),
        ({"budget": {"kind": "percent_of_savings", "amount": "0.1"}}, "needs target or target_pmpm"),
        ({"budget": {"kind": "percent_of_premium", "amount": 2, "premium": 1}}, "is a fraction of 1"),
        ({"budget": {"kind": "budget_neutral", "amount": "0.1", "table": "t"}, "cap": 1}, "break its neutrality"),
        ({"gates": {"conditions": [{"measure": "q"}]}}, "needs one of"),
        ({"gates": {"conditions": [{"at_least": 1}], "needed": 2}}, "more than there are"),
        ({"gates": {"conditions": [{"rises_by": 1, "baseline": 1}]}}, "has no baseline"),
        ({"heirs": {"q": "q"}}, "its own heir"),
    ],
)
def test_contradictions(changes: dict[str, Any], message: str) -> None:
    assert any(message in found for found in problems(p4p(**changes)))


@pytest.mark.parametrize(
    ("scoring", "message"),
    [
        ({"kind": "improvement", "target": 1}, "scoring.baseline: a improvement scoring needs it"),
        ({"kind": "linear", "target": 1, "threshold": 0, "improvement": "absolute"}, "has no use for it"),
        ({"kind": "improvement", "baseline": 1, "target": 0, "improvement": "absolute"}, "is no gain"),
        ({"kind": "percentile", "threshold": "0.5"}, "go together"),
        ({"kind": "percentile", "threshold": "0.5", "target": "0.4"}, "not above threshold"),
        ({"kind": "decile", "deciles": [{"decile": 2, "at": 1}, {"decile": 3, "at": 1}]}, "overlaps the step before"),
    ],
)
def test_scoring_that_cannot_be_meant(scoring: dict[str, Any], message: str, load: Callable[..., Contract]) -> None:
    arrangement = p4p() | {"id": "p", "pool": "p"}
    with pytest.raises(ContractError, match=message):
        load(measures=[measure("q", "1", scoring=scoring)], arrangements=[arrangement])


def test_a_contract_names_measures_that_there_are(load: Callable[..., Contract]) -> None:
    gates = {"conditions": [{"measure": "missing", "at_least": 1}]}
    with pytest.raises(ContractError, match="there is no measure 'missing'"):
        load(measures=[measure("q", "1")], arrangements=[p4p(gates=gates) | {"id": "p", "pool": "p"}])


def test_tables_come_with_the_contract(contract_terms: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "peers.csv").write_text("measure,score\nq,0.2\nq,0.9\n", encoding="utf-8")
    terms = contract_terms(
        measures=[measure("q", "1", scoring={"kind": "percentile"})],
        arrangements=[p4p(peers="peers") | {"id": "p", "pool": "p"}],
        tables={"peers": {"path": "peers.csv"}},
    )
    contract = Contract.of(terms, tmp_path)
    assert contract.table_schemas().keys() == {"peers"}
    with pytest.raises(ContractError, match="were not given"):
        settle(contract, inputs("0", outcomes={"q": MeasureScore(None, 100, D("0.9"))}))


fractions = st.decimals(0, 1, places=3)
kinds: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"kind": "improvement", "baseline": "0.4", "target": "0.8"},
        {"kind": "improvement", "baseline": "0.4", "target": "0.8", "threshold": "0.3"},
        {"kind": "improvement", "baseline": "0.4", "target": "0.1", "improvement": "absolute"},
        {"kind": "percentile"},
        {"kind": "percentile", "threshold": "0.2", "target": "0.9"},
        {"kind": "decile", "deciles": [{"decile": d, "at": D(d) / 11} for d in range(1, 11)], "cap": 7},
    ]
)


@given(stated=kinds, low=fractions, high=fractions, peers=st.lists(fractions, min_size=1, max_size=9))
def test_points_never_fall_with_the_score(
    stated: dict[str, Any], low: Decimal, high: Decimal, peers: list[Decimal]
) -> None:
    low, high = sorted((low, high))
    scoring = Scoring.model_validate(stated)
    assert 0 <= points(low, "increase", scoring, peers) <= points(high, "increase", scoring, peers) <= 1


@given(
    weights=st.lists(st.integers(1, 20), min_size=3, max_size=3), there=st.lists(st.booleans(), min_size=3, max_size=3)
)
def test_weights_that_remain_sum_to_one(weights: list[int], there: list[bool]) -> None:
    stated = [D(weight) / 100 for weight in weights]
    terms = measures_of(*(str(weight) for weight in stated))
    outcomes = {
        n: MeasureScore(None, 50, D("0.5") if is_there else None) for n, is_there in zip("abc", there, strict=True)
    }
    found = score_measures(terms, outcomes, "reweight", heirs={"a": "b"})
    if any(there):
        assert abs(sum(one.weight for one in found) - sum(stated)) < D("1e-20")


@given(
    network=st.lists(st.tuples(st.integers(1, 10**7), st.integers(0, 100)), min_size=1, max_size=5),
    withheld=st.sampled_from([D("0.01"), D("0.02")]),
)
def test_what_is_withheld_is_paid_back(network: list[tuple[int, int]], withheld: Decimal) -> None:
    if not any(score for _, score in network):
        return
    budget = {"kind": "budget_neutral", "amount": withheld, "table": "network"}
    shares = []
    for own, (_, score) in enumerate(network):
        rows = [
            {"provider": str(n), "base": base, "score": None if n == own else D(points) / 100}
            for n, (base, points) in enumerate(network)
        ]
        shares.append(paid(D(score) / 100, p4p(budget=budget), tables={"network": rows}).value("earned"))
    assert abs(sum(shares) - withheld * sum(base for base, _ in network)) < D("1e-20")
