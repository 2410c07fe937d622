"""Who of the provider organization gets how much of a payment: by TIN or NPI, to the cent, the parts adding up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from pydantic import Field

from fhir_gateway.contracts.apportion import apportion_by
from fhir_gateway.contracts.settlement import QUANTUM, SettlementLine, publish
from fhir_gateway.contracts.terms import Fraction, Terms
from fhir_gateway.errors import ContractError

ZERO = Decimal(0)
#: The party that keeps the reserve, and the part of members who have no TIN or NPI.
ORGANIZATION = "organization"


@dataclass(frozen=True, slots=True)
class Panel:
    """Members and member months that attribution found by one TIN or NPI."""

    members: int
    months: Decimal


class Distribution(Terms):
    """How the published amount of an arrangement is shared out."""

    arrangement: str
    by: Literal["tin", "npi"] = "tin"
    weight: Literal["equal", "members", "member_months", "shares"] = "member_months"
    shares: dict[str, Fraction] = Field(default={}, description="Agreed shares by TIN or NPI, summing to 1.")
    reserve: Fraction = Field(default=ZERO, description="Part of a gain that the organization keeps.")

    @property
    def where(self) -> str:
        """Path of these terms."""
        return f"distributions.{self.arrangement}"

    def problems(self) -> list[str]:
        """Contradictions, as ``term: message``."""
        if (self.weight == "shares") != bool(self.shares):
            return [f"{self.where}.shares: belong to weight 'shares', and it needs them"]
        if self.shares and sum(self.shares.values()) != 1:
            return [f"{self.where}.shares: sum to {sum(self.shares.values())}, not 1"]
        return []

    def weights(self, panels: Mapping[str, Panel]) -> dict[str, Decimal]:
        """Weight of each party."""
        if self.weight == "shares":
            return dict(self.shares)
        if self.weight == "equal":
            return {party: Decimal(1) for party in panels if party != ORGANIZATION}
        months = self.weight == "member_months"
        return {party: panel.months if months else Decimal(panel.members) for party, panel in panels.items()}


def distribute(
    terms: Distribution, payable: SettlementLine, panels: Mapping[str, Panel], rounding: Literal["cent", "dollar"]
) -> Iterator[SettlementLine]:
    """A line for each party, in order of its number; they sum to the published amount exactly.

    Largest remainder decides about the last cents (:mod:`fhir_gateway.contracts.apportion`). A loss is borne without
    reserve. ContractError when there is nobody to share with.
    """
    if payable.amount is None:
        raise ContractError(f"{terms.where}: {payable.id} pays nothing out")
    kept = publish(payable.amount * terms.reserve, rounding) if payable.amount > 0 else ZERO
    weights = terms.weights(panels)
    if not any(weights.values()):
        if payable.amount:
            raise ContractError(f"{terms.where}: there is nobody to share with")
        return
    whole = sum(weights.values(), ZERO)
    parts = apportion_by(payable.amount - kept, weights, QUANTUM[rounding])
    for party, part in sorted(parts.items()):
        extra = kept if party == ORGANIZATION else ZERO
        yield _line(terms, payable, party, part + extra, f"amount x {weights[party]} / {whole}, largest remainder")
    if kept and ORGANIZATION not in parts:
        yield _line(terms, payable, ORGANIZATION, kept, "the reserve")


def _line(terms: Distribution, payable: SettlementLine, party: str, value: Decimal, formula: str) -> SettlementLine:
    return SettlementLine(
        id=f"{payable.arrangement}.distribution.{party}",
        arrangement=payable.arrangement,
        term=terms.where,
        label=f"Part of {'the organization' if party == ORGANIZATION else f'{terms.by.upper()} {party}'}",
        value=value,
        unit=payable.unit,
        formula=formula,
        because=(payable.id,),
    )
