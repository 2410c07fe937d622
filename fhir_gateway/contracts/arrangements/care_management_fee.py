"""Care management fees of medical homes: an amount per member month by level of recognition and risk tier."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Literal

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.arrangements.audited import AuditedTerms
from fhir_gateway.contracts.arrangements.base import Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.care_management_fee_rows import TIER_SCHEMA, fee_rows
from fhir_gateway.contracts.arrangements.facts import Needs
from fhir_gateway.contracts.arrangements.performance_adjustment import PerformanceAdjustment, add_adjustment
from fhir_gateway.contracts.audit import ZERO, totals
from fhir_gateway.contracts.programmes import ProgrammeYear, programme_year
from fhir_gateway.contracts.service_categories import malformed
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.statements import add_exposure
from fhir_gateway.contracts.terms import MeasureTerms, Money, Terms
from fhir_gateway.errors import ContractError

ROSTER_SCHEMA = pa.schema(
    [pa.field("member", pa.string(), nullable=False), pa.field("quarter", pa.date32(), nullable=False)]
)
#: Chronic care management (99490 family) and advanced primary care management: they pay for the same months. [M]: from
#: memory of the Physician Fee Schedule; a contract may state its own.
OVERLAPPING_CODES = ("99490", "99439", "99491", "99437", "99487", "99489", "G0556", "G0557", "G0558")


class Fee(Terms):
    """The fee of a level of recognition and a risk tier, where those count."""

    pmpm: Money
    level: str | None = None
    tier: str | None = None


class ProgrammeFees(ProgrammeYear):
    """Fees by risk tier of a public programme."""

    fees: tuple[Fee, ...] = Field(min_length=1)


class Programme(Terms):
    """Fees of a shipped programme in a year, instead of fees stated here."""

    name: Literal["cpc_plus_track_1", "cpc_plus_track_2"]
    year: int


class Recognition(Terms):
    """The practice's level of recognition; it counts for payments whose first day it is valid on."""

    level: str
    start: date
    end: date | None = None


class Overlap(Terms):
    """Months with services that are paid for the same: the ``fee`` is taken back, or what was ``paid`` for them."""

    codes: tuple[str, ...] = OVERLAPPING_CODES
    deduct: Literal["fee", "paid"] = "fee"
    tins: tuple[str, ...] = Field(default=(), description="TINs whose services count; none: anybody's.")


