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

    @property
    def of_roster(self) -> bool:
        """Whether the roster gives the weights; else these terms do."""
        return self.weight in ("members", "member_months")

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
    """Each party's weight, then its part, in order of its number; the parts sum to the published amount exactly.

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
    panel = [_weight(terms, payable, party, weights[party]) for party in sorted(weights)] if terms.of_roster else []
    yield from panel
    because = (payable.id, *(line.id for line in panel))
    whole = sum(weights.values(), ZERO)
    parts = apportion_by(payable.amount - kept, weights, QUANTUM[rounding])
    for party, part in sorted(parts.items()):
        extra = kept if party == ORGANIZATION else ZERO
        formula = f"amount x {weights[party]} / {whole}, largest remainder"
        yield _line(terms, payable, party, part + extra, formula, because)
    if kept and ORGANIZATION not in parts:
        yield _line(terms, payable, ORGANIZATION, kept, "the reserve", (payable.id,))


def _weight(terms: Distribution, payable: SettlementLine, party: str, weight: Decimal) -> SettlementLine:
    what, unit = ("Member months", "mo") if terms.weight == "member_months" else ("Members", "{members}")
    return SettlementLine(
        id=f"{payable.arrangement}.panel.{party}",
        arrangement=payable.arrangement,
        term=f"{terms.where}.weight",
        label=f"{what} {_of(terms, party)}",
        value=weight,
        unit=unit,
        formula="of the roster",
    )


def _of(terms: Distribution, party: str) -> str:
    return "of the organization" if party == ORGANIZATION else f"of {terms.by.upper()} {party}"


def _line(
    terms: Distribution, payable: SettlementLine, party: str, value: Decimal, formula: str, because: tuple[str, ...]
) -> SettlementLine:
    return SettlementLine(
        id=f"{payable.arrangement}.distribution.{party}",
        arrangement=payable.arrangement,
        term=terms.where,
        label=f"Part {_of(terms, party)}",
        value=value,
        unit=payable.unit,
        formula=formula,
        because=because,
    )
