"""Medical loss ratio: credibility, rebate, subscribers; and of a provider at risk."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from contract_parts import exposure
from hypothesis import given
from hypothesis import strategies as st
from p4p_parts import problems, settled

from fhir_gateway.contracts.scoring import medical_loss_ratio as rules
from fhir_gateway.contracts.scoring.medical_loss_ratio import Experience, MedicalLossRatioYear
from fhir_gateway.errors import ContractError

D = Decimal
MARKETS = MedicalLossRatioYear.of(2025).markets
INDIVIDUAL = MARKETS["individual"]


def year(number: int = 2025, **changes: Any) -> dict[str, Any]:
    """A large insurer (90,000 life years) with the accounts of 45 CFR 158.240(c)(2)."""
    accounts = {"claims": 121_250, "premium": 200_000, "taxes": 15_000, "quality_improvement": 0}
    return {"year": number, "member_months": 1_080_000, "net_transfers": 17_500} | accounts | changes


def commercial(**changes: Any) -> dict[str, Any]:
    return {"kind": "medical_loss_ratio", "market": "individual", "year": 2025} | changes


@pytest.mark.parametrize(
    ("claims", "transfers"),
    # first: reinsurance receipts 2,500, risk adjustment and corridors paid 20,000; second: net receipts 110,000
    [(121_250, 17_500), (248_750, -110_000)],
)
def test_the_examples_of_the_regulation(claims: int, transfers: int) -> None:
    accounts = [year(claims=claims, net_transfers=transfers)]
    subscribers = [{"subscriber": f"s{n}", "premium": 2_000} for n in range(100)]
    terms = commercial(subscribers_table="subscribers")
    result = settled(terms, tables={"experience": accounts, "subscribers": subscribers})
    assert result.value("adjusted-premium") == 185_000
    assert result.value("ratio") == D("0.750")
    assert result.paid == 9_250
    assert result["subscribers-paid"].evidence["lowest"] == "92.50"
    assert result.value("subscribers-paid") == 100


def test_credibility_of_the_sheet() -> None:
    added = rules.credibility(INDIVIDUAL, D(3_750), D(3_750))
    assert added is not None
    assert added.quantize(D("0.00001")) == D("0.05709")  # 4.45% x 1.283
    assert rules.credibility(INDIVIDUAL, D(3_750)) == D("0.0445")


@pytest.mark.parametrize(
    ("market", "exposed", "added"),
    [
        ("individual", "999", None),
        ("individual", "1000", "0.083"),
        ("individual", "75000", "0"),
        ("large_group", "62500", "0.006"),
        ("medicare_advantage", "2399", None),
        ("medicare_advantage", "4200", "0.0685"),
        ("medicare_advantage", "180000", "0.010"),
        ("medicare_advantage", "180001", "0"),
        ("part_d", "4800", "0.084"),
        ("medicaid", "5400", "0.084"),
        ("medicaid", "380001", "0"),
    ],
)
def test_credibility_by_market(market: str, exposed: str, added: str | None) -> None:
    assert rules.credibility(MARKETS[market], D(exposed)) == (None if added is None else D(added))


def test_a_small_deductible_has_no_factor() -> None:
    assert rules.credibility(INDIVIDUAL, D(1_000), D(2_499)) == D("0.083")
    assert rules.credibility(INDIVIDUAL, D(1_000), D(20_000)) == D("0.083") * D("1.736")


@pytest.mark.parametrize(("claims", "ratio"), [("79880", "0.799"), ("82530", "0.825"), ("79950", "0.800")])
def test_three_decimals(claims: str, ratio: str) -> None:
    found = rules.loss_ratio([Experience(2025, D(claims), D(100_000), D(0), D(1_200_000))], INDIVIDUAL)
    assert found.ratio == D(ratio)


def test_three_years_together_and_the_rebate_of_the_last() -> None:
    accounts = [
        year(2022, claims=1),  # a fourth year does not count
        year(2023, claims=160_000, taxes=0, net_transfers=0),
        year(2024, claims=170_000, taxes=0, net_transfers=0),
        year(2025, claims=126_000, taxes=0, net_transfers=0),
    ]
    result = settled(commercial(), tables={"experience": accounts})
    assert result.value("ratio") == D("0.760")
    assert result.paid == 8_000  # 4% of 200,000, the last year's premium only


def test_no_credibility_after_three_years_below_the_standard() -> None:
    small = {"member_months": 24_000, "taxes": 0, "net_transfers": 0}  # 2,000 life years a year, 6,000 together
    low = [year(n, claims=150_000, **small) for n in (2023, 2024, 2025)]
    assert settled(commercial(), tables={"experience": low}).value("credibility") == 0
    once = [*low[:2], year(2025, claims=170_000, **small)]
    assert settled(commercial(), tables={"experience": once}).value("credibility") > 0


def test_too_little_experience_pays_nothing() -> None:
    result = settled(commercial(), tables={"experience": [year(member_months=11_999, claims=1)]})
    assert result["credibility"].value is None
    assert result.paid == 0


def test_accounts_that_cannot_be_judged() -> None:
    with pytest.raises(ContractError, match="does not exceed its taxes"):
        settled(commercial(), tables={"experience": [year(taxes=200_000)]})
    with pytest.raises(ContractError, match="no row of 2025"):
        settled(commercial(), tables={"experience": [year(2024)]})


def test_flat_quality_improvement() -> None:
    accounts = [year(claims=150_000, taxes=0, net_transfers=0, quality_improvement=None)]
    assert settled(commercial(), tables={"experience": accounts}).value("numerator") == 151_600


@pytest.mark.parametrize(
    ("years", "says"),
    [(1, "3: no new enrolment; 5: termination"), (3, "no new enrolment"), (5, "no new enrolment; termination")],
)
def test_years_below_the_standard_of_medicare(years: int, says: str) -> None:
    accounts = [year(2020, claims=190_000, taxes=0, net_transfers=0)]
    accounts += [year(2026 - n, claims=160_000, taxes=0, net_transfers=0) for n in range(1, years + 1)]
    result = settled(commercial(market="medicare_advantage"), tables={"experience": accounts[-years:] + accounts[:1]})
    assert result.paid == 10_000  # 85% - 80% of 200,000: only the reporting year
    assert (result.value("years-below"), result["years-below"].formula) == (years, says)


def test_contradictions() -> None:
    assert "no 'ships'" in problems(commercial(market="ships"))[0]
    assert "first is 2012" in problems(commercial(year=2001))[0]
    own = {"standard": "0.9", "exposure": "member_months", "credibility": [[10, 0], [5, 1]]}
    assert "do not grow" in problems(commercial(rules=own))[0]


premiums = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=4), st.integers(1, 5_000).map(D), min_size=1)


@given(total=st.decimals(0, 100_000, places=2), of=premiums, least=st.sampled_from([D(0), D(5), D(20)]))
def test_rebates_sum_to_the_rebate(total: Decimal, of: dict[str, Decimal], least: Decimal) -> None:
    shares = rules.rebates(total, of, least)
    assert sum(shares.values()) == total
    if max(shares.values()) >= least and total:
        assert all(not share or share >= least for share in shares.values()) or min(shares.values()) > 0


def provider(**changes: Any) -> dict[str, Any]:
    bands = {"gains": [{"share": "0.5"}], "losses": [{"through": "0.05", "share": "0.5"}, {"share": 0}]}
    return {"kind": "provider_mlr", "target": "0.85", "revenue": 1_000_000} | bands | changes


@pytest.mark.parametrize(
    ("cost", "paid"), [("850000", 0), ("800000", 25_000), ("900000", -25_000), ("1000000", -25_000)]
)
def test_a_provider_around_its_target(cost: str, paid: int) -> None:
    assert settled(provider(), seen=exposure(cost)).paid == paid


def test_a_provider_within_a_cap_and_by_member_month() -> None:
    assert settled(provider(cap="0.01"), seen=exposure("600000")).paid == 10_000
    by_month = provider(revenue=None, revenue_pmpm=100)
    result = settled(by_month, seen=exposure("8500000", members=10_000, months="100000"))
    assert result.value("ratio") == D("0.85")
    assert "either" in problems(provider(revenue_pmpm=1))[0]
    assert "do not grow" in problems(provider(gains=[{"share": 1}, {"through": "0.1", "share": 0}]))[0]


@given(costs=st.tuples(st.integers(0, 2_000_000), st.integers(0, 2_000_000)))
def test_more_cost_never_pays_a_provider_more(costs: tuple[int, int]) -> None:
    low, high = sorted(costs)
    assert settled(provider(), seen=exposure(D(low))).paid >= settled(provider(), seen=exposure(D(high))).paid
