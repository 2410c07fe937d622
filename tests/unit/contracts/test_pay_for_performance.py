"""Points, weights and pools of pay for performance."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from contract_parts import inputs, measure

from fhir_gateway.contracts import Contract, MeasureScore, settle
from fhir_gateway.contracts.scoring import achievement_points, improvement_points, points
from fhir_gateway.contracts.terms import Scoring
from fhir_gateway.errors import ContractError

D = Decimal


def p4p(**changes: Any) -> dict[str, Any]:
    base = {"kind": "pay_for_performance", "id": "p4p", "pool": "q", "budget": {"kind": "fixed", "amount": 10_000}}
    return base | changes


@pytest.mark.parametrize(
    ("performance", "baseline", "threshold", "benchmark", "achievement", "improvement"),
    [
        # hospital value-based purchasing FY2024: mortality (higher survival is better), complications and infections
        ("0.880237", "0.856752", "0.869247", "0.887868", 6, 7),
        ("0.901917", "0.872117", "0.882308", "0.907733", 7, 8),
        ("0.815392", "0.833710", "0.840281", "0.872976", 0, 0),
        ("0.022314", "0.030343", "0.025396", "0.018159", 4, 6),
        ("0.437", "0.324", "0.650", "0.000", 3, 0),
        ("1.124", "1.405", "0.726", "0", 0, 2),  # exactly 1.5: binary floating point says 1
    ],
)
def test_hospital_vbp_points(
    performance: str, baseline: str, threshold: str, benchmark: str, achievement: int, improvement: int
) -> None:
    assert achievement_points(D(performance), D(threshold), D(benchmark)) == achievement
    assert improvement_points(D(performance), D(baseline), D(threshold), D(benchmark)) == improvement


@pytest.mark.parametrize(
    ("score", "expected"), [("59.99", "0"), ("60", "0"), ("79.99", "0.5"), ("80", "0.75"), ("95", "1")]
)
def test_ladder_is_closed_on_the_left(score: str, expected: str) -> None:
    steps = [{"at": at, "points": D(p)} for at, p in ((60, "0"), (70, "0.5"), (80, "0.75"), (90, "1"))]
    assert points(D(score), "increase", Scoring.model_validate({"kind": "ladder", "steps": steps})) == D(expected)


def test_linear_of_an_inverse_measure() -> None:
    scoring = Scoring(kind="linear", threshold=D("0.5"), target=D("0.2"))
    assert [points(D(s), "decrease", scoring) for s in ("0.6", "0.5", "0.35", "0.2", "0.1")] == [0, 0, D("0.5"), 1, 1]


def test_pool_by_weighted_points(load: Callable[..., Contract]) -> None:
    contract = load(measures=[measure("a", "0.25"), measure("b", "0.75")], arrangements=[p4p()])
    outcomes = {"a": MeasureScore(50, 100, D("0.5")), "b": MeasureScore(80, 100, D("0.8"))}
    settlement = settle(contract, inputs("0", outcomes=outcomes))
    assert settlement.total == 7_250  # 10,000 x (0.25 x 0.5 + 0.75 x 0.8)
    assert settlement.line("p4p.a.earned").value == 1_250
    assert settlement.line("p4p.b.earned").value == 6_000


@pytest.mark.parametrize(("missing", "total"), [("reweight", 8_000), ("zero", 6_000)])
def test_a_small_measure_gives_its_weight_away_or_loses_it(
    missing: str, total: int, load: Callable[..., Contract]
) -> None:
    measures = [measure("a", "0.25", min_denominator=30), measure("b", "0.75")]
    contract = load(measures=measures, arrangements=[p4p(missing=missing)])
    outcomes = {"a": MeasureScore(29, 29, D(1)), "b": MeasureScore(80, 100, D("0.8"))}
    settlement = settle(contract, inputs("0", outcomes=outcomes))
    assert settlement.total == total
    assert "denominator below 30" in settlement.line("p4p.a.points").formula


def test_no_measure_takes_part(load: Callable[..., Contract]) -> None:
    contract = load(measures=[measure("a", "1", min_denominator=30)], arrangements=[p4p(floor=500)])
    settlement = settle(contract, inputs("0", outcomes={"a": MeasureScore(0, 0, None)}))
    assert settlement.total == 0
    assert settlement.line("p4p.composite").value is None


def test_gate_floor_and_cap(load: Callable[..., Contract]) -> None:
    terms = p4p(gate=D("0.5"), floor=6_000, cap=9_000)
    contract = load(measures=[measure("a", "1")], arrangements=[terms])

    def total(score: str) -> Decimal:
        return settle(contract, inputs("0", outcomes={"a": MeasureScore(None, 100, D(score))})).total

    assert [total(score) for score in ("0.49", "0.5", "0.7", "0.95")] == [0, 6_000, 7_000, 9_000]


@pytest.mark.parametrize(("kind", "total"), [("per_member", 30_000), ("per_member_month", 360_000)])
def test_pool_per_member_or_month(kind: str, total: int, load: Callable[..., Contract]) -> None:
    contract = load(measures=[measure("a", "1")], arrangements=[p4p(budget={"kind": kind, "amount": 3})])
    assert settle(contract, inputs("0", outcomes={"a": MeasureScore(None, 100, D(1))})).total == total


def test_a_measure_without_result_is_an_error(load: Callable[..., Contract]) -> None:
    contract = load(measures=[measure("a", "1")], arrangements=[p4p()])
    with pytest.raises(ContractError, match=r"measures\.a: there is no result for https://example\.org/Measure/a"):
        settle(contract, inputs("0"))
