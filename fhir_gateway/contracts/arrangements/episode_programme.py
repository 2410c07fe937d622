"""What TEAM, CJR and BPCI Advanced have in common: their rules are shipped, and a contract may state others."""

from __future__ import annotations

from abc import abstractmethod
from decimal import Decimal

from pydantic import Field

from fhir_gateway.contracts.arrangements.episode_reconciled import ReconciledTerms
from fhir_gateway.contracts.episodes.reconciliation import Limits, QualityAdjustment
from fhir_gateway.contracts.terms import Fraction


class ProgrammeTerms(ReconciledTerms):
    """Terms of a public programme. What the contract states goes before what is shipped (``episodes/models``)."""

    discounts: dict[str, Fraction] = Field(default={}, description="By family, in place of the programme's.")
    quality: QualityAdjustment | None = Field(default=None, description="In place of the programme's.")
    limit: Limits | None = Field(default=None, description="Stop-gain and stop-loss in place of the programme's.")

    @abstractmethod
    def shipped_discount(self, family: str) -> Decimal:
        """The programme's discount."""

    @abstractmethod
    def shipped_adjustment(self) -> QualityAdjustment | None:
        """What quality changes in the programme."""

    @abstractmethod
    def shipped_limits(self) -> Limits:
        """The programme's stop-gain and stop-loss."""

    def discount(self, family: str) -> Decimal:
        """As stated, else the programme's."""
        return self.discounts[family] if family in self.discounts else self.shipped_discount(family)

    def adjustment(self) -> QualityAdjustment | None:
        """As stated, else the programme's."""
        return self.quality or self.shipped_adjustment()

    def limits(self) -> Limits:
        """As stated, else the programme's."""
        return self.limit or self.shipped_limits()

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        found = super().problems()
        known = self.definition().families
        found += [
            f"{self.where}.discounts.{name}: there is no such family" for name in self.discounts if name not in known
        ]
        if self.discounts and self.price.discounted:
            found.append(f"{self.where}.discounts: the prices contain the discount already")
        return found
