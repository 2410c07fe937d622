"""Certified community behavioral health clinics: a rate per day or month with a qualifying service, quality bonus."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.ccbhc_units import (
    ENCOUNTERS_SCHEMA,
    LINE_COLUMNS,
    POPULATIONS_SCHEMA,
    Rules,
    Sources,
    Units,
    count_units,
)
from fhir_gateway.contracts.arrangements.facts import Needs
from fhir_gateway.contracts.scoring import ONE, ZERO, composite, score_measures
from fhir_gateway.contracts.service_categories import malformed, overlap
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import add_measures, percent
from fhir_gateway.contracts.terms import Fraction, MeasureTerms, Money, Terms

STANDARD = "standard"


class CostReport(Terms):
    """A rate out of a cost report: allowable cost over the visits (days or months) that it covers, to the cent."""

    allowable_cost: Money
    visits: Annotated[Decimal, Field(gt=0)]

    @property
    def rate(self) -> Decimal:
        """Cost per visit."""
        return (self.allowable_cost / self.visits).quantize(Decimal("0.01"), ROUND_HALF_UP)


class Outlier(Terms):
    """Cost of a person in a month beyond ``threshold``, of which ``share`` is paid."""

    threshold: Money
    share: Fraction = ONE


class QualityBonus(Terms):
    """``rate`` of what the rates pay: when ``all`` measures are met, or in ``proportion`` to their points."""

    rate: Fraction
    pays: Literal["all", "proportion"] = "all"


@arrangement("ccbhc")
class Ccbhc(ArrangementTerms):
    """Terms of a prospective payment of a clinic.

    ``PPS-1``: the rate of ``standard`` per person and day with a qualifying service; ``PPS-2``: a rate per person and
    month, by population; ``PPS-3`` and ``PPS-4``: the same with rates of their own for crisis services.
    Services are claim lines of the clinic (and of organizations that work for it) with ``services`` codes, or rows of
    ``encounters_table``. Codes are written as in service categories (``90834``, ``99212-99215``,
    ``H2*``). What was paid for covered services otherwise is taken off: nothing is paid twice.
    """

    kind: Literal["ccbhc"]
    model: Literal["PPS-1", "PPS-2", "PPS-3", "PPS-4"]
    rates: dict[str, Money | CostReport] = Field(
        description="Rate by population, or the cost report it comes from; ``standard`` for everybody else."
    )
    trend: Annotated[Decimal, Field(gt=-1)] = Field(
        default=ZERO, description="Update of all rates for the period (Medicare Economic Index), rounded to cents."
    )
    crisis_rates: dict[str, Money] = Field(default={}, description="Rate by crisis service, e.g. mobile, on_site.")
    crisis_with_standard: bool = Field(
        default=True, description="Whether a day or month with a crisis service and another pays both."
    )
    services: tuple[str, ...] = Field(default=(), description="Procedure codes that qualify.")
    crisis_services: dict[str, str] = Field(
        default={}, description="Procedure codes -> crisis service, the first that matches."
    )
    per_diem_codes: tuple[str, ...] = Field(default=("T1040",), description="Lines that carry the rate itself.")
    covered_services: tuple[str, ...] | None = Field(
        default=None, description="Codes that must not be paid beside the rate; default the services."
    )
    tins: tuple[str, ...] = Field(
        default=(), description="Clinic and organizations that work for it, by TIN; others' services do not count."
    )
    members: Literal["attributed", "all"] = Field(
        default="attributed", description="Whose services count: of the roster, or of everybody the payer covers."
    )
    encounters_table: str | None = None
    populations_table: str | None = Field(default=None, description="Table (member, population, start, end).")
    outlier: Outlier | None = None
    bonus: QualityBonus | None = None

    metrics = (
        *("revenue", "paid-claim", "performance-qip", "earnings-cap", "earned-incentive"),
        *("quality-metric-performance-incentive",),
    )

    def stream(self) -> str:
        """Capitation of primary care is the nearest stream that there is."""
        return "pcpcp"

    def uses_quality(self) -> bool:
        """When there is a bonus."""
        return self.bonus is not None

    def needs(self) -> Needs:
        """Claim lines, or encounters; populations."""
        tables: dict[str, pa.Schema] = {}
        if self.encounters_table:
            tables[self.encounters_table] = ENCOUNTERS_SCHEMA
        if self.populations_table:
            tables[self.populations_table] = POPULATIONS_SCHEMA
        return Needs(lines=LINE_COLUMNS, tables=tables, people=self.members == "attributed")

    @property
    def monthly(self) -> bool:
        """Whether the unit is a month."""
        return self.model in ("PPS-2", "PPS-4")

    def problems(self) -> list[str]:
        """Terms that the model lacks or has no use for."""
        found = []
        crisis = self.model in ("PPS-3", "PPS-4")
        if STANDARD not in self.rates:
            found.append(f"{self.where}.rates: there is none for '{STANDARD}'")
        if crisis != bool(self.crisis_rates):
            found.append(f"{self.where}.crisis_rates: belong to PPS-3 and PPS-4")
        unrated = sorted(set(self.crisis_services.values()) - set(self.crisis_rates))
        found += [f"{self.where}.crisis_services: '{name}' has no rate" for name in unrated]
        if not self.monthly and (len(self.rates) > 1 or self.populations_table):
            found.append(f"{self.where}.rates: {self.model} has one rate for all populations")
        if not self.monthly and self.outlier is not None:
            found.append(f"{self.where}.outlier: belongs to PPS-2 and PPS-4")
        if self.monthly and self.bonus is None:
            found.append(f"{self.where}.bonus: {self.model} requires a quality bonus")
        if (self.encounters_table is None) != bool(self.services):
            found.append(f"{self.where}.services: either procedure codes or encounters_table")
        if self.services and not self.tins:
            found.append(f"{self.where}.tins: are needed to know whose claim lines count")
        for name in ("services", "crisis_services", "covered_services", "per_diem_codes"):
            found += malformed(getattr(self, name) or (), f"{self.where}.{name}")
        services = {*self.services, *self.crisis_services, *(self.covered_services or ())}
        found += [
            f"{self.where}.per_diem_codes: '{code}' is a service too"
            for code in sorted(set(self.per_diem_codes))
            if any(overlap(code, service) for service in services)
        ]
        return found

    def carried_on(self) -> Carried:
        """By visits so far."""
        return "services"

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Units times rates, outliers, less what was paid otherwise, bonus."""
        facts = inputs.columns()
        populations = facts.table(self.populations_table) if self.populations_table else None
        encounters = facts.table(self.encounters_table) if self.encounters_table else None
        members = facts.people.select(["member"]) if self.members == "attributed" else None
        rules = Rules(
            monthly=self.monthly,
            services=self.services,
            crisis_services=self.crisis_services,
            covered=(*self.services, *self.crisis_services) if self.covered_services is None else self.covered_services,
            per_diem_codes=self.per_diem_codes,
            tins=self.tins,
            rated=tuple(self.rates),
            crises=tuple(self.crisis_rates),
            crisis_with_standard=self.crisis_with_standard,
            outlier=None if self.outlier is None else self.outlier.threshold,
        )
        units = count_units(Sources(facts.lines, encounters, populations, members, facts.period), rules)
        due = self._due(units, ledger)
        where = self.where
        rates = ledger.add(
            "paid-rates",
            -units.per_diem_paid,
            "Paid as rates already",
            f"{units.per_diem_lines} claim lines in the period",
            f"{where}.per_diem_codes",
            metric="paid-claim",
        )
        services = ledger.add(
            "paid-services",
            -units.service_paid,
            "Paid for covered services",
            f"{units.service_lines} claim lines in the period: nothing is paid twice",
            f"{where}.covered_services",
            metric="paid-claim",
        )
        parts = [due, rates, services]
        if self.bonus is not None:
            parts.append(self._bonus(self.bonus, due, inputs, measures, ledger))
        total = sum((number.value for number in parts), ZERO)
        rest = ledger.add("remaining", total, "Still due", "due - what was paid + bonus", where, parts)
        ledger.pay(rest, "Prospective payment", where, "earnings-cap")

    def _due(self, units: Units, ledger: Ledger) -> Number:
        unit = "months" if self.monthly else "days"
        lines = []
        for name, count in sorted(units.standard.items()):
            stated = self.rates[name]
            rate = self._updated(stated.rate if isinstance(stated, CostReport) else stated)
            lines.append(self._units_line(f"rate.{name}", f"{name}: person {unit}", count, rate, "rates", ledger))
        for name, count in sorted(units.crisis.items()):
            rate = self._updated(self.crisis_rates[name])
            label = f"crisis, {name}: person {unit}"
            lines.append(self._units_line(f"crisis.{name}", label, count, rate, "crisis_rates", ledger))
        if self.outlier is not None:
            lines.append(
                ledger.add(
                    "outlier",
                    units.outlier_cost * self.outlier.share,
                    "Outlier months",
                    f"{percent(self.outlier.share)} of {units.outlier_cost:f} beyond {self.outlier.threshold} in"
                    f" {units.outlier_months} person months",
                    f"{self.where}.outlier",
                )
            )
        total = sum((line.value for line in lines), ZERO)
        return ledger.add("due", total, "Due", "sum of rates and outliers", self.where, lines, metric="revenue")

    def _updated(self, rate: Decimal) -> Decimal:
        return (rate * (ONE + self.trend)).quantize(Decimal("0.01"), ROUND_HALF_UP) if self.trend else rate

    def _units_line(self, name: str, label: str, count: int, rate: Decimal, term: str, ledger: Ledger) -> Number:
        unit = "mo" if self.monthly else "d"
        counted = ledger.add(
            f"{name}.units", Decimal(count), label, "with a qualifying service, each once", self.where, unit=unit
        )
        return ledger.add(
            f"{name}.amount", count * rate, label.split(":")[0], f"{rate} x units", f"{self.where}.{term}", (counted,)
        )

    def _bonus(
        self,
        terms: QualityBonus,
        due: Number,
        inputs: SettlementInputs,
        measures: tuple[MeasureTerms, ...],
        ledger: Ledger,
    ) -> Number:
        scored = score_measures(measures, inputs.outcomes, "reweight")
        weighted = add_measures(ledger, scored)
        met = [entry for entry in scored if entry.points == 1]
        share = composite(scored) or ZERO
        note = "sum of weighted points"
        if terms.pays == "all":
            share = ONE if len(met) == len(scored) else ZERO
            note = f"{len(met)} of {len(scored)} measures met: " + ("all" if share else "all are needed")
        quality = ledger.add(
            "quality",
            share,
            "Quality",
            note,
            f"{self.where}.bonus.pays",
            weighted,
            unit="1",
            metric="performance-qip",
        )
        formula = f"{percent(terms.rate)} of what is due x quality"
        return ledger.add(
            "bonus",
            terms.rate * due.value * quality.value,
            "Quality bonus",
            formula,
            f"{self.where}.bonus",
            (due, quality),
            metric="earned-incentive",
        )
