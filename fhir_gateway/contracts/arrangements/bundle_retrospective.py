"""Retrospective bundle: fee for service, and at the end the costs of episodes against their prices are shared."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from fhir_gateway.contracts.arrangements.base import arrangement
from fhir_gateway.contracts.arrangements.episode_reconciled import ReconciledTerms
from fhir_gateway.contracts.episodes.reconciliation import ZERO, Limits, QualityAdjustment
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import percent
from fhir_gateway.contracts.terms import Fraction, Money


@arrangement("bundle_retrospective")
class BundleRetrospective(ReconciledTerms):
    """Terms of a commercial or Medicaid bundle that is settled afterwards.

    Order: differences -> minimum volume -> corridor -> share -> quality -> limits -> spending afterwards -> bonus.
    """

    kind: Literal["bundle_retrospective"]
    discounts: dict[str, Fraction] = Field(default={}, description="By family, taken off prices.")
    quality: QualityAdjustment | None = None
    limit: Limits = Field(default=Limits(), description="Stop-gain and stop-loss.")
    gain_share: Fraction = Decimal(1)
    loss_share: Fraction = Decimal(1)
    corridor: Fraction = Field(default=ZERO, description="Part of targets within which nothing is owed.")
    first_dollar: bool = Field(default=True, description="Beyond the corridor all counts, not only what is above it.")
    min_volume: int = Field(default=0, ge=0, description="Episodes of an initiator below which nothing is settled.")
    episode_stop_loss: Annotated[Decimal, Field(ge=0)] | None = Field(
        default=None, description="Cost of an episode counts up to its target and so much more."
    )
    steerage_bonus: Money = Field(default=ZERO, description="Per episode, whatever it costs.")

    def discount(self, family: str) -> Decimal:
        """As stated."""
        return self.discounts.get(family, ZERO)

    def adjustment(self) -> QualityAdjustment | None:
        """As stated."""
        return self.quality

    def limits(self) -> Limits:
        """As stated."""
        return self.limit

    def stop_loss(self) -> Decimal | None:
        """As stated."""
        return self.episode_stop_loss

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        found = super().problems()
        if self.episode is not None:
            families = self.episode.families
            found += [
                f"{self.where}.discounts: there is no family '{name}'"
                for name in self.discounts
                if name not in families
            ]
        if self.quality_score is not None and self.quality is None:
            found.append(f"{self.where}.quality_score: quality plays no part")
        if self.discounts and self.price.discounted:
            found.append(f"{self.where}.discounts: the prices are discounted already")
        return found

    def share(self, ledger: Ledger, prefix: str, difference: Number, targets: Number, episodes: int) -> Number:
        """What of a difference is shared."""
        where = self.where
        if episodes < self.min_volume:
            note = f"fewer than {self.min_volume} episodes: nothing is settled"
            return ledger.add(
                f"{prefix}small", ZERO, "With enough episodes", note, f"{where}.min_volume", (difference,)
            )
        amount = difference
        if self.corridor:
            edge = self.corridor * targets.value
            beyond = max(ZERO, abs(difference.value) - edge)
            if beyond and self.first_dollar:
                beyond = abs(difference.value)
            value = beyond.copy_sign(difference.value) if beyond else ZERO
            kept = "all" if self.first_dollar else "what is beyond"
            formula = f"{kept} when more than {percent(self.corridor)} of targets, else nothing"
            amount = ledger.add(
                f"{prefix}corridor", value, "Beyond the corridor", formula, f"{where}.corridor", (amount, targets)
            )
        rate, name = (self.gain_share, "gain_share") if amount.value > 0 else (self.loss_share, "loss_share")
        if rate != 1:
            value = amount.value * rate
            amount = ledger.add(
                f"{prefix}shared", value, "Shared", f"{percent(rate)} of it", f"{where}.{name}", (amount,)
            )
        return amount

    def bonus(self, ledger: Ledger, prefix: str, amount: Number, episodes: int) -> Number:
        """The bonus for steering patients."""
        if not self.steerage_bonus:
            return amount
        term = f"{self.where}.steerage_bonus"
        paid = ledger.add(
            f"{prefix}bonus",
            self.steerage_bonus * episodes,
            "Steerage bonus",
            f"{self.steerage_bonus} x episodes",
            term,
        )
        return ledger.add(
            f"{prefix}with-bonus", amount.value + paid.value, "With the bonus", "sum", term, (amount, paid)
        )
