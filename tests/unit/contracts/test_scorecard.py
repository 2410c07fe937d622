"""Scorecards: preferred by rank or score, damages for shortfalls; stars to the next cut point."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from contract_parts import measure
from hypothesis import given
from hypothesis import strategies as st
from p4p_parts import problems, settled

from fhir_gateway.contracts import MeasureScore
from fhir_gateway.contracts.scoring.stars import gap_to_next, half_stars, stars, weighted_average
from fhir_gateway.errors import ContractError

D = Decimal


def scored(score: str | Decimal, denominator: int = 100) -> dict[str, Any]:
    return {"measures": [measure("q", "1")], "outcomes": {"q": MeasureScore(None, denominator, D(score))}}


def scorecard(**changes: Any) -> dict[str, Any]:
    return {"kind": "scorecard"} | changes


@pytest.mark.parametrize(("score", "rank", "paid"), [("0.95", 1, 5_000), ("0.8", 2, 5_000), ("0.79", 3, 0)])
def test_the_best_two_are_preferred_ties_included(score: str, rank: int, paid: int) -> None:
    terms = scorecard(preferred={"top": 2, "amount": 5_000}, scores_table="scores")
    others = [{"provider": name, "score": value} for name, value in (("b", "0.9"), ("c", "0.8"), ("d", "0.1"))]
    result = settled(terms, tables={"scores": others}, **scored(score))
    assert result.value("rank") == rank
    assert result.paid == paid


@pytest.mark.parametrize(("per", "paid"), [("period", 2), ("member", 20_000), ("member_month", 240_000)])
def test_preferred_by_a_score(per: str, paid: int) -> None:
    terms = scorecard(preferred={"at_least": "0.7", "amount": 2, "per": per})
    assert settled(terms, **scored("0.7")).paid == paid
    assert settled(terms, **scored("0.69")).paid == 0


@pytest.mark.parametrize(
    ("condition", "more", "score", "owed"),
    [
        ({"at_least": "0.9"}, {}, "0.85", 1_000),
        ({"at_least": "0.9"}, {}, "0.9", 0),
        ({"at_least": "0.9"}, {"step": "0.01"}, "0.875", 3_000),
        ({"at_least": "0.9"}, {"step": "0.01", "cap": 2_500}, "0.5", 2_500),
        ({"at_most": "0.1"}, {}, "0.2", 1_000),
        ({"baseline": "0.6", "rises_by": "0.05"}, {}, "0.64", 1_000),
        ({"baseline": "0.6", "falls_by": "0.05"}, {}, "0.55", 0),
    ],
)
def test_liquidated_damages(condition: dict[str, Any], more: dict[str, Any], score: str, owed: int) -> None:
    terms = scorecard(damages=[{"condition": {"measure": "q"} | condition, "amount": 1_000} | more])
    assert settled(terms, **scored(score)).paid == -owed


def test_damages_together_are_capped_and_nothing_is_owed_for_few_cases() -> None:
    damage = {"condition": {"measure": "q", "at_least": "0.9", "min_denominator": 30}, "amount": 1_000}
    terms = scorecard(damages=[damage, damage, damage], damages_cap=2_500)
    assert settled(terms, **scored("0.5")).paid == -2_500
    assert settled(terms, **scored("0.5", 29)).paid == 0


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (scorecard(), "neither preferred nor damages"),
        (scorecard(preferred={"amount": 1}), "either top or at_least"),
        (scorecard(preferred={"top": 1, "amount": 1}), "belongs to preferred.top"),
        (scorecard(damages=[{"condition": {}, "amount": 1}]), "needs one of"),
        (scorecard(damages=[{"condition": {"measure": "q", "rises_by": 1}, "amount": 1}]), "belongs to rises_by"),
        (scorecard(preferred={"at_least": 1, "amount": 1}, damages_cap=1), "there are no damages"),
    ],
)
def test_contradictions(terms: dict[str, Any], message: str) -> None:
    assert any(message in found for found in problems(terms))


fractions = st.decimals(0, 1, places=3)


@given(scores=st.tuples(fractions, fractions))
def test_better_never_pays_less(scores: tuple[Decimal, Decimal]) -> None:
    damages = [{"condition": {"measure": "q", "at_least": "0.8"}, "amount": 10, "step": "0.05", "cap": 100}]
    terms = scorecard(preferred={"at_least": "0.9", "amount": 500}, damages=damages)
    low, high = sorted(scores)
    assert settled(terms, **scored(low)).paid <= settled(terms, **scored(high)).paid


CUTS = [D("0.60"), D("0.70"), D("0.80"), D("0.90")]


def test_the_gap_to_the_next_cut_point() -> None:
    gap = gap_to_next(150, 200, CUTS)
    assert (gap.stars, gap.next_cut, gap.needed, gap.reachable) == (3, D("0.80"), 10, True)
    assert gap_to_next(157, 207, CUTS).needed == 9  # 165.6 -> 166
    assert gap_to_next(190, 200, CUTS).needed is None
    inverse = gap_to_next(30, 200, [D("0.2"), D("0.15"), D("0.1"), D("0.05")], "decrease")
    assert (inverse.stars, inverse.needed) == (3, 10)
    with pytest.raises(ContractError, match="four cut points"):
        stars(D(1), CUTS[:3])


def test_ratings() -> None:
    assert [half_stars(D(rating)) for rating in ("3.749", "3.750")] == [D("3.5"), D("4.0")]
    assert weighted_average([(5, D(3)), (2, D(1))]) == D("4.25")
