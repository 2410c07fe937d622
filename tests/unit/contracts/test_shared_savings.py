"""Shared savings arithmetic against published results of the Medicare Shared Savings Program."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from contract_parts import inputs, measure, shared_savings

from fhir_gateway.contracts import Contract, Exposure, MeasureScore, SettlementInputs, settle
from fhir_gateway.contracts.arrangements.corridor import variable_msr
from fhir_gateway.errors import ContractError

SEQUESTRATION = Decimal("0.02")
QUALITY = [measure("quality", "1", scoring={"kind": "linear", "threshold": 0, "target": 100})]
QPS = {"mode": "gate", "gate": Decimal("0.7705"), "below_gate": "multiplicative"}

#: PY2024 results: target, cost, members, quality score, terms -> published earned savings or owed losses.
PUBLISHED: dict[str, tuple[int, int, int, str, dict[str, Any], int]] = {
    "A1001 ENHANCED, quality standard met": (
        1_650_927_172, 1_504_130_805, 78_000, "77.05",
        {"rate": "0.75", "corridor": {"kind": "fixed", "msr": "0.02"}, "cap": "0.20"}, 107_895_330,
    ),
    "A1247 BASIC B": (
        598_287_125, 568_226_096, 40_000, "80",
        {"rate": "0.40", "corridor": {"kind": "fixed", "msr": "0.0229"}, "cap": "0.10"}, 11_783_923,
    ),
    "A3770 ENHANCED, alternative standard": (
        132_925_215, 111_946_050, 9_000, "56.45", {"rate": "0.75", "cap": "0.20"}, 8_704_413,
    ),
    "A2366 BASIC E, alternative standard": (
        87_392_050, 76_584_733, 5_100, "76.63",
        {"rate": "0.50", "corridor": {"kind": "fixed", "msr": "0.0387"}, "cap": "0.10"}, 4_058_007,
    ),
    "A1490 within the corridor": (
        598_411_184, 586_255_918, 40_000, "80",
        {"rate": "0.40", "corridor": {"kind": "fixed", "msr": "0.0229"}, "cap": "0.10"}, 0,
    ),
    "A5411 low revenue relief": (
        159_881_358, 158_744_811, 12_000, "80",
        {"rate": "0.40", "cap": "0.10",
         "corridor": {"kind": "fixed", "msr": "0.0272", "relief_share": "0.5", "relief_members": 5000}}, 222_763,
    ),
    "A2246 BASIC E losses with disaster relief": (
        70_194_253, 71_783_905, 6_000, "80",
        {"rate": "0.50", "corridor": {"kind": "fixed", "msr": "0.01"},
         "losses": {"rate": "0.30", "limit": "0.04", "relief": Decimal(699) / Decimal("476895.6")}}, -476_196,
    ),
    "A5386 ENHANCED losses by quality": (
        86_731_783, 87_089_919, 8_000, "54.10",
        {"rate": "0.75", "losses": {"rate": "0.75", "quality_adjusted": True, "floor": "0.40", "limit": "0.15",
                                    "relief": Decimal(551) / Decimal("212822.318")}}, -212_271,
    ),
    "Balance ACO PY2016: sequestration comes before the cap": (
        119_762_995, 90_000_000, 10_000, "100", {"rate": "0.50", "cap": "0.10"}, 11_976_300,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_result(name: str, load: Callable[..., Contract]) -> None:
    target, cost, members, score, terms, published = PUBLISHED[name]
    savings = shared_savings(
        target={"kind": "total", "amount": target}, quality=QPS, sequestration=SEQUESTRATION, **terms
    )
    contract = load(measures=QUALITY, arrangements=[savings])
    outcomes = {"quality": MeasureScore(None, 1000, Decimal(score))}
    settlement = settle(contract, inputs(Decimal(cost), members, outcomes=outcomes))
    assert abs(settlement.total - published) <= 1
    assert settlement.total == sum(line.amount for line in settlement.payable() if line.amount is not None)


@pytest.mark.parametrize(
    ("beneficiaries", "percent"),
    [(499, "12.2"), (500, "12.2"), (5_000, "3.90"), (5_194, "3.84"), (30_324, "2.40"), (40_219, "2.30"), (70_000, "2")],
)
def test_variable_minimum_savings_rate(beneficiaries: int, percent: str) -> None:
    assert variable_msr(beneficiaries) == Decimal(percent) / 100


def test_rate_exactly_at_the_msr_shares(load: Callable[..., Contract]) -> None:
    savings = shared_savings(corridor={"kind": "fixed", "msr": Decimal("0.02")})
    contract = load(arrangements=[savings])
    assert settle(contract, inputs("980000")).total == 10_000
    assert settle(contract, inputs("980000.01")).total == 0


def test_sharing_beyond_the_corridor_only(load: Callable[..., Contract]) -> None:
    corridor = {"kind": "fixed", "msr": Decimal("0.02"), "first_dollar": False}
    contract = load(arrangements=[shared_savings(corridor=corridor, losses={"rate": Decimal("0.5")})])
    assert settle(contract, inputs("900000")).total == 40_000
    assert settle(contract, inputs("1100000")).total == -40_000


def test_prior_year_target_from_the_same_members(load: Callable[..., Contract]) -> None:
    savings = shared_savings(target={"kind": "prior_year", "trend": Decimal("0.05")})
    contract = load(arrangements=[savings], rounding="cent")
    now = Exposure(10, Decimal(120), Decimal(11_000), Decimal(11_000), Decimal(11_000), 0)
    before = Exposure(10, Decimal(100), Decimal(10_000), Decimal(10_000), Decimal(10_000), 0)
    settlement = settle(contract, SettlementInputs(now, {}, before))
    assert settlement.line("ss.target").value == Decimal(12_600)  # 100 x 1.05 x 120
    assert settlement.total == Decimal(800)
    with pytest.raises(ContractError, match="year before"):
        settle(contract, SettlementInputs(now, {}))


def test_every_dollar_is_explained(load: Callable[..., Contract]) -> None:
    contract = load(measures=QUALITY, arrangements=[shared_savings(quality=QPS, cap=Decimal("0.1"))])
    outcomes = {"quality": MeasureScore(80, 100, Decimal(80))}
    settlement = settle(contract, inputs("900000", outcomes=outcomes))
    ids = [line.id for line in settlement.lines]
    assert len(ids) == len(set(ids))
    for position, line in enumerate(settlement.lines):
        assert set(line.because) <= set(ids[:position])
        assert line.formula
        assert line.term
    text = settlement.explain("ss.payable")
    assert "Claims cost: 900000" in text
    assert "quality: score: 80" in text
    assert settlement.from_dict(settlement.to_dict()) == settlement


def test_too_few_members_share_nothing(load: Callable[..., Contract]) -> None:
    contract = load(arrangements=[shared_savings(min_members=5000)])
    assert settle(contract, inputs("900000", members=4999)).total == 0
    assert settle(contract, inputs("900000", members=5000)).total == 50_000
