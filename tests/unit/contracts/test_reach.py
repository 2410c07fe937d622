"""ACO REACH and LEAD: corridors, discount, withholds, stop-loss, equity."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Context, Decimal, localcontext
from typing import Any

import pyarrow as pa
import pytest
from benchmark_parts import facts, lines
from contract_parts import exposure, measure
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.contracts import Contract, MeasureScore, SettlementInputs
from fhir_gateway.contracts.arrangements.reach import AcoReach
from fhir_gateway.contracts.arrangements.reach_rules import reach_year
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.terms import MeasureTerms
from fhir_gateway.errors import ContractError

D = Decimal
QUALITY = (MeasureTerms.model_validate(measure("quality", "1")),)


def reach(**terms: Any) -> dict[str, Any]:
    return {
        "kind": "aco_reach", "id": "aco", "pool": "reach", "performance_year": 2023, "risk": "global",
        "benchmark": {"amount": 1_000_000, "final": True},
    } | terms  # fmt: skip


def settled(cost: str | Decimal, *, quality: str = "1", given_facts: Any = None, **terms: Any) -> dict[str, Decimal]:
    """Values by line, and the published amount."""
    arrangement = AcoReach.model_validate(reach(**terms))
    assert not arrangement.problems()
    ledger = Ledger("aco", "USD", "cent", None)
    inputs = SettlementInputs(exposure(cost, 100), {"quality": MeasureScore(None, 1, D(quality))}, facts=given_facts)
    with localcontext(Context(prec=60)):
        arrangement.settle(inputs, QUALITY, ledger)
    amount = ledger.lines[-1].amount
    assert amount is not None
    found = {line.id.removeprefix("aco."): line.value for line in ledger.lines if line.value is not None}
    return found | {"amount": amount}


def test_worked_result_of_the_reference() -> None:
    """D0006, 2021: Professional, 11.28 % lost: 5 % x .5 + 5 % x .35 + 1.2833 % x .15."""
    benchmark = {"amount": D("26652184.8599"), "final": True}
    found = settled("29659424.4299", performance_year=2021, risk="professional", benchmark=benchmark)
    assert round(found["gross"]) == -3_007_240
    assert round(found["shared"]) == -1_184_021
    assert found["amount"] == D("-1184021.02")  # no sequestration of losses


@pytest.mark.parametrize(
    ("year", "risk", "cost", "shared"),
    [
        (2023, "global", "700000", 250_000 + 25_000),
        (2023, "global", "400000", 250_000 + 50_000 + 37_500 + 10_000),
        (2026, "global", "700000", 100_000 + 100_000),
        (2023, "professional", "800000", 25_000 + 17_500 + 7_500 + 2_500),
        (2023, "professional", "1200000", -(25_000 + 17_500 + 7_500 + 2_500)),
        (2027, "global", "700000", 150_000 + 75_000),
        (2027, "professional", "750000", 60_000 + 17_500 + 7_500 + 2_500),
        (2027, "professional", "1250000", -(50_000 + 17_500 + 7_500 + 2_500)),
    ],
)
def test_corridors_by_year_and_option(year: int, risk: str, cost: str, shared: int) -> None:
    found = settled(cost, performance_year=year, risk=risk)
    assert found["shared"] == shared
    assert found["amount"] == (shared * D("0.98") if shared > 0 else shared)


@given(by=st.decimals(0, 900_000, places=2), risk=st.sampled_from(["global", "professional"]))
def test_corridors_are_symmetric(by: Decimal, risk: str) -> None:
    assert settled(1_000_000 - by, risk=risk)["shared"] == -settled(1_000_000 + by, risk=risk)["shared"]


@given(
    cost=st.decimals(0, 2_500_000, places=2),
    more=st.decimals(0, 100_000, places=2),
    year=st.sampled_from([2021, 2026, 2027]),
)
def test_more_cost_never_pays_more_nor_beyond_the_gross(cost: Decimal, more: Decimal, year: int) -> None:
    first, second = (settled(value, performance_year=year, risk="professional") for value in (cost, cost + more))
    assert second["amount"] <= first["amount"]
    assert abs(first["shared"]) <= abs(first["gross"])


@pytest.mark.parametrize(
    ("year", "discount"),
    [(2021, "0.02"), (2022, "0.02"), (2023, "0.03"), (2024, "0.03"), (2025, "0.035"), (2026, "0.035")],
)
def test_discount_of_the_global_option(year: int, discount: str) -> None:
    found = settled("0", performance_year=year, benchmark={"amount": 1_000_000})
    assert found["discounted"] == 1_000_000 * (1 - D(discount))
    professional = settled("0", performance_year=year, risk="professional", benchmark={"amount": 1_000_000})
    assert "discounted" not in professional


def test_lead_discounts_high_spenders_less() -> None:
    found = settled("0", performance_year=2027, benchmark={"amount": 1_000_000}, high_spending=True)
    assert found["discounted"] == 982_500


def test_quality_earns_its_withhold_back() -> None:
    found = settled("0", quality="0.5", performance_year=2026, benchmark={"amount": 1_000, "per": "member_month"})
    assert found["benchmark"] == 1_200_000
    assert found["after-quality"] == 1_200_000 * D("0.965") * D("0.975")


def test_benchmark_blended_with_the_region_and_adjusted_by_risk() -> None:
    regional = {"amount": 1_100, "national": 1_000}
    benchmark = {"amount": 1_000, "per": "member_month", "regional": regional, "risk": {"base": 1, "year": D("1.10")}}
    found = settled("0", performance_year=2023, quality_withhold=0, discount=0, benchmark=benchmark)
    assert found["rate-blended"] == 1_040  # 40 % of the difference
    assert found["final"] == 1_040 * D("1.03") * 1_200
    far = benchmark | {"regional": {"amount": 500, "national": 1_000}, "risk": {"base": 1, "year": D("0.8")}}
    found = settled("0", performance_year=2023, quality_withhold=0, discount=0, benchmark=far)
    assert (found["rate-blended"], found["rate-risk"]) == (980, D("0.97"))


def test_retention_withhold_is_lost_by_those_who_leave() -> None:
    terms = {"retention_withhold": D("0.02")}
    assert settled("0", **terms)["final"] == 1_000_000
    assert settled("0", **terms, retention_returned=False)["final"] == 980_000


def test_stop_loss_as_notified_and_by_bands() -> None:
    assert settled("900000", stop_loss={"notified": -5_000})["net-cost"] == 895_000
    claims = lines(("a", date(2024, 3, 1), 400_000), ("b", date(2024, 3, 1), 150_000))
    bands = [{"at": 100_000, "share": D("0.8")}, {"at": 250_000, "share": D("0.9")}]
    stop_loss = {"bands": bands, "charge": 10}
    found = settled("900000", stop_loss=stop_loss, given_facts=facts(claims, {"a": 12, "b": 12}))
    assert found["stop-loss-1"] == -D("0.8") * (150_000 + 50_000)
    assert found["stop-loss-2"] == -D("0.9") * 150_000
    assert found["net-cost"] == 900_000 - 160_000 - 135_000 + 12_000


def test_equity_adjustment_as_notified_and_by_member_months() -> None:
    assert settled("900000", equity={"up": 3_000, "down": -1_000})["final"] == 1_002_000
    tenths = pa.table({"member": ["a", "b", "c"], "tenth": pa.array([1, 6, 3], pa.int32())})
    known = facts(
        lines(("a", date(2024, 1, 1), 1)), {"a": 12, "b": 6, "c": 12, "d": 12}, tables={"equity_tenths": tenths}
    )
    found = settled("900000", equity={"by_tenth": True}, given_facts=known)
    assert (found["equity-up"], found["equity-down"]) == (360, -36)
    later = settled("900000", performance_year=2024, equity={"by_tenth": True}, given_facts=known)
    assert (later["equity-up"], later["equity-down"]) == (360 + 120, 0)


def test_corridors_of_ones_own() -> None:
    bands = [{"at": 0, "share": D("0.4")}, {"at": D("0.1"), "share": 0}]
    assert settled("800000", bands=bands)["shared"] == 40_000


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"performance_year": 2030, "high_spending": True, "risk": "professional"}, "makes no difference in 2030"),
        ({"risk": "professional", "discount": D("0.02")}, "only the global option"),
        ({"discount": D("0.02")}, "discount and quality are in it already"),
        ({"stop_loss": {}}, "needs one of bands and notified"),
        ({"equity": {"by_tenth": True, "up": 1}}, "is notified and computed"),
        ({"equity": {"by_tenth": True}, "performance_year": 2021}, "ten are needed, the year has 0"),
    ],
)
def test_contradictions_are_named(terms: dict[str, Any], message: str) -> None:
    assert message in "; ".join(AcoReach.model_validate(reach(**terms)).problems())


def test_a_contract_needs_its_tables(load: Callable[..., Contract]) -> None:
    with pytest.raises(ContractError, match="equity_tenths"):
        load(arrangements=[reach(equity={"by_tenth": True})])


def test_rules_by_year_have_trust_marks() -> None:
    assert [reach_year(year).trust for year in (2021, 2023, 2024, 2026, 2027)] == ["V", "V", "M", "DOC", "DOC"]
