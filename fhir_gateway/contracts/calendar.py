"""When a contract is settled: interim cuts, final run-out, windows for review and disputes, days to pay.

Calendars differ by programme (CMS reports quarterly and settles once, commercial contracts settle quarterly and true up
6 to 12 months later): every length is a term.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Literal

from pydantic import Field

from fhir_gateway.contracts.terms import Fraction, Terms

ONE = Decimal(1)
_MONTHS = {"none": 0, "monthly": 1, "quarterly": 3, "semiannual": 6}


class Calendar(Terms):
    """The reconciliation calendar of a contract; days are calendar days."""

    interim: Literal["none", "monthly", "quarterly", "semiannual"] = Field(
        default="none", description="How often it is settled for the year so far, before the final settlement."
    )
    interim_runout_days: int = Field(default=60, ge=0, description="Payments up to so long after a cut count for it.")
    interim_share: Fraction = Field(
        default=ONE,
        description="Part of what an interim settlement finds that is paid then; the rest is held back.",
    )
    interim_losses: bool = Field(default=False, description="Whether interim losses are collected.")
    review_days: int = Field(default=30, ge=0, description="Days from the notice until a settlement can be final.")
    dispute_days: int = Field(default=45, ge=0, description="Days from the notice in which a line can be disputed.")
    response_days: int = Field(default=30, ge=0, description="Days to answer a dispute.")
    payment_days: int = Field(default=30, ge=0, description="Days from the notice until the payer pays.")
    repayment_days: int = Field(default=90, ge=0, description="Days from the notice until the provider pays.")

    def cuts(self, start: date, end: date) -> tuple[Cut, ...]:
        """The interim cuts of a period that starts with a month, the last one before its end."""
        step = _MONTHS[self.interim]
        found: list[Cut] = []
        while step:
            through = _month_after(start, step * (len(found) + 1)) - timedelta(days=1)
            if through >= end:
                break
            found.append(Cut(through, through + timedelta(days=self.interim_runout_days)))
        return tuple(found)

    def problems(self, start: date) -> list[str]:
        """Contradictions, as ``term: message``."""
        if self.interim != "none" and start.day != 1:
            return ["calendar.interim: cuts are at ends of months, and period.start is not the first of one"]
        if self.dispute_days < self.review_days:
            return [
                "calendar.dispute_days: shorter than review_days, what is final could still not be disputed in full"
            ]
        return []


@dataclass(frozen=True, slots=True)
class Cut:
    """How much of a period a settlement is about: services up to ``through``, payments up to ``paid_through``."""

    through: date
    paid_through: date


@dataclass(frozen=True, slots=True)
class Deadlines:
    """What is due when, counted from the day of the notice: last days of review, of disputes, of payment."""

    review: date
    dispute: date
    payment: date


def deadlines(calendar: Calendar, notice: date, owed_by_payer: bool) -> Deadlines:
    """The deadlines of a settlement whose notice was given on a day."""
    days = calendar.payment_days if owed_by_payer else calendar.repayment_days
    return Deadlines(
        review=notice + timedelta(days=calendar.review_days),
        dispute=notice + timedelta(days=calendar.dispute_days),
        payment=notice + timedelta(days=days),
    )


def _month_after(day: date, months: int) -> date:
    """The first of a later month, from the first of one."""
    count = day.year * 12 + day.month - 1 + months
    return date(count // 12, count % 12 + 1, 1)
