"""Levels of the Shared Savings Program: shipped rules, quality standards, relief, guardrail, published results."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from contract_parts import inputs, measure
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.contracts import Contract, MeasureScore, settle
from fhir_gateway.contracts.arrangements.corridor import exact_msr, variable_msr
from fhir_gateway.contracts.arrangements.mssp_rules import mssp_rules, mssp_year
from fhir_gateway.errors import ContractError

D = Decimal
Load = Callable[..., Contract]
QUALITY = [measure("quality", "1", scoring={"kind": "linear", "threshold": 0, "target": 100})]


def program(target: int = 100_000_000, **terms: Any) -> dict[str, Any]:
    return {
        "kind": "mssp", "id": "aco", "pool": "mssp", "performance_year": 2024, "level": "E",
        "target": {"kind": "total", "amount": target},
    } | terms  # fmt: skip


def total(
    load: Load, cost: int, score: str = "80", members: int = 10_000, target: int = 100_000_000, **terms: Any
) -> Decimal:
    contract = load(measures=QUALITY, arrangements=[program(target, **terms)])
    return settle(contract, inputs(D(cost), members, outcomes={"quality": MeasureScore(None, 1, D(score))})).total


#: The reference's worked results: level, benchmark, expenditures, members, score, terms, published.
WORKED: dict[str, tuple[str, int, int, int, str, dict[str, Any], int]] = {
    "A1001": ("EN", 1_650_927_172, 1_504_130_805, 78_000, "77.05", {"election": D("0.02")}, 107_895_330),
    "A1247": ("B", 598_287_125, 568_226_096, 40_219, "80", {}, 11_783_923),
    "A3770": ("EN", 132_925_215, 111_946_050, 9_000, "56.45", {"election": 0, "alternative_met": True}, 8_704_413),
    "A2366": ("E", 87_392_050, 76_584_733, 5_093, "76.63", {"alternative_met": True}, 4_058_007),
    "A1490": ("B", 598_411_184, 586_255_918, 40_219, "80", {}, 0),
    "A5411": (
        "A", 159_881_358, 158_744_811, 14_670, "80",
        {"low_revenue": True, "agreement_start": date(2024, 1, 1)}, 222_763,
    ),
    "A5309": ("E", 116_616_215, 116_606_559, 9_000, "80", {"election": 0, "guardrail": {"applied": True}}, 0),
    "A2246": ("E", 70_194_253, 71_783_905, 6_000, "80", {"election": D("0.01"), "relief_amount": 699}, -476_196),
    "A5386": (
        "EN", 86_731_783, 87_089_919, 8_000, "54.10",
        {"election": 0, "alternative_met": True, "relief_amount": 551}, -212_271,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WORKED)
def test_worked_results_of_the_reference(name: str, load: Load) -> None:
    level, target, cost, members, score, terms, published = WORKED[name]
    found = total(load, cost, score, members, target, level=level, **terms)
    assert abs(found - published) <= 1


def test_payment_limit_comes_after_sequestration(load: Load) -> None:
    """Balance ACO, 2016: paid 10.000 % of its benchmark."""
    terms = {"performance_year": 2016, "level": "Track 1", "msr": D("0.02")}
    assert total(load, 90_000_000, "100", target=119_762_995, **terms) == 11_976_300


@pytest.mark.parametrize(
    ("beneficiaries", "percent"),
    [
        (99, "27.4"), (100, "27.4"), (152, "25.42"), (499, "12.2"), (500, "12.2"), (999, "8.7"), (1_000, "8.7"),
        (2_999, "5.0"), (3_000, "5.0"), (4_999, "3.9"), (5_000, "3.9"), (5_999, "3.6"), (6_000, "3.6"), (7_000, "3.4"),
        (8_000, "3.2"), (9_000, "3.1"), (10_000, "3.0"), (15_000, "2.7"), (20_000, "2.5"), (50_000, "2.2"),
        (59_999, "2.0"), (60_000, "2.0"), (5_194, "3.84"), (30_324, "2.40"), (40_219, "2.30"),
    ],
)  # fmt: skip
def test_minimum_savings_rate_by_size(beneficiaries: int, percent: str) -> None:
    assert variable_msr(beneficiaries) == D(percent) / 100


@given(st.integers(1, 100_000))
def test_a_larger_population_never_needs_a_higher_rate(members: int) -> None:
    assert exact_msr(members) >= exact_msr(members + 1)


@pytest.mark.parametrize(
    ("level", "saved", "lost"),
    [
        ("A", 3_920_000, 0), ("B", 3_920_000, 0), ("C", 4_900_000, -1_000_000), ("D", 4_900_000, -2_000_000),
        ("E", 4_900_000, -3_000_000), ("EN", 7_350_000, -4_000_000),
    ],
)  # fmt: skip
def test_levels_share_savings_and_losses(load: Load, level: str, saved: int, lost: int) -> None:
    """10 % of savings and of losses at full quality; C and D owe no more than 1 and 2 % of the benchmark."""
    terms = {"level": level, "standard": "met"} | ({"election": 0} if level not in "AB" else {})
    assert total(load, 90_000_000, "100", **terms) == saved
    assert total(load, 110_000_000, "100", **terms) == lost


@pytest.mark.parametrize(
    ("level", "year", "saved", "lost"),
    [
        ("1", 2016, 4_410_000, 0), ("1+", 2018, 4_410_000, -3_000_000), ("2", 2016, 5_292_000, -4_600_000),
        ("3", 2016, 6_615_000, -4_000_000),
    ],
)  # fmt: skip
def test_legacy_tracks_share_by_score(load: Load, level: str, year: int, saved: int, lost: int) -> None:
    terms = {"level": level, "performance_year": year, "msr": 0}
    assert total(load, 90_000_000, "90", **terms) == saved
    assert total(load, 110_000_000, "90", **terms) == lost


def test_revenue_limits_basic_losses_unless_it_is_higher(load: Load) -> None:
    terms = {"election": 0, "standard": "met"}
    assert total(load, 120_000_000, revenue=20_000_000, **terms) == -1_600_000
    assert total(load, 120_000_000, revenue=90_000_000, **terms) == -4_000_000


@pytest.mark.parametrize(("year", "limit"), [(1, -5_000_000), (2, -7_500_000), (3, -10_000_000), (4, -10_000_000)])
def test_track_2_limits_grow_with_the_agreement(load: Load, year: int, limit: int) -> None:
    terms = {"level": "2", "performance_year": 2014, "year_of_agreement": year, "msr": D("0.02")}
    assert total(load, 200_000_000, **terms) == limit


@pytest.mark.parametrize(
    ("score", "terms", "share"),
    [
        ("77.05", {}, "0.5"),  # exactly at the standard
        ("77.04", {}, "0"),
        ("77.04", {"alternative_met": True}, "0.3852"),
        ("50", {"incentive_met": True}, "0.5"),
        ("50", {"first_year_reported": True}, "0.5"),
        ("50", {"disaster_affected": True}, "0.5"),
        ("50", {"standard": "alternative"}, "0.25"),
        ("99", {"standard": "failed"}, "0"),
        ("50", {"percentile": D("0.5")}, "0.5"),
    ],
)
def test_quality_standard_of_2024(load: Load, score: str, terms: dict[str, Any], share: str) -> None:
    assert total(load, 90_000_000, score, election=0, **terms) == round(D(share) * 9_800_000)


def test_failing_the_standard_bears_the_highest_loss_rate(load: Load) -> None:
    terms = {"level": "EN", "election": 0, "standard": "failed"}
    assert total(load, 110_000_000, "90", **terms) == -7_500_000


def test_before_2023_there_was_no_alternative(load: Load) -> None:
    terms = {"performance_year": 2022, "election": 0, "percentile": D("0.70"), "alternative_met": True}
    assert total(load, 90_000_000, "69", **terms) == 0
    with pytest.raises(ContractError, match="no alternative standard in 2022"):
        total(load, 1, performance_year=2022, standard="alternative")


def test_results_of_2019_and_2020_were_paid_without_sequestration(load: Load) -> None:
    """Palm Beach, 2020: 72,427,998 at 75 % is 54,320,998."""
    terms = {"performance_year": 2020, "level": "EN", "msr": D("0.02")}
    assert abs(total(load, 884_436_947, "100", 80_864, 956_864_945, **terms) - 54_320_998) <= 1
    assert mssp_year(2020).trust == "M"


@pytest.mark.parametrize(
    ("members", "start", "paid"),
    [(5_000, date(2024, 1, 1), 98_000), (4_999, date(2024, 1, 1), 0), (5_000, date(2022, 1, 1), 0)],
)
def test_low_revenue_relief(load: Load, members: int, start: date, paid: int) -> None:
    terms = {"level": "A", "low_revenue": True, "agreement_start": start, "standard": "met"}
    assert total(load, 99_500_000, members=members, **terms) == paid


def test_the_public_health_emergency_forgives_losses(load: Load) -> None:
    terms = {"election": 0, "standard": "met"}
    assert total(load, 110_000_000, performance_year=2022, **terms) == 0
    assert total(load, 110_000_000, performance_year=2023, **terms) == -1_750_000  # five of twelve months
    local = {"disaster": {"months": 12, "share": D("0.5")}}
    assert total(load, 110_000_000, performance_year=2023, **terms, **local) == -1_500_000
    assert total(load, 110_000_000, performance_year=2024, **terms) == -3_000_000


def test_advance_investment_payments_are_recouped(load: Load) -> None:
    terms = {"level": "A", "low_revenue": True, "agreement_start": date(2024, 1, 1), "standard": "met"}
    assert total(load, 99_500_000, advances=2_000_000, **terms) == 0


def test_contradictions_are_named(load: Load) -> None:
    with pytest.raises(ContractError) as refused:
        total(load, 1, level="A", election=D("0.03"), revenue=1, performance_year=2025)
    message = refused.value.message
    assert "election: level A is one-sided" in message
    assert "election: can be 0%, 0.5%, 1%, 1.5%, 2%" in message
    assert "percentile: is not shipped for 2025" in message
    assert "revenue: there are no losses to share" in message
    with pytest.raises(ContractError, match="'Track 9' is no level"):
        total(load, 1, level="Track 9")


def test_every_rule_has_a_trust_mark() -> None:
    rules = mssp_rules()
    assert {level.trust for level in rules.levels} <= {"V", "CFR", "DOC", "M"}
    assert [rules.level(name).level for name in ("BASIC Level E", "basic e", "ENHANCED", "Track 1+", "track1plus")] == [
        "E", "E", "EN", "1+", "1+",
    ]  # fmt: skip


@given(
    cost=st.integers(50_000_000, 150_000_000),
    more=st.integers(0, 10**6),
    score=st.integers(0, 100),
    level=st.sampled_from("ABCDE"),
)
def test_more_cost_never_pays_more(load: Load, cost: int, more: int, score: int, level: str) -> None:
    terms = {"level": level, "alternative_met": True}
    assert total(load, cost + more, str(score), **terms) <= total(load, cost, str(score), **terms)


@given(
    cost=st.integers(50_000_000, 150_000_000), score=st.integers(0, 99), level=st.sampled_from(["A", "C", "E", "EN"])
)
def test_better_quality_never_pays_less(load: Load, cost: int, score: int, level: str) -> None:
    terms = {"level": level, "alternative_met": True}
    assert total(load, cost, str(score), **terms) <= total(load, cost, str(score + 1), **terms)
