"""Medicare Shared Savings Program: a level's terms, as the program sets them, settled as shared savings.

What a level shares, caps and limits is data (``contracts/programmes/mssp.toml``); the contract states what is its own:
level, year, elections, how the quality performance standard was met, revenue, disasters, advance payments.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any, Literal

from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.facts import Needs
from fhir_gateway.contracts.arrangements.mssp_benchmark import HistoricalBenchmark
from fhir_gateway.contracts.arrangements.mssp_rules import Level, MsspYear, mssp_rules, mssp_year
from fhir_gateway.contracts.arrangements.shared_savings import SharedSavings
from fhir_gateway.contracts.arrangements.shared_savings_cost import Expenditures
from fhir_gateway.contracts.arrangements.shared_savings_parts import Disaster, EquityBonus, Guardrail, Target
from fhir_gateway.contracts.scoring import ONE, ZERO
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.social_risk import SOCIAL_RISK_SCHEMA
from fhir_gateway.contracts.statements import percent
from fhir_gateway.contracts.terms import Fraction, MeasureTerms, Money
from fhir_gateway.errors import ContractError


@arrangement("mssp")
class SharedSavingsProgram(ArrangementTerms):
    """An agreement of the Shared Savings Program, for one performance year."""

    kind: Literal["mssp"]
    performance_year: int = Field(ge=2012)
    level: str = Field(description="A to E, EN, 1, 1+, 2 or 3, or the level's full name.")
    agreement_start: date | None = Field(default=None, description="Relief below the msr depends on it.")
    year_of_agreement: int | None = Field(default=None, ge=1, description="Track 2 limits its losses by it.")
    low_revenue: bool = False
    target: Target | None = Field(default=None, description="Updated benchmark, when it is agreed.")
    benchmark: HistoricalBenchmark | None = Field(default=None, description="Or built from claims and tables.")
    expenditures: Expenditures | None = None
    election: Fraction | None = Field(default=None, description="Minimum rate chosen; default the variable one.")
    msr: Fraction | None = Field(default=None, description="Minimum rate as notified, in place of the computed one.")
    standard: Literal["determined", "met", "alternative", "failed"] = Field(
        default="determined", description="Quality performance standard: as notified, or determined from the score."
    )
    percentile: Fraction | None = Field(default=None, description="Score of the standard, if the rules have none.")
    alternative_met: bool = Field(default=False, description="An outcome measure reached the tenth percentile.")
    incentive_met: bool = Field(default=False, description="Reported all electronic measures, with their percentiles.")
    first_year_reported: bool = Field(default=False, description="First year of a first agreement, fully reported.")
    disaster_affected: bool = Field(default=False, description="The score counts as at least the percentile.")
    equity: EquityBonus | None = None
    revenue: Money | None = Field(default=None, description="Participants' Medicare revenue: limits BASIC losses.")
    disaster: Disaster | None = Field(default=None, description="In place of the year's public health emergency.")
    relief_amount: Money = Field(default=ZERO, description="Losses forgiven after disasters, as notified.")
    guardrail: Guardrail | None = None
    participation_months: int = Field(default=12, ge=1, le=12)
    advances: Money = Field(default=ZERO, description="Advance investment payments outstanding.")
    sequestration: Fraction | None = Field(default=None, description="In place of the year's.")

    metrics = SharedSavings.metrics

    def stream(self) -> str:
        """Gated on quality."""
        return "ssq"

    def uses_quality(self) -> bool:
        """Always."""
        return True

    def needs(self) -> Needs:
        """Claim lines and tables of what is built from them."""
        needs = self.expenditures.needs() if self.expenditures else Needs()
        if self.benchmark:
            needs |= self.benchmark.needs()
        table = self.equity.table if self.equity else None
        return needs | Needs.of_people(table, SOCIAL_RISK_SCHEMA) if table else needs

    def needs_baseline(self) -> bool:
        """Whether the target is last year's cost."""
        return self.target is not None and self.target.kind == "prior_year" and self.target.amount is None

    def problems(self) -> list[str]:
        """Terms that contradict each other, or the program."""
        where = self.where
        found: list[str] = []
        if (self.target is None) == (self.benchmark is None):
            found.append(f"{where}.target: needs one of target and benchmark")
        if self.benchmark is not None:
            found += self.benchmark.problems(f"{where}.benchmark")
            if self.expenditures is not None:
                found.append(f"{where}.expenditures: the benchmark computes them")
            if self.benchmark.year != self.performance_year:
                found.append(f"{where}.benchmark.year: is not the performance year")
        try:
            level, year = mssp_rules().level(self.level), mssp_year(self.performance_year)
        except ContractError as error:
            return [*found, f"{where}.{error.message}"]
        if self.election is not None and not level.two_sided:
            found.append(f"{where}.election: level {level.level} is one-sided, its minimum rate is the variable one")
        if self.election is not None and self.election not in mssp_rules().election.rates:
            rates = ", ".join(percent(rate) for rate in mssp_rules().election.rates)
            found.append(f"{where}.election: can be {rates}, or be left out for the variable rate")
        if self.equity is not None:
            found += self.equity.problems(f"{where}.equity")
            first, last = mssp_rules().equity_years
            if not first <= self.performance_year <= last:
                found.append(f"{where}.equity: the program had it from {first} to {last}")
        if self.standard == "determined" and year.quality != "score" and self._percentile(year) is None:
            found.append(f"{where}.percentile: is not shipped for {self.performance_year}; state it, or the standard")
        if self.standard == "alternative" and year.quality != "alternative":
            found.append(f"{where}.standard: there was no alternative standard in {self.performance_year}")
        if self.disaster is not None and self.relief_amount:
            found.append(f"{where}.relief_amount: losses are forgiven twice")
        if not level.two_sided:
            given: dict[str, object] = {"revenue": self.revenue, "disaster": self.disaster, "guardrail": self.guardrail}
            given["relief_amount"] = self.relief_amount
            found += [f"{where}.{name}: there are no losses to share" for name, value in given.items() if value]
        if not found and self.target is not None:
            found += self.settled_as(self.target).problems()
        return found

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """The level's share, then as shared savings."""
        level, year = mssp_rules().level(self.level), mssp_year(self.performance_year)
        formula = f"level {level.level} ({level.trust}), {self.performance_year}: {year.source} ({year.trust})"
        ledger.add("level-share", level.share, "Highest sharing rate", formula, f"{self.where}.level", unit="1")
        if self.benchmark is not None:
            inputs, target, guardrail = self.benchmark.build(inputs, f"{self.where}.benchmark", ledger)
            if level.two_sided and guardrail is not None:
                self.settled_as(target, guardrail).settle(inputs, measures, ledger)
                return
        elif self.target is not None:
            target = self.target
        else:
            raise ContractError(f"{self.where}.target: needs one of target and benchmark")
        self.settled_as(target).settle(inputs, measures, ledger)

    def settled_as(self, target: Target, guardrail: Guardrail | None = None) -> SharedSavings:
        """The shared savings terms that the program's rules come to."""
        level, year = mssp_rules().level(self.level), mssp_year(self.performance_year)
        return SharedSavings.model_validate(
            {
                "kind": "shared_savings",
                "id": self.id,
                "pool": self.pool,
                "target": target,
                "expenditures": self.expenditures,
                "corridor": self._corridor(level),
                "rate": level.share,
                "quality": self._quality(year),
                "sequestration": year.sequestration if self.sequestration is None else self.sequestration,
                "cap": level.cap,
                "fees": self.revenue if level.limit_of_revenue else None,
                "losses": self._losses(level, year),
                "guardrail": guardrail or self.guardrail,
                "participation_months": self.participation_months,
                "advances": self.advances,
            }
        )

    def _corridor(self, level: Level) -> dict[str, Any]:
        fixed = self.msr if self.msr is not None else self.election
        corridor: dict[str, Any] = {"kind": "variable"} if fixed is None else {"kind": "fixed", "msr": fixed}
        relief = mssp_rules().low_revenue_relief
        starts = self.agreement_start
        if self.low_revenue and level.family in relief.families and starts and starts >= relief.starts_from:
            corridor |= {"relief_share": relief.share, "relief_members": relief.beneficiaries}
        return corridor

    def _percentile(self, year: MsspYear) -> Decimal | None:
        return year.percentile if self.percentile is None else self.percentile

    def _quality(self, year: MsspYear) -> dict[str, Any]:
        """Full share, share by score, or none."""
        percentile = self._percentile(year)
        quality: dict[str, Any] = {"equity": self.equity, "mode": "gate", "gate": ZERO}
        if self.disaster_affected and percentile is not None:
            quality["least"] = percentile
        if self.standard == "failed":
            return {"mode": "ladder", "steps": ({"at": ZERO, "points": ZERO},)}
        if year.quality == "score":
            return {"mode": "multiplicative"}
        if self.standard == "alternative":
            return quality | {"gate": ONE, "below_gate": "multiplicative"}
        if self.standard == "met" or self.incentive_met or self.first_year_reported:
            return quality
        below = "multiplicative" if self.alternative_met and year.quality == "alternative" else "nothing"
        return quality | {"gate": percentile, "below_gate": below}

    def _losses(self, level: Level, year: MsspYear) -> dict[str, Any] | None:
        if level.loss is None:
            return None
        disaster = self.disaster
        if disaster is None and not self.relief_amount and year.emergency_months:
            disaster = Disaster(months=year.emergency_months, share=ONE)
        losses: dict[str, Any] = {
            "rate": level.loss,
            "limit": level.loss_limit(self.year_of_agreement),
            "disaster": disaster,
            "relief_amount": self.relief_amount,
        }
        if level.loss_floor is not None:
            losses |= {"quality_adjusted": True, "floor": level.loss_floor}
        if level.limit_of_revenue and self.revenue is not None:
            losses["limit_of_fees"] = level.limit_of_revenue
        return losses