@arrangement("care_management_fee")
class CareManagementFee(AuditedTerms):
    """Terms of a care management fee, paid by the month or ahead by the quarter."""

    kind: Literal["care_management_fee"]
    fees: tuple[Fee, ...] = ()
    programme: Programme | None = None
    recognitions: tuple[Recognition, ...] = ()
    tiers: str | None = Field(default=None, description="Table of members' risk tiers.")
    default_tier: str | None = Field(default=None, description="Tier of who has none; without it nothing is paid.")
    payment: Literal["monthly", "prospective_quarterly"] = "monthly"
    roster: str | None = Field(default=None, description="Table of whom each quarter was paid for, ahead.")
    as_of: date | None = Field(default=None, description="Debits and credits are those of quarters before this day's.")
    retro_quarters: int = Field(default=2, ge=0, description="Quarters further back are not changed any more.")
    min_panel: int = Field(default=0, ge=0, description="Members below which a month or quarter is not paid.")
    overlap: Overlap | None = None
    adjustment: PerformanceAdjustment | None = None
    advance: Money = Decimal(0)

    metrics = ("eligible-member", "member-months", "ccf", "performance-ccf", "earnings-ccf")

    def stream(self) -> str:
        """Care coordination fee."""
        return "ccf"

    def uses_quality(self) -> bool:
        """Where there is a performance-based adjustment."""
        return self.adjustment is not None

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        where = self.where
        found = [] if bool(self.fees) != bool(self.programme) else [f"{where}.fees: either fees or a programme"]
        try:
            fees = self.agreed_fees()
        except ContractError as error:
            return [*found, f"{where}.programme.year: {error.message}"]
        for name, given in (("level", bool(self.recognitions)), ("tier", self.tiers is not None)):
            values = [getattr(fee, name) for fee in fees]
            if any((value is not None) != given for value in values):
                other = "recognitions" if name == "level" else "tiers"
                found.append(f"{where}.fees: each has a {name} where there are {other}, and none otherwise")
        keys = [(fee.level, fee.tier) for fee in fees]
        found += [f"{where}.fees: two of level {a} and tier {b}" for a, b in {*keys} if keys.count((a, b)) > 1]
        if self.default_tier is not None and self.default_tier not in {fee.tier for fee in fees}:
            found.append(f"{where}.default_tier: has no fee")
        in_order = sorted(self.recognitions, key=lambda one: one.start)
        if any(one.end is None or one.end >= after.start for one, after in pairwise(in_order)):
            found.append(f"{where}.recognitions: two hold at once")
        prospective = self.payment == "prospective_quarterly"
        if prospective != (self.as_of is not None):
            found.append(f"{where}.as_of: goes with payment = 'prospective_quarterly'")
        if self.roster is not None and not prospective:
            found.append(f"{where}.roster: goes with payment = 'prospective_quarterly'")
        if self.overlap is not None:
            found += malformed(self.overlap.codes, f"{where}.overlap.codes")
        return found + (self.adjustment.problems(f"{where}.adjustment") if self.adjustment else [])

    def agreed_fees(self) -> tuple[Fee, ...]:
        """The fees stated, or the programme's."""
        if self.programme is None:
            return self.fees
        return programme_year(self.programme.name, self.programme.year, ProgrammeFees).fees

    def carried_on(self) -> Carried:
        """By months, unless overlapping services are taken off."""
        if self.overlap is not None:
            raise self.not_carried("overlapping services that are taken off are still to come")
        return "months"

    def needs(self) -> Needs:
        """Tiers, rosters, and claim lines where services overlap."""
        tables = {} if self.tiers is None else {self.tiers: TIER_SCHEMA}
        if self.roster is not None:
            tables[self.roster] = ROSTER_SCHEMA
        lines = ("denied", "service_from", "tin", "procedure", "paid") if self.overlap else ()
        return Needs(lines=lines, tables=tables, people=True)

    def rows(self, inputs: SettlementInputs) -> pa.Table:
        """Fees (rule ``fee``), ``debit`` and ``credit`` of quarters paid ahead, ``overlap``."""
        return fee_rows(self, inputs.columns())

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Fees by level and tier, debits and credits, overlap, adjustment, what was paid before; payable."""
        add_exposure(ledger, inputs.exposure)
        labels = {"fee": "Fees", "debit": "Debit: not eligible", "credit": "Credit: eligible after all"}
        parts = []
        found = totals(self.rows(inputs), ["rule", "cell", "status", "reason"])
        for number, ((rule, cell, status, reason), quantity, amount, count) in enumerate(found, start=1):
            label = f"{labels.get(rule, 'Paid for the same otherwise')}, {cell}"
            if status != "paid":
                label += f": not paid, {reason}"
            formula = f"sum of {count} rows, {quantity.normalize():f} member months"
            term = f"{self.where}.{'overlap' if rule == 'overlap' else 'fees'}"
            line, what = f"{rule}.{number}", f"Member months: {label}"
            months = ledger.add(f"{line}.months", quantity, what, f"of {count} rows", term, unit="mo")
            parts.append(ledger.add(line, amount, label, formula, term, (months,)))
        value = sum((part.value for part in parts), ZERO)
        fees = ledger.add("fees", value, "Care management fees", "sum of rows", self.where, parts, metric="ccf")
        due = [fees]
        if self.adjustment is not None:
            due.append(add_adjustment(self.adjustment, fees, inputs, measures, ledger, f"{self.where}.adjustment"))
        if self.advance:
            formula, term = "as paid, taken off", f"{self.where}.advance"
            due.append(ledger.add("advance", -self.advance, "Paid already", formula, term))
        value = sum((part.value for part in due), ZERO)
        balance = ledger.add("balance", value, "Fees due", "sum of its parts", self.where, due)
        ledger.pay(balance, "Care management fees", self.where, "earnings-ccf")
