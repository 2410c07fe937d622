"""Commercial parts of shared savings: targets, tiers, deficits, caps by fees, own cost rules."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from benchmark_parts import facts, lines
from contract_parts import exposure, inputs, measure, shared_savings
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.contracts import Contract, MeasureScore, Settlement, SettlementInputs, settle
from fhir_gateway.contracts.arrangements.shared_savings import SharedSavings
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.errors import ContractError

D = Decimal
Load = Callable[..., Contract]


def settled(load: Load, cost: str | Decimal, members: int = 10_000, **terms: Any) -> Settlement:
    return settle(load(arrangements=[shared_savings(**terms)], rounding="cent"), inputs(cost, members))


def value(settlement: Settlement, line: str) -> Decimal:
    found = settlement.line(f"ss.{line}").value
    assert found is not None
    return found


class TestTarget:
    def target(self, load: Load, **target: Any) -> Settlement:
        return settled(load, "0", members=100, target=target)

    def test_prior_year_grows_as_the_book_of_business(self, load: Load) -> None:
        found = self.target(load, kind="prior_year", amount=500, book={"prior": 400, "current": 420})
        assert value(found, "target") == 500 * D("1.05") * 1200

    def test_budget_is_the_sum_of_its_lines(self, load: Load) -> None:
        budget = [{"category": "inpatient", "amount": 200}, {"category": "pharmacy", "amount": D("50.50")}]
        assert value(self.target(load, kind="budget", lines=budget), "target-pmpm") == D("250.50")

    @pytest.mark.parametrize(("year", "factor"), [("1.02", "1.02"), ("1.10", "1.03"), ("0.90", "0.97")])
    def test_risk_normaliser_within_its_bounds(self, load: Load, year: str, factor: str) -> None:
        risk = {"base": 1, "year": D(year), "cap": D("0.03"), "floor": D("0.03")}
        assert value(self.target(load, kind="pmpm", amount=100, risk=risk), "target-pmpm-risk") == 100 * D(factor)

    def test_blend_with_the_region_by_credibility(self, load: Load) -> None:
        blend = {"amount": 80, "full_credibility": 4800}
        found = self.target(load, kind="pmpm", amount=100, blend=blend)
        assert value(found, "credibility") == D("0.5")  # root of 1,200 / 4,800
        assert value(found, "target-pmpm-blended") == 90

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ({"kind": "budget"}, "target.lines"),
            ({"kind": "pmpm", "amount": 1, "book": {"prior": 1, "current": 1}}, "target.book"),
            ({"kind": "total", "amount": 1, "risk": {"base": 1, "year": 1}}, "a total is not adjusted"),
            ({"kind": "pmpm", "amount": 1, "blend": {"amount": 1}}, "target.blend"),
        ],
    )
    def test_contradictions(self, load: Load, target: dict[str, Any], message: str) -> None:
        with pytest.raises(ContractError, match=message):
            self.target(load, **target)


class TestTiers:
    TIERS = ({"at": 0, "share": D("0.3")}, {"at": D("0.05"), "share": D("0.5")})

    def test_each_slice_has_its_share(self, load: Load) -> None:
        assert settled(load, "900000", rate=None, tiers=self.TIERS).total == 50_000 * D("0.3") + 50_000 * D("0.5")

    def test_or_the_whole_has_that_of_the_tier_reached(self, load: Load) -> None:
        terms = {"rate": None, "tiers": self.TIERS, "tier_basis": "whole"}
        assert settled(load, "900000", **terms).total == 50_000
        assert settled(load, "950000.01", **terms).total == D("14999.997").quantize(D("0.01"))

    def test_what_a_corridor_takes_away_are_the_first_dollars(self, load: Load) -> None:
        corridor = {"kind": "fixed", "msr": D("0.02"), "first_dollar": False}
        assert settled(load, "900000", rate=None, tiers=self.TIERS, corridor=corridor).total == 9_000 + 25_000

    def test_losses_have_tiers_of_their_own(self, load: Load) -> None:
        losses = {"tiers": [{"at": 0, "share": D("0.2")}, {"at": D("0.1"), "share": D("0.4")}]}
        assert settled(load, "1150000", losses=losses).total == -(20_000 + 20_000)

    def test_less_for_more_is_refused(self, load: Load) -> None:
        falling = ({"at": 0, "share": D("0.5")}, {"at": D("0.05"), "share": D("0.3")})
        with pytest.raises(ContractError, match="would pay less for more savings"):
            settled(load, "1", rate=None, tiers=falling, tier_basis="whole")
        with pytest.raises(ContractError, match="needs one of rate and tiers"):
            settled(load, "1", tiers=falling)

    @given(cost=st.decimals(500_000, 1_500_000, places=2), more=st.decimals(0, 10_000, places=2))
    def test_more_cost_never_pays_more(self, load: Load, cost: Decimal, more: Decimal) -> None:
        terms = {"rate": None, "tiers": self.TIERS, "losses": {"tiers": self.TIERS}}
        assert settled(load, cost + more, **terms).total <= settled(load, cost, **terms).total

    @given(by=st.decimals(0, 500_000, places=2))
    def test_equal_tiers_on_both_sides_are_symmetric(self, load: Load, by: Decimal) -> None:
        terms = {"rate": None, "tiers": self.TIERS, "losses": {"tiers": self.TIERS}}
        assert settled(load, 1_000_000 - by, **terms).total == -settled(load, 1_000_000 + by, **terms).total


class TestDeficits:
    CARRY: ClassVar = {
        "year": 2024,
        "expires_after": 3,
        "deficits": [{"year": 2023, "amount": 30_000}, {"year": 2022, "amount": 80_000}],
    }

    def test_savings_make_up_the_oldest_first(self, load: Load) -> None:
        found = settled(load, "900000", carry_forward=self.CARRY)
        assert value(found, "after-deficit-2022") == 20_000
        assert value(found, "after-deficit-2023") == 0
        assert value(found, "deficit-left") == 10_000
        assert found.total == 0

    def test_what_is_left_is_shared(self, load: Load) -> None:
        assert settled(load, "800000", carry_forward=self.CARRY).total == 45_000

    def test_old_deficits_are_forgotten(self, load: Load) -> None:
        found = settled(load, "900000", carry_forward=self.CARRY | {"year": 2026})
        assert value(found, "deficit-2022") == 0
        assert found.total == 35_000

    def test_losses_add_to_them(self, load: Load) -> None:
        found = settled(load, "1050000", carry_forward=self.CARRY)
        assert (found.total, value(found, "deficit-left")) == (0, 160_000)

    def test_who_shares_losses_carries_none(self, load: Load) -> None:
        with pytest.raises(ContractError, match="nothing is carried forward"):
            settled(load, "1", carry_forward=self.CARRY, losses={"rate": D("0.5")})


class TestPayment:
    def test_the_least_of_the_caps(self, load: Load) -> None:
        terms = {"cap": D("0.10"), "cap_of_fees": D("0.20"), "fees": 200_000}
        assert settled(load, "500000", **terms).total == 40_000
        assert settled(load, "500000", **terms, cap_amount=30_000).total == 30_000

    def test_the_least_of_the_loss_limits(self, load: Load) -> None:
        losses = {"rate": D("0.5"), "limit": D("0.04"), "limit_of_fees": D("0.08")}
        assert settled(load, "1500000", losses=losses, fees=300_000).total == -24_000
        assert settled(load, "1500000", losses=losses, fees=900_000).total == -40_000

    def test_relief_after_disasters(self, load: Load) -> None:
        losses = {"rate": D("0.5"), "disaster": {"months": 6, "share": D("0.4")}}
        assert settled(load, "1100000", losses=losses).total == -50_000 * D("0.8")
        assert settled(load, "1100000", losses={"rate": D("0.5"), "relief_amount": 60_000}).total == 0
        with pytest.raises(ContractError, match="forgiven twice"):
            settled(load, "1", losses=losses | {"relief": D("0.1")})

    def test_months_of_participation_prorate(self, load: Load) -> None:
        terms = {"participation_months": 9, "losses": {"rate": D("0.5")}}
        assert settled(load, "1100000", **terms).total == -37_500
        assert settled(load, "900000", **terms).total == 37_500

    def test_advances_are_kept_back_never_beyond_savings(self, load: Load) -> None:
        found = settled(load, "900000", advances=20_000)
        assert (found.total, value(found, "advances-left")) == (30_000, 0)
        found = settled(load, "900000", advances=70_000)
        assert (found.total, value(found, "advances-left")) == (0, 20_000)

    def test_agreed_amounts_count_in_proportion_at_an_interim_settlement(self, load: Load) -> None:
        terms = {"cap_amount": 30_000, "losses": {"rate": D("0.5"), "limit_amount": 60_000}}
        contract = load(arrangements=[shared_savings(**terms)])
        quarter = {"members": 10_000, "part": D("0.25")}
        assert settle(contract, inputs("240000", **quarter)).total == 5_000
        assert settle(contract, inputs("100000", **quarter)).total == 7_500
        assert settle(contract, inputs("900000", **quarter)).total == -15_000

    def test_corridor_by_size(self, load: Load) -> None:
        sizes = [{"members": 1000, "msr": D("0.05")}, {"members": 5000, "msr": D("0.02")}]
        terms = {"corridor": {"kind": "by_size", "sizes": sizes}}
        assert settled(load, "970000", members=5000, **terms).total == 15_000
        assert settled(load, "970000", members=4999, **terms).total == 0
        assert settled(load, "950000", members=1000, **terms).total == 25_000
        assert settled(load, "500000", members=999, **terms).total == 0

    def test_guardrail_spares_losses_and_gives_no_savings(self, load: Load) -> None:
        terms = {"losses": {"rate": D("0.5")}, "guardrail": {"target": 1_050_000}}
        assert settled(load, "1020000", **terms).total == 0
        assert settled(load, "1090000", **terms).total == -20_000
        assert settled(load, "900000", **terms).total == 50_000

    @given(
        cost=st.decimals(0, 3_000_000, places=2),
        limit=st.decimals("0.01", 1, places=2),
        cap=st.decimals("0.01", 1, places=2),
        fees=st.integers(1, 10**6),
    )
    def test_limits_hold(self, load: Load, cost: Decimal, limit: Decimal, cap: Decimal, fees: int) -> None:
        terms = {
            "rate": 1, "cap": cap, "cap_of_fees": 1, "fees": fees,
            "losses": {"rate": 1, "limit": limit, "limit_of_fees": 1},
        }  # fmt: skip
        total = settled(load, cost, **terms).total
        assert -min(limit * 1_000_000, fees) <= total <= min(cap * 1_000_000, fees)

    @given(first=st.decimals(0, 2_000_000, places=2), second=st.decimals(0, 2_000_000, places=2))
    def test_splitting_a_population_adds_up(self, load: Load, first: Decimal, second: Decimal) -> None:
        terms = {"target": {"kind": "pmpm", "amount": 100}, "losses": {"rate": D("0.5")}}
        parts = [value(settled(load, cost, 500, **terms), "payable") for cost in (first, second)]
        assert sum(parts) == value(settled(load, first + second, 1_000, **terms), "payable")


class TestQuality:
    def test_equity_bonus_of_the_reference(self, load: Load) -> None:
        """4+4+2+2+0+4 = 16 points, 31 % underserved: 4.96 points of a hundred."""
        quality = {"mode": "multiplicative", "equity": {"points": [4, 4, 2, 2, 0, 4], "underserved": D("0.31")}}
        contract = load(measures=[measure("q", "1")], arrangements=[shared_savings(quality=quality)], rounding="cent")
        found = settle(contract, inputs("900000", outcomes={"q": MeasureScore(None, 1, D("0.70"))}))
        assert value(found, "equity-bonus") == D("0.0496")
        assert value(found, "quality-with-bonus") == D("0.7496")

    @pytest.mark.parametrize(("underserved", "bonus"), [("0.19", "0"), ("0.20", "0.048"), ("0.90", "0.10")])
    def test_equity_bonus_has_a_least_share_and_a_cap(self, load: Load, underserved: str, bonus: str) -> None:
        quality = {"mode": "multiplicative", "equity": {"points": [4] * 6, "underserved": D(underserved)}}
        contract = load(measures=[measure("q", "1")], arrangements=[shared_savings(quality=quality)])
        found = settle(contract, inputs("900000", outcomes={"q": MeasureScore(None, 1, D("0.5"))}))
        assert value(found, "equity-bonus") == D(bonus)


class TestExpenditures:
    CLAIMS = lines(
        ("a", date(2024, 3, 1), 400_000), ("b", date(2024, 3, 1), 50_000), ("b", date(2024, 4, 1), 5_000),
        ("c", date(2024, 5, 1), 70_000), types={2: "pharmacy"},
    )  # fmt: skip
    TABLES: ClassVar = {"excluded_members": pa.table({"member": ["c"], "reason": ["transplant"]})}

    def cost(self, **expenditures: Any) -> dict[str, Decimal]:
        terms = SharedSavings.model_validate(shared_savings(expenditures=expenditures))
        ledger = Ledger("ss", "USD", "cent", None)
        given_facts = facts(self.CLAIMS, {"a": 12, "b": 12, "c": 6}, tables=self.TABLES)
        terms.settle(SettlementInputs(exposure("1", 3), {}, facts=given_facts), (), ledger)
        return {line.id.removeprefix("ss."): line.value for line in ledger.lines if line.value is not None}

    def test_exclusions(self) -> None:
        found = self.cost(without_types=["pharmacy"], excluded_members=True)
        assert (found["counted-members"], found["counted-months"], found["cost"]) == (2, 24, 450_000)

    def test_pooling_of_high_cost(self) -> None:
        pooling = {"attachment": 100_000, "share": D("0.9")}
        assert self.cost(pooling=pooling)["cost"] == 525_000 - D("0.9") * 300_000

    def test_completion_by_the_claims_own_triangle(self) -> None:
        found = self.cost(completion={"as_of": date(2024, 12, 31), "months": 12})
        assert found["completion"] == 1  # all was paid in its own month
        with pytest.raises(ContractError, match="do not reach back"):
            self.cost(completion={"as_of": date(2025, 3, 31), "months": 12})
