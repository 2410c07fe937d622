"""Outcome rate cards: what counts, counterfactuals, triggers, budgets, investors."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from p4p_parts import problems, settled

from fhir_gateway.contracts import MeasureScore

D = Decimal


def outcome(person: str, name: str = "permanency", **changes: Any) -> dict[str, Any]:
    proof = {"verified": date(2025, 6, 20), "verifier": "court", "evidence": f"order-{person}"}
    return {"person": person, "outcome": name, "window": "2025", "occurred": date(2025, 6, 1)} | proof | changes


def card(*items: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"kind": "outcome_rate_card", "card": list(items) or [permanency()]} | changes


def permanency(**changes: Any) -> dict[str, Any]:
    return {"outcome": "permanency", "tariff": 7_500} | changes


FORTY = {"outcomes": [outcome(f"p{n}") for n in range(40)]}


def test_the_bond_of_the_sheet() -> None:
    terms = card(permanency(counterfactual="deadweight", deadweight="0.2"))
    assert settled(terms, tables=FORTY).paid == 240_000
    assert settled(terms | {"cap": 200_000}, tables=FORTY).paid == 200_000


@pytest.mark.parametrize(
    "changes",
    [
        {"verified": None},
        {"verifier": None},
        {"evidence": None},
        {"verified": date(2025, 9, 1)},
        {"occurred": date(2024, 12, 31)},
        {"outcome": "another"},
        {},  # the same person, outcome and window
    ],
)
def test_what_does_not_count(changes: dict[str, Any]) -> None:
    rows = {"outcomes": [outcome("p1"), outcome("p1") | changes]}
    result = settled(card(evidence_days=60), tables=rows)
    assert result.value("permanency.verified") == 1
    assert result.paid == 7_500


def test_another_window_counts_again() -> None:
    rows = {"outcomes": [outcome("p1"), outcome("p1", window="second")]}
    assert settled(card(), tables=rows).paid == 15_000


def test_against_a_control_group() -> None:
    groups = {"outcome": "permanency", "treated": 200, "treated_with": 80, "control": 100, "control_with": 25}
    terms = card(permanency(counterfactual="control"), cohorts_table="cohorts")
    assert settled(terms, tables={"outcomes": [], "cohorts": [groups]}).paid == 30 * 7_500
    worse = groups | {"treated_with": 10}
    assert settled(terms, tables={"outcomes": [], "cohorts": [worse]}).paid == 0


@pytest.mark.parametrize(
    ("score", "share"), [("0.93", "0"), ("0.92", "0.5"), ("0.885", "0.75"), ("0.85", "1"), ("0.5", "1"), ("1.1", "0")]
)
def test_the_trigger_interpolates(score: str, share: str) -> None:
    trigger = {"measure": "reentry", "baseline": 1, "at": "0.08", "full_at": "0.15", "start_share": "0.5"}
    result = settled(card(trigger=trigger), tables=FORTY, outcomes={"reentry": MeasureScore(None, 100, D(score))})
    assert result.paid == 300_000 * D(share)


def test_a_cap_of_one_outcome() -> None:
    assert settled(card(permanency(cap=100_000)), tables=FORTY).paid == 100_000


@pytest.mark.parametrize(
    ("tariff", "parts"),
    [
        (1_000, (40_000, 0, 0, 0)),
        (2_600, (100_000, 4_000, 0, 0)),
        (7_500, (100_000, 10_000, 76_000, 114_000)),
    ],
)
def test_investors_get_principal_return_and_a_share(tariff: int, parts: tuple[int, ...]) -> None:
    investors = {"principal": 100_000, "preferred_rate": "0.05", "years": 2, "success_share": "0.4"}
    result = settled(card(permanency(tariff=tariff), investors=investors), tables=FORTY)
    names = ("principal", "preferred", "success", "provider-rest")
    assert tuple(result.value(f"investors.{name}") for name in names) == parts
    assert sum(parts) == result.paid


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (card(permanency(), permanency()), "is there twice"),
        (card(permanency(deadweight="0.2")), "belongs to counterfactual deadweight"),
        (card(permanency(counterfactual="control")), "belongs to counterfactual control"),
        (card(trigger={"measure": "m", "baseline": 1, "at": "0.1", "full_at": "0.1"}), "not above at"),
    ],
)
def test_contradictions(terms: dict[str, Any], message: str) -> None:
    assert any(message in found for found in problems(terms))


@settings(max_examples=15)
@given(count=st.integers(0, 60), deadweight=st.decimals(0, 1, places=2), cap=st.integers(0, 500_000))
def test_more_outcomes_never_pay_less_and_never_beyond_the_budget(count: int, deadweight: Decimal, cap: int) -> None:
    terms = card(permanency(counterfactual="deadweight", deadweight=deadweight), cap=cap)

    def pay(number: int) -> Decimal:
        return settled(terms, tables={"outcomes": [outcome(f"p{n}") for n in range(number)]}).paid

    assert pay(count) <= pay(count + 1) <= cap
