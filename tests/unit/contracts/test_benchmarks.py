"""What targets are built from, on populations small enough to check by hand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest
from benchmark_parts import enrolment, lines
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_gateway.contracts.benchmarks.adjustment import (
    final_adjustment,
    population_adjustment,
    prior_savings_adjustment,
    regional_adjustment,
)
from fhir_gateway.contracts.benchmarks.blend import blended, credibility, weighted
from fhir_gateway.contracts.benchmarks.completion import Triangle, completed, triangle
from fhir_gateway.contracts.benchmarks.cost import member_costs, pooled
from fhir_gateway.contracts.benchmarks.person_years import TypeCost, type_costs
from fhir_gateway.contracts.benchmarks.risk import capped_in_aggregate, capped_ratio
from fhir_gateway.contracts.benchmarks.stop_loss import band_costs
from fhir_gateway.errors import ContractError

D = Decimal
YEAR = range(1, 13)
amounts = st.decimals(0, 100_000, places=2)


def day(month: int, year: int = 2024) -> date:
    return date(year, month, 15)


def costs_of(claims: pa.Table, who: pa.Table, limits: Mapping[str, Decimal] | None = None) -> dict[str, TypeCost]:
    return type_costs(claims, who, {2024: limits or {}})[2024]


class TestPersonYears:
    def test_cost_is_annualised_and_truncated_before_it_is_weighted(self) -> None:
        claims = lines(("a", day(1), 30_000), ("b", day(5), 6_000))
        who = enrolment(("a", 2024, range(1, 7), "AGND"), ("b", 2024, YEAR, "AGND"))
        found = costs_of(claims, who, {"AGND": D(50_000)})["AGND"]
        assert found.months == 18  # a died in June
        assert found.person_years == D("1.5")
        assert found.cost == 25_000 + 6_000  # a: 60,000 a year, cut to 50,000, for half a year
        assert found.truncated == 1
        assert found.per_capita == D(31_000) / D("1.5")

    def test_a_person_in_two_types_counts_in_each_with_its_months(self) -> None:
        claims = lines(("a", day(2), 1_000), ("a", day(8), 9_000))
        who = enrolment(("a", 2024, range(1, 5), "AGND"), ("a", 2024, range(5, 13), "ESRD"))
        found = costs_of(claims, who)
        assert (found["AGND"].months, found["AGND"].per_capita) == (4, 3_000)
        assert (found["ESRD"].months, found["ESRD"].per_capita) == (8, 13_500)

    def test_negative_cost_after_adjustments_is_kept_or_counts_as_nothing(self) -> None:
        claims = lines(("a", day(3), -500), ("b", day(3), 700))
        who = enrolment(("a", 2024, YEAR, "DIS"), ("b", 2024, YEAR, "DIS"))
        assert costs_of(claims, who)["DIS"].cost == 200
        assert type_costs(claims, who, {2024: {}}, negative="zero")[2024]["DIS"].cost == 700

    def test_claims_of_other_years_and_of_months_without_enrolment_do_not_count(self) -> None:
        claims = lines(("a", day(3, 2023), 1), ("a", day(12), 10), ("a", day(3), 100), ("x", day(3), 1000))
        found = costs_of(claims, enrolment(("a", 2024, range(1, 7), "AGDU")))
        assert found["AGDU"].cost == 100

    def test_what_cannot_be_meant_is_refused(self) -> None:
        twice = enrolment(("a", 2024, [1], "AGND"), ("a", 2024, [1], "ESRD"))
        with pytest.raises(ContractError, match="two types"):
            costs_of(lines(("a", day(1), 1)), twice)
        with pytest.raises(ContractError, match="type is none of"):
            costs_of(lines(("a", day(1), 1)), enrolment(("a", 2024, [1], "OLD")))

    @settings(max_examples=20)
    @given(parts=st.lists(amounts, min_size=1, max_size=6), at=st.integers(0, 6))
    def test_splitting_a_population_adds_up(self, parts: list[Decimal], at: int) -> None:
        names = [f"p{number}" for number in range(len(parts))]
        claims = lines(*((name, day(4), value) for name, value in zip(names, parts, strict=True)))

        def cost(chosen: list[str]) -> tuple[Decimal, Decimal]:
            who = enrolment(*((name, 2024, range(1, 4), "AGND") for name in chosen))
            found = costs_of(claims, who, {"AGND": D(100_000)}).get("AGND")
            return (found.cost, found.months) if found else (D(0), D(0))

        whole, left, right = cost(names), cost(names[:at]), cost(names[at:])
        assert whole == (left[0] + right[0], left[1] + right[1])


class TestCost:
    CLAIMS = lines(("a", day(1), 400), ("a", day(2), 200), ("b", day(1), 50), ("c", day(1), 9), types={1: "pharmacy"})

    def test_exclusions_of_categories_and_members(self) -> None:
        period = (date(2024, 1, 1), date(2024, 12, 31))
        roster = pa.array(["a", "b", "c", "nobody"])
        costs = member_costs(self.CLAIMS, roster, period, without_types=["pharmacy"], without_members=pa.array(["c"]))
        assert costs.to_pydict() == {"member": ["a", "b", "nobody"], "cost": [D(400), D(50), D(0)]}

    def test_pooling_takes_its_share_of_what_lies_above(self) -> None:
        costs = pa.table({"cost": pa.array([D(1000), D(300), D(100)], pa.decimal128(38, 8))})
        kept = pooled(costs, D(200), D("0.9"))
        assert (kept.raw, kept.kept, kept.over) == (1400, 1400 - D("0.9") * 900, 2)
        assert pooled(costs, D(200), D(1)).kept == 500  # truncation
        assert pooled(costs, None, D(1)).kept == 1400

    def test_stop_loss_bands_share_what_lies_in_them(self) -> None:
        costs = pa.table({"cost": pa.array([D(1000), D(300), D(100)], pa.decimal128(38, 8))})
        assert band_costs(costs, [D(200), D(500)]) == (400, 500)  # 300 + 100; 500

    @settings(max_examples=20)
    @given(
        costs=st.lists(amounts, min_size=1, max_size=5),
        at=st.integers(1, 90_000),
        share=st.decimals("0.1", 1, places=2),
    )
    def test_pooling_never_adds_cost_and_grows_with_it(self, costs: list[Decimal], at: int, share: Decimal) -> None:
        table = pa.table({"cost": pa.array(costs, pa.decimal128(38, 8))})
        more = pa.table({"cost": pa.array([costs[0] + 1, *costs[1:]], pa.decimal128(38, 8))})
        kept = pooled(table, D(at), share)
        assert kept.kept <= kept.raw
        assert pooled(more, D(at), share).kept >= kept.kept


class TestCompletion:
    def test_chain_ladder(self) -> None:
        known = Triangle(date(2024, 1, 1), ((D(100), D(150), D(165)), (D(200), D(300)), (D(80),)))
        assert known.age_to_age() == (D("1.5"), D("1.1"))
        assert known.to_ultimate() == (D("1.65"), D("1.1"), D(1))
        assert known.ultimate() == (D(165), D(330), D(132))

    def test_a_triangle_of_claim_lines(self) -> None:
        claims = lines(
            ("a", day(1), 100), ("a", day(1), 50), ("b", day(2), 10), ("a", day(3), 7), ("x", day(1), 999),
            paid_on={1: date(2024, 2, 20), 2: date(2024, 4, 1)},
        )  # fmt: skip
        found = triangle(claims, pa.array(["a", "b"]), date(2024, 3, 31), 3)
        assert found.first == date(2024, 1, 1)
        assert found.amounts == ((100, 150, 150), (0, 0), (7,))  # what is paid in April is not known yet
        assert found.age_to_age() == (D("1.5"), D(1))

    def test_lines_without_a_type_count_unless_they_are_named(self) -> None:
        claims = lines(("a", day(1), 100), ("a", day(1), 50))
        kinds = pa.array(["professional", None], pa.string())
        claims = claims.set_column(claims.column_names.index("claim_type"), "claim_type", kinds)
        for left_out, amount in (((), 150), (("pharmacy",), 150), (("professional",), 50), (("untyped",), 100)):
            known = triangle(claims, pa.array(["a"]), date(2024, 1, 31), 1, without_types=left_out)
            assert known.amounts == ((amount,),)
            year = (date(2024, 1, 1), date(2024, 12, 31))
            assert member_costs(claims, pa.array(["a"]), year, without_types=left_out)["cost"].to_pylist() == [amount]

    def test_nothing_paid_completes_to_nothing(self) -> None:
        assert Triangle(date(2024, 1, 1), ((D(0), D(0)), (D(0),))).ultimate() == (0, 0)


class TestRisk:
    def test_caps(self) -> None:
        assert capped_ratio(D("1.05"), D("0.03")) == D("1.03")
        assert capped_ratio(D("0.90"), D("0.03")) == D("0.90")
        assert capped_ratio(D("0.90"), D("0.03"), D("0.03")) == D("0.97")

    def test_types_are_capped_only_when_all_together_grow_too_much(self) -> None:
        demographic, weights = {"AGND": D("1.01"), "ESRD": D("1.01")}, {"AGND": D(9), "ESRD": D(1)}
        one_type = {"AGND": D("1.02"), "ESRD": D("1.20")}
        capped, aggregate, cap = capped_in_aggregate(one_type, demographic, weights, D("0.03"))
        assert (capped, aggregate, cap) == (one_type, D("1.038"), D("1.04"))
        capped, _, _ = capped_in_aggregate({"AGND": D("1.06"), "ESRD": D(1)}, demographic, weights, D("0.03"))
        assert capped == {"AGND": D("1.04"), "ESRD": D(1)}


class TestAdjustments:
    def test_regional_within_its_caps(self) -> None:
        assert regional_adjustment(D(11_000), D(10_000), D("0.35"), D(10_000), D("0.05"), D("0.015")) == 350
        assert regional_adjustment(D(13_000), D(10_000), D("0.50"), D(10_000), D("0.05"), D("0.015")) == 500
        assert regional_adjustment(D(8_000), D(10_000), D("0.15"), D(10_000), D("0.05"), D("0.015")) == -150

    def test_prior_savings(self) -> None:
        assert prior_savings_adjustment(D(400), D("0.5"), D("0.8"), D("0.05"), D(10_000)) == 160
        assert prior_savings_adjustment(D(4_000), D("0.5"), D("1.3"), D("0.05"), D(10_000)) == 500
        assert prior_savings_adjustment(D(-10), D("0.5"), D(1), D("0.05"), D(10_000)) == 0

    def test_population_only_from_its_share_on_and_only_when_higher(self) -> None:
        assert population_adjustment(D("0.19"), D("0.20"), D("0.05"), D(10_000), D(0)) == 0
        assert population_adjustment(D("0.40"), D("0.20"), D("0.05"), D(10_000), D(100)) == 160
        assert final_adjustment(D(100), D(50), new_rules=True, population=D(160)).kind == "population"
        assert final_adjustment(D(100), D(50), new_rules=True, population=D(60)).kind == "regional"

    @pytest.mark.parametrize(
        ("regional", "prior", "new_rules", "kind", "amount"),
        [
            (100, 200, True, "prior", 200),
            (200, 100, True, "regional", 200),
            (-50, None, True, "none", 0),
            (-50, None, False, "regional", -50),
            (-50, 10, True, "prior", 10),
            (None, None, True, "none", 0),
        ],
    )
    def test_the_higher_one_counts(
        self, regional: int | None, prior: int | None, new_rules: bool, kind: str, amount: int
    ) -> None:
        found = final_adjustment(
            None if regional is None else D(regional), None if prior is None else D(prior), new_rules=new_rules
        )
        assert (found.kind, found.amount) == (kind, amount)


class TestBlends:
    def test_credibility_is_the_root_of_the_part_reached(self) -> None:
        assert credibility(D(3_000), D(12_000)) == D("0.5")
        assert credibility(D(13_000), D(12_000)) == 1

    @given(own=amounts, other=amounts, weight=st.decimals(0, 1, places=3))
    def test_a_blend_lies_between(self, own: Decimal, other: Decimal, weight: Decimal) -> None:
        assert min(own, other) <= blended(own, other, weight) <= max(own, other)

    def test_weights_need_not_sum_to_one(self) -> None:
        assert weighted([D(10), D(20), D(30)], [D(1), D(1), D(1)]) == 20
        with pytest.raises(ContractError):
            weighted([D(1)], [D(0)])


def test_what_a_period_will_come_to() -> None:
    known = Triangle(date(2024, 1, 1), ((D(100), D(150), D(165)), (D(200), D(300)), (D(80),)))
    found = completed(known, (date(2024, 2, 1), date(2024, 12, 31)))
    assert (found.paid, found.ultimate, found.ibnr) == (380, 462, 82)
    assert found.factor == D(462) / 380
    with pytest.raises(ContractError, match="do not reach back"):
        completed(known, (date(2023, 12, 1), date(2024, 12, 31)))
