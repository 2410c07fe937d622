"""Case rates by tier: an amount per client and period, by the tier that an assessment says."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.arrangements.audited import AuditedTerms
from fhir_gateway.contracts.arrangements.base import Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.case_rate_rows import case_rows
from fhir_gateway.contracts.arrangements.facts import Needs
from fhir_gateway.contracts.audit import AMOUNT, ZERO, totals
from fhir_gateway.contracts.scoring import ladder_problems
from fhir_gateway.contracts.service_categories import CATEGORY_COLUMNS, code_problems
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.statements import add_exposure
from fhir_gateway.contracts.terms import Fraction, MeasureTerms, Money, Terms

#: Assessments of members: a tier, or the score of an instrument (an Observation's or a QuestionnaireResponse's).
ASSESSMENT_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("effective_from", pa.date32(), nullable=False),
        pa.field("tier", pa.string()),
        pa.field("instrument", pa.string()),
        pa.field("score", AMOUNT),
    ]
)
#: Periods, by any of their days, of members whose documentation is missing.
DOCUMENTATION_SCHEMA = pa.schema(
    [pa.field("member", pa.string(), nullable=False), pa.field("day", pa.date32(), nullable=False)]
)


class TierRate(Terms):
    """The rate of a tier per period, of periods that begin on ``effective_from`` or later."""

    tier: str
    rate: Money
    effective_from: date | None = None


class CutPoint(Terms):
    """From a score of ``at`` on, the tier."""

    at: Decimal
    tier: str


class Contacts(Terms):
    """Days with a service that qualifies; conditions as in service categories, none for any service."""

    procedure: tuple[str, ...] = ()
    revenue_code: tuple[str, ...] = ()
    drg: tuple[str, ...] = ()
    place_of_service: tuple[str, ...] = ()
    bill_type: tuple[str, ...] = ()
    claim_type: tuple[str, ...] = ()
    specialty: tuple[str, ...] = ()


class Outlier(Terms):
    """Of the cost above ``multiple`` times what the case pays, ``share`` is paid too."""

    multiple: Annotated[Decimal, Field(ge=1)]
    share: Fraction
    amount: Literal["paid", "allowed", "submitted"] = "allowed"


@arrangement("case_rate")
class CaseRate(AuditedTerms):
    """Terms of case rates. A case is a member and a period with a month that counts."""

    kind: Literal["case_rate"]
    period: Literal["month", "quarter", "year"] = "month"
    rates: tuple[TierRate, ...] = Field(min_length=1)
    assessments: str = Field(default="assessments", description="Table of tiers or scores of members.")
    instrument: str | None = Field(default=None, description="Only its assessments count.")
    cut_points: tuple[CutPoint, ...] = Field(default=(), description="Tiers by score, for rows without a tier.")
    valid_months: int | None = Field(default=None, ge=1, description="An assessment holds no longer than this.")
    tier_change: Literal["next_period", "prorate", "higher_of"] = "next_period"
    min_contacts: int = Field(default=0, ge=0, description="Days with a qualifying service; 0: enrolment is enough.")
    contacts: Contacts = Contacts()
    tins: tuple[str, ...] = Field(default=(), description="TINs whose services qualify and cost; none: anybody's.")
    partial: Literal["full", "months", "full_with_contacts"] = Field(
        default="full", description="Of periods with fewer months: all; the part of months; all with enough contacts."
    )
    full_contacts: int | None = Field(default=None, ge=1)
    outlier: Outlier | None = None
    documentation: str | None = Field(default=None, description="Table of cases that are not documented.")
    claw_back: Fraction = Field(default=Decimal(1), description="The part of such a case that is taken back.")
    advance: Money = Decimal(0)

    metrics = ("eligible-member", "member-months", "earnings-cap")

    def stream(self) -> str:
        """Episode of care."""
        return "eoc"

    def uses_quality(self) -> bool:
        """Quality plays no part."""
        return False

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        where = self.where
        found = code_problems(self.contacts, f"{where}.contacts")
        keys = [(one.tier, one.effective_from) for one in self.rates]
        found += [f"{where}.rates: tier '{key[0]}' has two rates at once" for key in {*keys} if keys.count(key) > 1]
        tiers = {one.tier for one in self.rates}
        found += [
            f"{where}.cut_points: there is no rate of tier '{one.tier}'"
            for one in self.cut_points
            if one.tier not in tiers
        ]
        found += ladder_problems(f"{where}.cut_points", [(one.at, ZERO) for one in self.cut_points])
        if (self.partial == "full_with_contacts") != (self.full_contacts is not None):
            found.append(f"{where}.full_contacts: goes with partial = 'full_with_contacts'")
        if self.min_contacts == 0 and self.partial != "full_with_contacts" and self.contacts != Contacts():
            found.append(f"{where}.contacts: nothing asks for contacts")
        return found

    def needs(self) -> Needs:
        """Assessments; claim lines where contacts or outliers count."""
        tables = {self.assessments: ASSESSMENT_SCHEMA}
        if self.documentation:
            tables[self.documentation] = DOCUMENTATION_SCHEMA
        lines: tuple[str, ...] = ()
        if self.counts_contacts or self.outlier is not None:
            lines = ("denied", "service_from", "tin", *CATEGORY_COLUMNS)
        if self.outlier is not None:
            lines = (*lines, self.outlier.amount)
        return Needs(lines=lines, tables=tables, people=True)

    @property
    def counts_contacts(self) -> bool:
        """Whether contacts decide anything."""
        return self.min_contacts > 0 or self.partial == "full_with_contacts"

    def rows(self, inputs: SettlementInputs) -> pa.Table:
        """Cases (rule ``case``), ``outlier``, and ``claw-back``; the month is the first of the period."""
        return case_rows(self, inputs.columns())

    def carried_on(self) -> Carried:
        """By cases so far."""
        return "time"

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Cases by tier, outliers, claw-back, what was paid before; payable."""
        add_exposure(ledger, inputs.exposure)
        parts = []
        labels = {"case": "Cases", "outlier": "Outliers", "claw-back": "Taken back for missing documentation"}
        terms = {"case": "rates", "outlier": "outlier", "claw-back": "documentation"}
        found = totals(self.rows(inputs), ["rule", "cell", "status", "reason"])
        for number, ((rule, cell, status, reason), _, amount, count) in enumerate(found, start=1):
            what = f"{labels[rule]}, tier {cell or 'none'}" + (f": not paid, {reason}" if status == "unpaid" else "")
            term = f"{self.where}.{terms[rule]}"
            parts.append(ledger.add(f"{rule}.{number}", amount, what, f"sum of {count} rows", term))
        if self.advance:
            formula, term = "as paid, taken off", f"{self.where}.advance"
            parts.append(ledger.add("advance", -self.advance, "Paid already", formula, term))
        value = sum((part.value for part in parts), ZERO)
        due = ledger.add("balance", value, "Case rates due", "sum of its parts", self.where, parts)
        ledger.pay(due, "Case rates", self.where, "earnings-cap")
