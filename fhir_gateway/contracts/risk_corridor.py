"""Risk corridors: who bears which part of a cost's deviation from its target, and deficits of the years before."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from fhir_gateway.contracts.audit import ZERO
from fhir_gateway.contracts.bands import Band, band_parts, band_problems
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import percent
from fhir_gateway.contracts.terms import Money, Terms


class DeadBand(Terms):
    """The first part of a deviation, that nobody shares: its ``bearer`` keeps savings and bears losses alone."""

    through: Annotated[Decimal, Field(gt=0)]
    bearer: Literal["provider", "plan"]


class CorridorTerms(Terms):
    """Bands of losses and of savings; without bands of savings those of losses hold for both."""

    dead_band: DeadBand | None = None
    losses: tuple[Band, ...]
    savings: tuple[Band, ...] | None = None

    def bands(self, direction: Literal["losses", "savings"]) -> tuple[Band, ...]:
        """The bands of a direction, the dead band first."""
        shared = self.losses if direction == "losses" or self.savings is None else self.savings
        if self.dead_band is None:
            return shared
        return (Band(through=self.dead_band.through, share=Decimal(self.dead_band.bearer == "provider")), *shared)

    def problems(self, where: str) -> list[str]:
        """Terms that contradict each other."""
        found = band_problems(f"{where}.losses", self.bands("losses"))
        return found if self.savings is None else found + band_problems(f"{where}.savings", self.bands("savings"))


class PriorDeficit(Terms):
    """A deficit of a year before that was carried forward."""

    year: int
    amount: Money


class CarryForward(Terms):
    """Deficits wait up to ``years`` years for surpluses to take them out of, the oldest first; then they lapse."""

    years: int = Field(ge=1)
    prior: tuple[PriorDeficit, ...] = ()

    def open(self, year: int) -> Decimal:
        """Deficits that can still be taken out of a surplus of ``year``."""
        return sum((one.amount for one in self.prior if year - one.year <= self.years), ZERO)


def add_corridor(
    ledger: Ledger, terms: CorridorTerms, cost: Number, target: Number, reference: Number, where: str
) -> Number:
    """Lines of the deviation band by band; returns the provider's part: a surplus is positive, a deficit negative."""
    saved = target.value - cost.value
    formula = "target - cost"
    deviation = ledger.add("deviation", saved, "Savings (losses are negative)", formula, where, (target, cost))
    direction: Literal["losses", "savings"] = "savings" if saved >= 0 else "losses"
    parts = []
    for number, part in enumerate(band_parts(saved, reference.value, terms.bands(direction)), start=1):
        edge = "on" if part.upper is None else f"to {percent(part.upper)}"
        inside = ledger.add(
            f"band.{number}", part.amount, f"Band from {percent(part.lower)} {edge}",
            "what of the deviation lies in it", f"{where}.{direction}", (deviation, reference),
        )  # fmt: skip
        formula = f"{percent(part.share)} of it is the provider's"
        parts.append(
            ledger.add(f"shared.{number}", part.shared, "Provider's part", formula, f"{where}.{direction}", (inside,))
        )
    provider = sum((part.value for part in parts), ZERO)
    ledger.add("plan", saved - provider, "Plan's part", "deviation - provider's parts", where, (deviation, *parts))
    return ledger.add("provider", provider, "Provider's part of the deviation", "sum over bands", where, parts)


def add_carry_forward(ledger: Ledger, terms: CarryForward, result: Number, year: int, where: str) -> Number:
    """A surplus after deficits of the years before; of a deficit, nothing is due yet."""
    before = ledger.add(
        "prior-deficit", terms.open(year), "Deficits of years before", f"not older than {terms.years} years", where
    )
    left = max(ZERO, before.value - max(ZERO, result.value)) + max(ZERO, -result.value)
    formula = "surplus less deficits of years before, not below zero"
    due = ledger.add(
        "after-deficits",
        max(ZERO, result.value - before.value),
        "Surplus after deficits",
        formula,
        where,
        (result, before),
    )
    note = "what is left of deficits, and this year's"
    ledger.add(
        "carried", left, "Deficit carried forward", note, where, (result, before), metric="shared-saving-deficit"
    )
    return due
