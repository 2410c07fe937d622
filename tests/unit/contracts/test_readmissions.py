"""Readmission penalties: ratios, peers, cap, neutrality."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from p4p_parts import problems, settled

from fhir_gateway.contracts.scoring import readmissions as rules
from fhir_gateway.contracts.scoring.readmissions import Condition, ReadmissionsYear
from fhir_gateway.errors import ContractError

D = Decimal


def test_the_published_factor_of_the_sheet() -> None:
    heart_failure = Condition(D(681), D("1.0597"), D("0.9875"), D("0.0363"))
    others = [Condition(D(296), D("0.9483"), D("0.9956"), D("0.0267"))]
    unmodified = rules.unmodified_penalty([heart_failure, *others])
    penalty = rules.penalty(unmodified, D("0.9652"), D("0.03"))
    assert penalty.quantize(D("0.000001")) == D("0.002530")
    assert rules.adjustment_factor(penalty) == D("0.9975")
    assert rules.adjustment_factor(rules.penalty(rules.unmodified_penalty(others), D("0.9652"), D("0.03"))) == 1


@pytest.mark.parametrize(("discharges", "ratio", "counts"), [(24, "1.2", False), (25, "1.2", True), (25, "1", False)])
def test_who_is_penalised(discharges: int, ratio: str, counts: bool) -> None:
    assert rules.is_penalised(Condition(D(discharges), D(ratio), D(1), D("0.1"))) is counts


@pytest.mark.parametrize(("year", "cap"), [(2013, "0.01"), (2014, "0.02"), (2015, "0.03"), (2025, "0.03")])
def test_caps_by_year(year: int, cap: str) -> None:
    assert ReadmissionsYear.of(year).cap == D(cap)


def test_quintiles_share_ties() -> None:
    groups = rules.peer_groups({str(n): D(n) for n in range(1, 11)})
    assert [groups[str(n)] for n in range(1, 11)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert set(rules.peer_groups(dict.fromkeys("abcde", D(1))).values()) == {3}


def test_a_programme_with_a_published_and_a_computed_modifier() -> None:
    hospitals = [{"hospital": f"H{n}", "base": 1_000_000, "dual_proportion": D(n) / 20} for n in range(10)]
    conditions = [
        {
            "hospital": f"H{n}",
            "condition": "HF",
            "discharges": 100,
            "predicted": 18 + n % 4,
            "expected": 20,
            "payment_ratio": "0.05",
        }
        for n in range(10)
    ]
    tables = {"hospitals": hospitals, "conditions": conditions}
    terms = {"kind": "readmissions", "year": 2025, "modifier": "0.9"}
    mine = settled(terms | {"hospital": "H1"}, tables=tables)  # group 1: ratios 0.9 and 0.95
    assert mine.value("HF.median") == D("0.925")
    assert mine.value("penalty") == D("0.9") * D("0.05") * D("0.025")
    assert mine.paid == -1_100  # 0.001125 -> factor 0.9989
    # computed: all penalties come to what they are against 1: H3 and H7 with 1.05 - 1
    own = {"kind": "readmissions", "year": 2025}
    every = [settled(own | {"hospital": f"H{n}"}, tables=tables) for n in range(10)]
    total = sum(one.value("penalty") * 1_000_000 for one in every)
    assert abs(total - 2 * D("0.05") * D("0.05") * 1_000_000) < D("1e-6")


def test_without_peer_groups_the_ratio_is_compared_with_one() -> None:
    tables = {
        "hospitals": [{"hospital": "A", "base": 1_000_000}],
        "conditions": [
            {
                "hospital": "A",
                "condition": "AMI",
                "discharges": 40,
                "predicted": 22,
                "expected": 20,
                "payment_ratio": "0.5",
            }
        ],
    }
    terms = {"kind": "readmissions", "year": 2014, "hospital": "A"}
    assert settled(terms, tables=tables).paid == -20_000  # 5% of base, capped at 2%
    assert "nothing to be neutral to" in problems(terms | {"modifier": "0.9"})[0]


amounts = st.tuples(st.integers(1, 1_000_000).map(D), st.decimals(0, "0.05", places=4))


@given(hospitals=st.lists(amounts, min_size=1, max_size=10), share=st.decimals(0, 1, places=3))
def test_the_modifier_makes_penalties_come_to_the_target(
    hospitals: list[tuple[Decimal, Decimal]], share: Decimal
) -> None:
    cap = D("0.03")
    most = sum(base * cap for base, x in hospitals if x > 0)
    target = D(most) * share
    modifier = rules.neutrality_modifier(hospitals, target, cap)
    assert abs(sum(base * rules.penalty(x, modifier, cap) for base, x in hospitals) - target) < D("1e-12")


def test_a_target_that_no_modifier_reaches() -> None:
    with pytest.raises(ContractError, match="do not reach"):
        rules.neutrality_modifier([(D(100), D("0.01"))], D(4), D("0.03"))
