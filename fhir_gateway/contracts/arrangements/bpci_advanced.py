"""BPCI Advanced: Bundled Payments for Care Improvement Advanced (2018-2025), by episode initiator.

Each initiator is reconciled for itself, a convener gets the net. Families, discounts, limits are data
(``contracts/episodes/models/bpci_advanced.toml``).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field

from fhir_gateway.contracts.arrangements.base import arrangement
from fhir_gateway.contracts.arrangements.episode_programme import ProgrammeTerms
from fhir_gateway.contracts.episodes.caps import Cap
from fhir_gateway.contracts.episodes.codes import shipped
from fhir_gateway.contracts.episodes.definition import Definition
from fhir_gateway.contracts.episodes.reconciliation import Limits, QualityAdjustment


@arrangement("bpci_advanced")
class BpciAdvanced(ProgrammeTerms):
    """Terms of a participant in a model year."""

    kind: Literal["bpci_advanced"]
    model_year: int = Field(ge=1, le=8)
    families: tuple[str, ...] = Field(default=(), description="Episode families that were chosen; none: all.")

    programme = "bpci_advanced"

    def definition(self) -> Definition:
        """The families that were chosen."""
        stated = super().definition()
        chosen = tuple(one for one in stated.triggers if not self.families or one.family in self.families)
        return stated.model_copy(update={"triggers": chosen})

    def shipped_discount(self, family: str) -> Decimal:
        """By model year, medical and surgical families apart."""
        model = shipped("bpci_advanced")
        kind = "medical" if family in model["families"]["medical"] else "surgical"
        first = next(one for one in model["discounts"] if one["years"][0] <= self.model_year <= one["years"][1])
        return Decimal(first[kind])

    def bound(self) -> Cap | None:
        """The programme's percentiles unless the contract states bounds."""
        return self.cap or Cap.model_validate(shipped("bpci_advanced")["cap"])

    def shipped_adjustment(self) -> QualityAdjustment:
        """The same for all."""
        return QualityAdjustment.model_validate(shipped("bpci_advanced")["quality"])

    def shipped_limits(self) -> Limits:
        """The same for all."""
        return Limits.model_validate(shipped("bpci_advanced")["limits"])

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        known = super().definition().families
        unknown = [name for name in self.families if name not in known]
        if unknown:
            return [f"{self.where}.families: there is no family '{name}'" for name in unknown]
        return super().problems()
