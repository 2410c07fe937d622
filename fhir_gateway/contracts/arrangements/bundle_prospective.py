"""Prospective bundle: one price for an episode to the contracting entity, which pays everybody else out of it.

What the payer paid for services of the episode anyway is taken off, and so is what it paid for complications in the
warranty after the window. How the price is shared is told by parts or by what services cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal

from pydantic import Field

from fhir_gateway.contracts.apportion import apportion_by
from fhir_gateway.contracts.arrangements.base import SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.episode_ledger import Group, add_population, add_prices, groups, pay, total
from fhir_gateway.contracts.arrangements.episode_terms import EpisodeTerms
from fhir_gateway.contracts.episodes.reconciliation import ZERO
from fhir_gateway.contracts.episodes.service import costs_by_category
from fhir_gateway.contracts.settlement import QUANTUM, Ledger, Number, publish
from fhir_gateway.contracts.terms import Fraction, MeasureTerms, Terms


class Allocation(Terms):
    """How the price is shared: by ``parts`` that sum to 1, or by what each category cost (``claims``)."""

    by: Literal["parts", "claims"]
    parts: Mapping[str, Fraction] = {}


@arrangement("bundle_prospective")
class BundleProspective(EpisodeTerms):
    """Terms of a bundle at a negotiated price."""

    kind: Literal["bundle_prospective"]
    net_of_claims: bool = Field(default=True, description="What was paid for services of the episodes is taken off.")
    warranty_days: int = Field(
        default=0, ge=0, le=365, description="Days after the window in which complications are on the entity."
    )
    allocation: Allocation | None = None

    metrics = ("eligible-member", "revenue", "paid-claim", "variance-cost")

    def uses_quality(self) -> bool:
        """Quality plays no part."""
        return False

    def post_days(self) -> int:
        """The warranty."""
        return self.warranty_days

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        found = super().problems()
        if self.price.kind != "given":
            found.append(f"{self.where}.price.kind: a negotiated price is given")
        if self.warranty_days and self.episode is not None and not self.episode.complications:
            found.append(f"{self.where}.warranty_days: episode.complications does not say what it covers")
        if self.allocation is not None:
            whole = sum(self.allocation.parts.values(), ZERO)
            if self.allocation.by == "parts" and whole != 1:
                found.append(f"{self.where}.allocation.parts: sum to {whole}, not 1")
            if self.allocation.by == "claims" and self.allocation.parts:
                found.append(f"{self.where}.allocation.parts: it is shared by claims")
        return found

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Prices, claims paid, warranty, payable, allocation."""
        del measures
        reckoned = self.reckon(inputs)
        add_population(ledger, self, reckoned)
        add_prices(ledger, self, reckoned)
        names = sorted(reckoned.multipliers)
        sums = groups(reckoned.standing)
        prices: list[Number] = []
        amounts: list[Number] = []
        for name in names:
            prefix = "" if len(names) == 1 else f"{name}."
            price, amount = self._entity(ledger, prefix, [group for group in sums if group.entity == name])
            prices.append(price)
            amounts.append(amount)
        revenue = total(ledger, "prices", prices, "Prices of all episodes", f"{self.where}.price", "revenue")
        if self.allocation is not None:
            costs = costs_by_category(reckoned.standing)
            self._allocate(ledger, revenue, costs)
        net = total(ledger, "net", amounts, "Owed for all episodes", self.where)
        pay(ledger, self, net, reckoned, "Prices less what was paid", "variance-cost")

    def _entity(self, ledger: Ledger, prefix: str, mine: list[Group]) -> tuple[Number, Number]:
        where = self.where
        lines = []
        for group in mine:
            name = f"{prefix}{group.family}.{group.price_group}"
            label = f"{group.family} {group.price_group}"
            count = ledger.add(
                f"{name}.episodes",
                Decimal(group.episodes),
                f"{label}: episodes",
                "that stand",
                where,
                unit="{episodes}",
            )
            formula = "sum over episodes of price x multiplier"
            lines.append(
                ledger.add(f"{name}.price", group.target, f"{label}: prices", formula, f"{where}.price", (count,))
            )
        price = amount = total(ledger, f"{prefix}revenue", lines, "Prices", f"{where}.price")
        if self.net_of_claims:
            spent = sum((group.spending for group in mine), ZERO)
            term = f"{where}.net_of_claims"
            claims = ledger.add(
                f"{prefix}claims", spent, "Paid for services of the episodes", "claims in the windows", term,
                metric="paid-claim" if not prefix else None,
            )  # fmt: skip
            amount = ledger.add(
                f"{prefix}less-claims",
                amount.value - spent,
                "Prices less claims",
                "prices - claims",
                term,
                (amount, claims),
            )
        if self.warranty_days:
            spent = sum((group.after_complications for group in mine), ZERO)
            term = f"{where}.warranty_days"
            warranty = ledger.add(
                f"{prefix}warranty",
                spent,
                "Paid for complications under warranty",
                f"{self.warranty_days} days after the windows",
                term,
            )
            amount = ledger.add(
                f"{prefix}less-warranty",
                amount.value - spent,
                "Less the warranty",
                "difference",
                term,
                (amount, warranty),
            )
        return price, amount

    def _allocate(self, ledger: Ledger, revenue: Number, costs: dict[str, Decimal]) -> None:
        allocation = self.allocation
        if allocation is None:
            return
        weights = (
            allocation.parts if allocation.by == "parts" else {name: cost for name, cost in costs.items() if cost > 0}
        )
        whole = publish(revenue.value, ledger.rounding)
        for name, part in apportion_by(whole, weights, QUANTUM[ledger.rounding]).items():
            formula = f"weight {weights[name]} of {sum(weights.values(), ZERO)}, largest remainder"
            ledger.add(
                f"allocated.{name}", part, f"Of the prices to {name}", formula, f"{self.where}.allocation", (revenue,)
            )
