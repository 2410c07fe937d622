"""Merit-based incentive payments: deciles, categories, redistribution, payment factor."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from contract_parts import measure
from hypothesis import given
from hypothesis import strategies as st
from p4p_parts import problems, settled

from fhir_gateway.contracts import MeasureScore
from fhir_gateway.contracts.scoring import mips as rules
from fhir_gateway.contracts.scoring.mips import Category, MipsYear
from fhir_gateway.contracts.scoring.points import decile_points
from fhir_gateway.contracts.terms import Scoring

D = Decimal
RULES = MipsYear.of(2026)
UP = [{"decile": d, "at": D(d - 1) / 10} for d in range(1, 11)]
DOWN = [{"decile": d, "at": 1 - D(d - 1) / 10} for d in range(1, 11)]


def scoring(deciles: list[dict[str, Any]], **more: Any) -> Scoring:
    return Scoring.model_validate({"kind": "decile", "deciles": deciles} | more)


def test_decile_points_of_the_sheet() -> None:
    fifth = scoring([{"decile": 5, "at": "65.61"}, {"decile": 6, "at": "68.97"}])
    assert decile_points(D("67.00"), "increase", fifth) == D("5.41")
    inverse = scoring([{"decile": 5, "at": "36.72"}, {"decile": 6, "at": "29.54"}])
    assert decile_points(D("31.0"), "decrease", inverse) == D("5.80")


@pytest.mark.parametrize(
    ("score", "more", "points"),
    [
        ("0.95", {}, "10"),
        ("0.95", {"cap": 7}, "7"),  # topped out
        ("0.899", {}, "9.9"),  # never beyond d.9
        ("0.05", {}, "1.50"),
        ("-1", {}, "1"),  # below the first decile
        ("0.05", {"floor": 5}, "5"),  # a new measure
    ],
)
def test_caps_and_floors(score: str, more: dict[str, Any], points: str) -> None:
    assert decile_points(D(score), "increase", scoring(UP, **more)) == D(points)


def test_without_a_benchmark_there_are_no_points() -> None:
    assert decile_points(D("0.9"), "increase", scoring([])) == 0
    assert decile_points(D("0.9"), "increase", scoring([], floor=7)) == 7


def test_inverse_deciles_mirror() -> None:
    for score in ("0.02", "0.31", "0.77", "0.999"):
        mirrored = decile_points(1 - D(score), "increase", scoring(UP))
        assert abs(decile_points(D(score), "decrease", scoring(DOWN)) - mirrored) <= D("0.01")


@pytest.mark.parametrize(
    ("score", "scaling", "rate"),
    [
        ("60", "1", "-0.018"),
        ("100", "0.24", "0.0216"),
        ("75", "1", "0"),
        ("18.75", "1", "-0.09"),
        ("0", "1", "-0.09"),
        ("18.76", "1", "-0.067488"),
        ("100", "5", "0.27"),  # scaling is 3 at most
    ],
)
def test_payment_adjustment(score: str, scaling: str, rate: str) -> None:
    assert rules.payment_adjustment(D(score), D(scaling), RULES) == D(rate)


def test_scaling_makes_gains_what_others_lose() -> None:
    everybody = [(D(1_000), D(60)), (D(500), D(100)), (D(500), D(80))]
    scaling = rules.neutral_scaling(everybody, RULES)
    assert abs(sum(paid * rules.payment_adjustment(score, scaling, RULES) for paid, score in everybody)) < D("1e-20")


@pytest.mark.parametrize(
    ("missing", "small", "quality"),
    [
        ((), False, "0.30"),
        (("promoting_interoperability",), False, "0.55"),
        (("promoting_interoperability",), True, "0.40"),
        (("cost", "promoting_interoperability"), True, "0.50"),
        (("quality",), False, None),
    ],
)
def test_redistributed_weights_sum_to_one(missing: tuple[Category, ...], small: bool, quality: str | None) -> None:
    weights = rules.category_weights(missing, RULES.tracks["traditional"], small)
    assert abs(sum(weights.values()) - 1) < D("1e-20")
    assert weights.get("quality") == (None if quality is None else D(quality))


def test_improvement_is_limited() -> None:
    assert rules.improvement(D(30), D(60), D("0.4"), RULES) == D("0.025")
    assert rules.improvement(D(60), D(60), D("0.1"), RULES) == D("0.1")
    assert rules.improvement(D(20), D(60), D("0.5"), RULES) == 0
    assert rules.improvement(D(20), D(60), None, RULES) == 0


def mips(**changes: Any) -> dict[str, Any]:
    categories = {"cost": "0.6", "improvement_activities": 1, "promoting_interoperability": "0.9"}
    return {"kind": "mips", "year": 2025, "covered_services": 100_000} | categories | changes


def six(**first: Any) -> list[dict[str, Any]]:
    decile = {"scoring": {"kind": "decile", "deciles": UP}, "min_denominator": 20}
    return [measure(f"m{n}", "0", **decile | (first if n == 0 else {})) for n in range(6)]


def outcomes(score: str = "0.75", **changes: MeasureScore) -> dict[str, MeasureScore]:
    return {f"m{n}": MeasureScore(None, 100, D(score)) for n in range(6)} | changes


def test_a_clinician_from_measures_to_money() -> None:
    result = settled(mips(), measures=six(), outcomes=outcomes())
    assert result.value("quality") == D("0.85")  # 8.5 of 10 each
    assert result.value("final-score") == D("81.0")  # 25.5 + 18 + 15 + 22.5
    assert result.value("adjustment") == D("0.0216")
    assert result.paid == 2_160


def test_incomplete_and_small_measures_have_no_points() -> None:
    incomplete = settled(mips(completeness={"m0": "0.74"}), measures=six(), outcomes=outcomes())
    assert incomplete.value("m0.points") == 0
    few = outcomes(m0=MeasureScore(None, 19, D("0.9")))
    assert settled(mips(), measures=six(), outcomes=few).value("m0.points") == 0
    small = settled(mips(small_practice=True), measures=six(), outcomes=few)
    assert small.value("m0.points") == 3
    assert round(small.value("quality"), 12) == round(D("51.5") / 60, 12)  # 45.5 points and 6 for being small


def test_claims_measures_below_their_case_minimum_leave_both_sides() -> None:
    few = outcomes(m5=MeasureScore(None, 100, D("0.2")))
    terms = mips(claims_measures=["m5"])
    measures = six()
    measures[5]["min_denominator"] = 200
    result = settled(terms, measures=measures, outcomes=few)
    assert result["m5.points"].value is None
    assert round(result.value("quality"), 12) == round(D("42.5") / 60, 12)  # five of six required


def test_measures_without_benchmark() -> None:
    bare = {"scoring": {"kind": "decile"}}
    zero = settled(mips(), measures=six(**bare), outcomes=outcomes())
    assert round(zero.value("quality"), 12) == round(D("42.5") / 60, 12)
    app = {"track": "app", "cost": None, "electronic_measures": 8}
    result = settled(mips(**app), measures=six(**bare), outcomes=outcomes())
    assert result["m0.points"].value is None
    assert result.value("quality") == D("47.5") / 50  # 10% of 50 at most as bonus


def test_missing_categories_are_redistributed() -> None:
    result = settled(mips(promoting_interoperability=None), measures=six(), outcomes=outcomes())
    assert result.value("quality.weighted") == D("0.55") * D("0.85")


def test_contradictions() -> None:
    assert "plays no part" in problems(mips(track="app"))[0]
    assert "no rules" in problems(mips(year=2001))[0]
    assert "track app only" in problems(mips(electronic_measures=2))[0]


fractions = st.decimals(0, 1, places=3)


@given(scores=st.lists(fractions, min_size=6, max_size=6), better=fractions, index=st.integers(0, 5))
def test_better_quality_never_pays_less(scores: list[Decimal], better: Decimal, index: int) -> None:
    def pay(values: list[Decimal]) -> Decimal:
        found = {f"m{n}": MeasureScore(None, 100, value) for n, value in enumerate(values)}
        return settled(mips(), measures=six(), outcomes=found).paid

    other = [*scores]
    other[index] = better
    worse, best = (scores, other) if better > scores[index] else (other, scores)
    assert pay(worse) <= pay(best)
