"""The rules of ACO REACH and LEAD as they are shipped (``contracts/programmes/aco_reach.toml``)."""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from typing import Literal

from pydantic import Field

from fhir_gateway.contracts.arrangements.shared_savings_parts import Tier
from fhir_gateway.contracts.programmes import ProgrammeYear, programme_year
from fhir_gateway.contracts.terms import Fraction, Terms

Risk = Literal["global", "professional"]


class RiskOption(Terms):
    """Discount and corridors of one of the two options."""

    discount: Fraction
    discount_high_spending: Fraction | None = None
    savings: tuple[Tier, ...]
    losses: tuple[Tier, ...] = ()

    def bands(self, *, saving: bool) -> tuple[Tier, ...]:
        """Bands of savings, or of losses."""
        return self.savings if saving or not self.losses else self.losses


class ReachYear(ProgrammeYear):
    """The rules of a performance year."""

    sequestration: Fraction
    quality_withhold: Fraction
    retention_withhold: Fraction
    equity: tuple[Decimal, ...] = ()
    poor_points: int = 20
    regional: Fraction
    regional_cap: Fraction
    regional_floor: Fraction
    risk_cap: Fraction
    global_option: RiskOption = Field(alias="global")
    professional: RiskOption

    def option(self, risk: Risk) -> RiskOption:
        """The option that was chosen."""
        return self.global_option if risk == "global" else self.professional


@cache
def reach_year(year: int) -> ReachYear:
    """The rules of a performance year."""
    return programme_year("aco_reach", year, ReachYear)
