"""Withholds: kept back from each payment, returned as far as quality earned it, the rest shared by who did well."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.audit import AMOUNT, ZERO
from fhir_gateway.contracts.scoring import ladder_problems
from fhir_gateway.contracts.terms import Fraction, Money, Step, Terms

#: Other providers of a shared pool: what was withheld from each and which part of it each earned.
PEERS_SCHEMA = pa.schema(
    [
        pa.field("provider", pa.string(), nullable=False),
        pa.field("withheld", AMOUNT, nullable=False),
        pa.field("earned_share", AMOUNT, nullable=False),
    ]
)


class WithholdTerms(Terms):
    """``part`` of each payment is withheld and returned by quality: by its points, by tiers of them, or not at all."""

    part: Fraction
    earned: Literal["points", "tiers", "nothing", "all"] = "points"
    tiers: tuple[Step, ...] = ()
    deficit_offset: Money = Field(default=Decimal(0), description="A deficit that is taken out of what is returned.")
    shared_pool: str | None = Field(
        default=None, description="Table of the other providers: what nobody earned goes to those who did well."
    )
    over_performs_at: Fraction | None = Field(default=None, description="Earned share from which one takes part in it.")

    def problems(self, where: str) -> list[str]:
        """Terms that contradict each other."""
        found = []
        if (self.earned == "tiers") != bool(self.tiers):
            found.append(f"{where}.tiers: go with earned = 'tiers'")
        if (self.shared_pool is None) != (self.over_performs_at is None):
            found.append(f"{where}.over_performs_at: goes with shared_pool")
        return found + ladder_problems(f"{where}.tiers", [(step.at, step.points) for step in self.tiers])

    def uses_quality(self) -> bool:
        """Whether quality decides what is returned."""
        return self.earned in ("points", "tiers")

    def share(self, composite: Decimal | None) -> Decimal:
        """The earned part of the withhold."""
        if self.earned in ("all", "nothing"):
            return Decimal(self.earned == "all")
        if composite is None:
            return ZERO
        if self.earned == "points":
            return composite
        return max((step.points for step in self.tiers if composite >= step.at), default=ZERO)


def shared_pool_part(
    withheld: Decimal, earned_share: Decimal, others: Sequence[tuple[Decimal, Decimal]], over_performs_at: Decimal
) -> tuple[Decimal, Decimal]:
    """The pool of what nobody earned, and one provider's part of it by what was withheld.

    ``others`` are withheld and earned share of the other providers. Where nobody does well the plan keeps the pool.
    """
    everybody = [(withheld, earned_share), *others]
    pool = sum((amount * (1 - share) for amount, share in everybody), ZERO)
    weights = [amount if share >= over_performs_at else ZERO for amount, share in everybody]
    whole = sum(weights, ZERO)
    return pool, pool * weights[0] / whole if whole else ZERO
