"""Care management fees and Primary Care First."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from contract_parts import measure
from month_parts import contract_of, inputs_of, line, months_of

from fhir_gateway.contracts import Contract, MeasureScore, settle
from fhir_gateway.contracts.arrangements import ARRANGEMENTS
from fhir_gateway.errors import ContractError

D = Decimal
Terms = dict[str, Any]
Make = Callable[..., Contract]
FLAT = {"kind": "care_management_fee", "id": "fee", "pool": "fees", "fees": [{"pmpm": 10}]}
PCF = {
    "kind": "primary_care_first",
    "id": "pcf",
    "pool": "primary care",
    "visit_codes": ["99213", "99214"],
    "tins": ["1"],
}


@pytest.fixture
def make(contract_terms: Callable[..., Terms]) -> Make:
    """A contract with one arrangement."""

    def of(stated: Terms, measures: list[Terms] | None = None, **changes: Any) -> Contract:
        one = stated | changes
        return contract_of(contract_terms(measures=measures or [], rounding="cent", arrangements=[one]))

    return of


def statuses(contract: Contract, inputs: Any) -> list[tuple[str, int, str, Decimal, str | None]]:
    rows = contract.arrangements[0].audit(inputs).to_pylist()  # type: ignore[attr-defined]
    assert settle(contract, inputs).total == sum(row["amount"] for row in rows)
    return sorted(
        ((row["member"], row["month"].month, row["rule"], row["amount"], row["reason"]) for row in rows),
        key=lambda one: one[:4],
    )


def test_fees_by_level_and_tier(make: Make) -> None:
    contract = make(
        FLAT,
        fees=[{"level": "2", "tier": "low", "pmpm": 4}, {"level": "3", "tier": "low", "pmpm": 6},
              {"level": "3", "tier": "high", "pmpm": 20}],
        recognitions=[{"level": "2", "start": date(2024, 2, 1), "end": date(2024, 3, 1)},
                      {"level": "3", "start": date(2024, 3, 2)}],
        tiers="risk_tiers",
        default_tier="low",
    )  # fmt: skip
    tiers = [{"member": "a", "tier": "high", "effective_from": date(2024, 4, 2)}]
    inputs = inputs_of(contract, months_of({"a": (1, 2, 3, 4, 5)}), tables={"risk_tiers": tiers})
    assert statuses(contract, inputs) == [
        ("a", 1, "fee", 0, "not-recognized"),
        ("a", 2, "fee", 4, None),
        ("a", 3, "fee", 4, None),  # what is valid on the first counts
        ("a", 4, "fee", 6, None),
        ("a", 5, "fee", 20, None),
    ]


def test_fees_of_a_programme(make: Make) -> None:
    tiers = [{"member": name, "tier": tier} for name, tier in (("a", "1"), ("b", "4"))]
    for name, total in (("cpc_plus_track_1", 6 + 30), ("cpc_plus_track_2", 9 + 33)):
        contract = make(FLAT, fees=[], programme={"name": name, "year": 2020}, tiers="risk_tiers")
        inputs = inputs_of(contract, months_of({"a": [1], "b": [1], "c": [1]}), tables={"risk_tiers": tiers})
        assert settle(contract, inputs).total == total
        assert [one[4] for one in statuses(contract, inputs)] == [None, None, "no-tier"]


def test_a_panel_that_is_too_small(make: Make) -> None:
    contract = make(FLAT, min_panel=2)
    inputs = inputs_of(contract, months_of({"a": (1, 2), "b": (2,)}))
    assert settle(contract, inputs).total == 20


def test_quarters_paid_ahead(make: Make) -> None:
    contract = make(FLAT, payment="prospective_quarterly", as_of=date(2024, 8, 1))
    inputs = inputs_of(contract, months_of({"a": (1, 4, 5, 6), "b": (2,)}))
    assert statuses(contract, inputs) == [
        ("a", 1, "fee", 10, None),
        ("a", 2, "debit", -10, None), ("a", 2, "fee", 10, None),
        ("a", 3, "debit", -10, None), ("a", 3, "fee", 10, None),
        ("a", 4, "fee", 10, None), ("a", 5, "fee", 10, None), ("a", 6, "fee", 10, None),
        ("b", 2, "fee", 0, "next-quarter"),  # not there when the quarter was paid
    ]  # fmt: skip


def test_debits_and_credits_against_who_was_paid_for(make: Make) -> None:
    contract = make(
        FLAT, payment="prospective_quarterly", roster="prospective_roster", as_of=date(2024, 11, 1), retro_quarters=2
    )
    roster = [{"member": "a", "quarter": date(2024, month, 1)} for month in (1, 4, 10)]
    inputs = inputs_of(contract, months_of({"a": (4, 5), "b": (7, 8)}), tables={"prospective_roster": roster})
    found = statuses(contract, inputs)
    assert [one for one in found if one[2] != "fee"] == [
        *(("a", month, "debit", 0, "retro-window") for month in (1, 2, 3)),  # three quarters ago
        ("a", 6, "debit", -10, None),
        *(("a", month, "debit", 0, "retro-window") for month in (10, 11, 12)),  # this quarter's come in the next
        ("b", 7, "credit", 10, None),
        ("b", 8, "credit", 10, None),
    ]
    assert settle(contract, inputs).total == 90 - 10 + 20


@pytest.mark.parametrize(("deduct", "total"), [("fee", 20), ("paid", 30 - 62 - 5)])
def test_overlapping_billing_is_deducted(make: Make, deduct: str, total: int) -> None:
    contract = make(FLAT, overlap={"deduct": deduct, "tins": ["1"]})
    lines = [
        line("a", date(2024, 2, 3), procedure="99490", tin="1", paid=D(62)),
        line("a", date(2024, 2, 9), procedure="99439", tin="1", paid=D(5)),
        line("a", date(2024, 3, 3), procedure="99490", tin="2", paid=D(62)),
        line("a", date(2024, 4, 3), procedure="99490", tin="1", paid=D(62)),  # no fee is paid
        line("a", date(2024, 1, 3), procedure="99213", tin="1", paid=D(62)),
    ]
    assert settle(contract, inputs_of(contract, months_of({"a": (1, 2, 3)}), lines=lines)).total == total


@pytest.mark.parametrize(("score", "total"), [("0.2", 90), ("0.5", 100), ("0.9", 150)])
def test_performance_based_adjustment(make: Make, score: str, total: int) -> None:
    steps = [{"at": D("0.4"), "part": 0}, {"at": D("0.8"), "part": D("0.5")}]
    contract = make(FLAT, [measure("q", "1")], adjustment={"steps": steps, "below": D("-0.1")}, advance=20)
    outcomes = {"q": MeasureScore(None, 100, D(score))}
    assert settle(contract, inputs_of(contract, months_of({"a": range(1, 11)}), outcomes=outcomes)).total == total - 20


def test_a_tier_without_a_fee_is_refused(make: Make) -> None:
    contract = make(FLAT, fees=[{"tier": "1", "pmpm": 1}], tiers="t")
    with pytest.raises(ContractError, match="a tier without a fee"):
        settle(contract, inputs_of(contract, [], tables={"t": [{"member": "a", "tier": "9"}]}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fees": []}, "either fees or a programme"),
        ({"fees": [{"pmpm": 1, "tier": "1"}]}, "each has a tier where there are tiers"),
        ({"recognitions": [{"level": "2", "start": date(2024, 1, 1)}]}, "each has a level"),
        ({"fees": [{"pmpm": 1}, {"pmpm": 2}]}, "two of level None"),
        ({"fees": [], "programme": {"name": "cpc_plus_track_1", "year": 2011}, "tiers": "t"}, "no table for 2011"),
        ({"default_tier": "1"}, "default_tier: has no fee"),
        ({"payment": "prospective_quarterly"}, "fee.as_of"),
        ({"roster": "r"}, "fee.roster"),
        ({"fees": [{"pmpm": 1, "level": "1"}],
          "recognitions": [{"level": "1", "start": date(2024, 1, 1)}, {"level": "1", "start": date(2024, 2, 1)}]},
         "two hold at once"),
        ({"adjustment": {"steps": [{"at": D(0), "part": D("-0.5")}]}}, "pays more than the first step"),
    ],
)  # fmt: skip
def test_contradictions_of_fees(changes: Terms, message: str) -> None:
    found = ARRANGEMENTS["care_management_fee"].model_validate(FLAT | changes).problems()
    assert any(message in one for one in found), found


SCORES = [{"member": "a", "score": D("1.1")}, {"member": "b", "score": D("2.5")}]


@pytest.mark.parametrize(("group_by", "population"), [("practice", 3 * 100), ("member", 2 * 28 + 175)])
def test_population_payment_by_risk_group(make: Make, group_by: str, population: int) -> None:
    """(2 x 1.1 + 2.5) / 3 = 1.5667: group 3 of the practice."""
    contract = make(PCF, group_by=group_by)
    inputs = inputs_of(contract, months_of({"a": (1, 2), "b": (1,)}), tables={"risk_scores": SCORES})
    assert settle(contract, inputs).total == population
    assert settle(contract, inputs).line("pcf.score").value == D("1.56666667")


def test_visits_and_adjustment(make: Make) -> None:
    steps = [{"at": 0, "part": D("-0.1")}, {"at": D("0.5"), "part": D("0.5")}]
    contract = make(PCF, [measure("q", "1")], adjustment={"steps": steps, "below": D("-0.1")})
    lines = [
        line("a", date(2024, 1, 3), procedure="99213", tin="1"),
        line("a", date(2024, 1, 3), procedure="99214", tin="1"),  # the same day
        line("a", date(2024, 1, 8), procedure="99214", tin="1"),
        line("a", date(2024, 1, 9), procedure="99214", tin="2"),
        line("a", date(2024, 3, 9), procedure="99214", tin="1"),
    ]
    outcomes = {"q": MeasureScore(None, 10, D("0.5"))}
    inputs = inputs_of(contract, months_of({"a": (1,)}), lines=lines, tables={"risk_scores": SCORES}, outcomes=outcomes)
    assert settle(contract, inputs).total == (28 + 2 * D("40.82")) * D("1.5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"year": 1999}, "pcf.year"),
        ({"groups": [{"group": "1", "pbpm": 1, "below": 1}]}, "the last group has an end"),
        ({"groups": [{"group": "1", "pbpm": 1}, {"group": "2", "pbpm": 1}]}, "'2' overlaps '1'"),
        ({"adjustment": {"steps": [{"at": 0, "part": D("0.6")}]}}, "not between -0.1"),
    ],
)
def test_contradictions_of_primary_care_first(changes: Terms, message: str) -> None:
    found = ARRANGEMENTS["primary_care_first"].model_validate(PCF | changes).problems()
    assert any(message in one for one in found), found
