"""Shared savings and losses: cost of the attributed members against a target.

Order of operations (Medicare Shared Savings Program, 42 CFR 425.605; commercial contracts use the same parts):
target x exposure -> gross = target - cost -> rate = gross / target -> corridor -> share by quality -> sequestration ->
cap -> payable. Losses: gross x loss rate -> limit -> relief. Rates are never rounded on the way.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.capitation_terms import SCORES_SCHEMA
from fhir_gateway.contracts.arrangements.facts import Needs
from fhir_gateway.contracts.arrangements.shared_savings_cost import Expenditures
from fhir_gateway.contracts.arrangements.shared_savings_parts import (
    CarryForward,
    Corridor,
    Guardrail,
    Losses,
    PositiveFraction,
    Quality,
    Target,
    Tier,
    tier_problems,
)
from fhir_gateway.contracts.arrangements.shared_savings_steps import Reconciliation
from fhir_gateway.contracts.scoring import ZERO
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.social_risk import SOCIAL_RISK_SCHEMA
from fhir_gateway.contracts.terms import Fraction, MeasureTerms, Money


@arrangement("shared_savings")
class SharedSavings(ArrangementTerms):
    """Terms of a shared savings arrangement; two-sided when ``losses`` is given."""

    kind: Literal["shared_savings"]
    target: Target
    expenditures: Expenditures | None = Field(default=None, description="Exclusions, pooling; default none.")
    corridor: Corridor = Corridor()
    rate: Fraction | None = Field(default=None, description="Share of savings at full quality.")
    tiers: tuple[Tier, ...] = Field(default=(), description="Shares by savings rate, in place of one rate.")
    tier_basis: Literal["slice", "whole"] = Field(
        default="slice", description="A tier's share is of the savings within it, or of all once it is reached."
    )
    quality: Quality = Quality()
    sequestration: Fraction = ZERO
    cap: PositiveFraction | None = Field(default=None, description="Of the target.")
    cap_amount: Money | None = Field(default=None, description="Most that is paid.")
    cap_of_fees: PositiveFraction | None = Field(default=None, description="Of `fees`.")
    fees: Money | None = Field(default=None, description="The provider's revenue under the contract.")
    floor: Money = Field(default=ZERO, description="Savings payments below it are not made.")
    losses: Losses | None = None
    min_members: int = Field(default=0, ge=0, description="Below it nothing is shared.")
    carry_forward: CarryForward | None = None
    guardrail: Guardrail | None = None
    participation_months: int = Field(default=12, ge=1, le=12, description="Months of the year under the contract.")
    advances: Money = Field(default=ZERO, description="Advance payments not yet made good, kept back from savings.")

    metrics = (
        *("eligible-member", "member-months", "paid-claim", "adjusted-paid-claim", "med-cost", "med-cost-pmpm"),
        *("med-cost-pmpm-target", "cost-target", "variance-cost", "quality-gate-percentage"),
        *("quality-gate-performance-percentage", "potential-upside-ssl", "potential-downside-ssl"),
        "shared-saving-deficit",
    )

    def stream(self) -> str:
        """Gated on quality (``ssq``) or a plain share (``ssp``)."""
        return "ssq" if self.uses_quality() else "ssp"

    def uses_quality(self) -> bool:
        """Whether the share, and with it a quality adjusted loss rate, depends on quality."""
        return self.quality.mode != "none"

    def needs(self) -> Needs:
        """Claim lines where cost is not the plain sum."""
        needs = self.expenditures.needs() if self.expenditures else Needs()
        equity = self.quality.equity
        if self.target.risk and self.target.risk.scores:
            needs |= Needs.of_people(self.target.risk.scores, SCORES_SCHEMA)
        return needs | Needs.of_people(equity.table, SOCIAL_RISK_SCHEMA) if equity and equity.table else needs

    def needs_baseline(self) -> bool:
        """Whether last year's cost must be computed."""
        return self.target.kind == "prior_year" and self.target.amount is None

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        where, two_sided = self.where, self.losses is not None
        found = self.target.problems(f"{where}.target")
        found += self.corridor.problems(f"{where}.corridor", two_sided)
        found += self.quality.problems(f"{where}.quality")
        if (self.rate is None) == (not self.tiers):
            found.append(f"{where}.rate: needs one of rate and tiers")
        found += tier_problems(f"{where}.tiers", self.tiers, self.tier_basis)
        total = self.target.amount if self.target.kind == "total" else None
        if self.cap is not None and total is not None and self.floor > self.cap * total:
            found.append(f"{where}.cap: below the floor, nothing could ever be paid")
        if self.losses:
            found += self.losses.problems(f"{where}.losses", self.quality)
            if self.losses.quality_adjusted and self.rate is None:
                found.append(f"{where}.losses.quality_adjusted: needs a rate of savings")
        if self.carry_forward:
            found += self.carry_forward.problems(f"{where}.carry_forward", two_sided)
        if self.guardrail:
            found += self.guardrail.problems(f"{where}.guardrail", two_sided)
        of_fees = self.cap_of_fees is not None or (self.losses is not None and self.losses.limit_of_fees is not None)
        if of_fees != (self.fees is not None):
            found.append(f"{where}.fees: belongs to cap_of_fees or losses.limit_of_fees, and they need it")
        return found

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Target, cost, corridor, quality, share or loss, payable (see :class:`Reconciliation`)."""
        Reconciliation(self, inputs, measures, ledger).run()
