"""Calendars: cuts of a year, and what is due when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from fhir_gateway.contracts import Contract
from fhir_gateway.contracts.calendar import Calendar, deadlines
from fhir_gateway.errors import ContractError

YEAR = (date(2024, 1, 1), date(2024, 12, 31))


@pytest.mark.parametrize(
    ("interim", "through"),
    [
        ("none", []),
        ("quarterly", [date(2024, 3, 31), date(2024, 6, 30), date(2024, 9, 30)]),
        ("semiannual", [date(2024, 6, 30)]),
    ],
)
def test_cuts_end_before_the_period_does(interim: Any, through: list[date]) -> None:
    assert [cut.through for cut in Calendar(interim=interim).cuts(*YEAR)] == through


def test_monthly_cuts_know_leap_years_and_runout() -> None:
    cuts = Calendar(interim="monthly", interim_runout_days=60).cuts(date(2023, 7, 1), date(2024, 6, 30))
    assert len(cuts) == 11
    february = cuts[7]
    assert (february.through, february.paid_through) == (date(2024, 2, 29), date(2024, 4, 29))


def test_who_owes_decides_when_it_is_paid() -> None:
    calendar = Calendar(payment_days=30, repayment_days=90)
    assert deadlines(calendar, date(2024, 9, 1), owed_by_payer=True).payment == date(2024, 10, 1)
    assert deadlines(calendar, date(2024, 9, 1), owed_by_payer=False).payment == date(2024, 11, 30)


def test_contradictions(load: Callable[..., Contract]) -> None:
    with pytest.raises(ContractError, match=r"calendar\.dispute_days: shorter than review_days"):
        load(calendar={"review_days": 30, "dispute_days": 20})
    with pytest.raises(ContractError, match=r"calendar\.interim: cuts are at ends of months"):
        load(
            period={"start": date(2024, 1, 15), "end": date(2024, 12, 31)},
            calendar={"interim": "quarterly"},
        )
