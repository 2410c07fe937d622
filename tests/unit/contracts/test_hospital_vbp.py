"""Hospital value-based purchasing: exchange function, factors, neutrality, missing domains."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from p4p_parts import problems, settled

from fhir_gateway.contracts.programmes import programme_year, shipped_programmes
from fhir_gateway.contracts.scoring import hospital_vbp as rules
from fhir_gateway.contracts.scoring.hospital_vbp import HospitalVbpYear, Rates
from fhir_gateway.errors import ContractError

D = Decimal
DOMAINS = [
    {"id": "clinical", "titles": [], "weight": "0.5", "measures": ["a", "b"]},
    {"id": "safety", "titles": [], "weight": "0.5", "measures": ["c"]},
]
RULES = {"year": 2024, "trust": "M", "source": "test", "withhold": "0.02", "min_domains": 1, "domains": DOMAINS}


def rate(hospital: str, measure: str, performance: str, **more: Any) -> dict[str, Any]:
    return {
        "hospital": hospital,
        "measure": measure,
        "threshold": 0,
        "benchmark": 10,
        "performance": performance,
    } | more


def test_the_synthetic_exchange_of_the_sheet() -> None:
    exchange = rules.exchange([(D(100_000_000), D(40)), (D(50_000_000), D(20))], D("0.02"))
    assert exchange.slope == 3
    assert [exchange.payment_factor(D(score)) for score in (40, 20)] == [D("1.004"), D("0.992")]
    paid = 100_000_000 * (exchange.payment_factor(D(40)) - 1) + 50_000_000 * (exchange.payment_factor(D(20)) - 1)
    assert paid == 0


def test_a_hospital_gains_what_the_other_loses() -> None:
    # domain scores: a hospital with 10 points of 10 in one domain and none in the other has 50
    rates = [rate("A", "a", "11"), rate("A", "c", "-1"), rate("B", "a", "-1"), rate("B", "c", "5")]
    hospitals = [{"hospital": "A", "base": 1_000_000}, {"hospital": "B", "base": 333_333}]
    tables = {"hospitals": hospitals, "rates": rates}
    terms = {"kind": "hospital_vbp", "year": 2024, "rules": RULES}
    first, second = (settled(terms | {"hospital": name}, tables=tables) for name in "AB")
    assert first.value("total-performance-score") == 50
    assert second.value("total-performance-score") == 25  # 5 points of 10 in half of the weight
    assert first.paid + second.paid == 0
    assert first.paid > 0
    assert abs(1_000_000 * (first.value("factor") - 1) - first.paid) <= D("0.01")


def test_a_hospital_with_too_few_domains_is_outside() -> None:
    tables = {
        "hospitals": [{"hospital": "A", "base": 100}, {"hospital": "B", "base": 100}],
        "rates": [rate("A", "a", "5"), rate("B", "a", "5"), rate("B", "c", "5")],
    }
    terms = {"kind": "hospital_vbp", "year": 2024, "hospital": "A", "rules": RULES | {"min_domains": 2}}
    assert settled(terms, tables=tables).paid == 0


def test_missing_domains_give_their_weight_in_proportion() -> None:
    weights = {"a": D("0.25"), "b": D("0.25"), "c": D("0.25"), "d": D("0.25")}
    scores: dict[str, Decimal | None] = {"a": D(30), "b": None, "c": D(60), "d": D(90)}
    domains = rules.weighted_domains(scores, weights, 3)
    assert domains is not None
    assert abs(sum(d.weight for d in domains.values()) - 1) < D("1e-25")
    assert abs(rules.total_performance_score(domains) - 60) < D("1e-24")
    assert rules.weighted_domains(scores | {"a": None}, weights, 3) is None


@pytest.mark.parametrize(("lowest", "points"), [("70", 20), ("50", 0), ("49", 0), ("60", 10), ("59.9", 9)])
def test_consistency_points(lowest: str, points: int) -> None:
    high = Rates(D(70), D(90), D(80), floor=D(50))
    low = Rates(D(70), D(90), D(lowest), floor=D(50))
    assert rules.consistency_points([high, low]) == points


def test_six_dimensions_are_brought_to_eighty() -> None:
    assert rules.survey_base([10] * 8) == 80
    assert rules.survey_base([10, 9, 8, 7, 6, 5]) == 60
    assert rules.survey_base([1, 1, 1, 1, 1, 0]) == 7  # 6.67


def test_combined_measures_weigh_by_predicted_infections() -> None:
    assert rules.combined_score([(4, D("1.5")), (10, D("0.5"))]) == 6  # 5.5
    assert rules.combined_score([(3, D(1))]) == 3
    assert rules.combined_score([]) is None


def test_contradictions() -> None:
    terms = {"kind": "hospital_vbp", "year": 2024, "hospital": "A"}
    assert problems(terms) == []
    assert "begin" in problems(terms | {"year": 2000})[0] or "first is 2013" in problems(terms | {"year": 2000})[0]
    light = [DOMAINS[0] | {"weight": "0.4"}, DOMAINS[1]]
    assert "sum to 0.9" in problems(terms | {"rules": RULES | {"domains": light}})[0]
    twice = [DOMAINS[0], DOMAINS[1] | {"measures": ["a"]}]
    assert "'a' is in two" in problems(terms | {"rules": RULES | {"domains": twice}})[0]


@pytest.mark.parametrize("year", range(2013, 2028))
def test_shipped_years_weigh_one(year: int) -> None:
    assert sum(domain.weight for domain in HospitalVbpYear.of(year).domains) == 1


def test_a_year_before_the_programme_has_no_table() -> None:
    assert "hospital_vbp" in shipped_programmes()
    with pytest.raises(ContractError, match="its first is 2013"):
        programme_year("hospital_vbp", 2012, HospitalVbpYear)


money = st.integers(0, 10_000_000).map(D)


@given(st.lists(st.tuples(money, st.integers(0, 100).map(D)), min_size=1, max_size=12))
def test_the_exchange_is_budget_neutral(hospitals: list[tuple[Decimal, Decimal]]) -> None:
    if not any(base * score for base, score in hospitals):
        return
    exchange = rules.exchange(hospitals, D("0.02"))
    net = sum(base * (exchange.payment_factor(score) - 1) for base, score in hospitals)
    assert abs(net) < D("1e-12")
    factors = [exchange.payment_factor(D(score)) for score in range(0, 101, 10)]
    assert factors == sorted(factors)
