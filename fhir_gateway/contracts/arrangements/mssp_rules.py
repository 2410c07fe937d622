"""The rules of the Medicare Shared Savings Program as they are shipped (``contracts/programmes/mssp.toml``)."""

from __future__ import annotations

import tomllib
from datetime import date
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import Field

from fhir_gateway.contracts.programmes import ProgrammeYear, programme_year
from fhir_gateway.contracts.terms import Fraction, Terms
from fhir_gateway.errors import ContractError

Family = Literal["basic", "enhanced", "legacy"]
Trust = Literal["V", "CFR", "DOC", "M"]


class Level(Terms):
    """What a level shares."""

    level: str
    names: tuple[str, ...]
    family: Family
    share: Fraction
    cap: Fraction
    loss: Fraction | None = None
    loss_floor: Fraction | None = None
    limit: Fraction | None = None
    limit_of_revenue: Fraction | None = None
    limits_by_year: tuple[Fraction, ...] = ()
    trust: Trust

    @property
    def two_sided(self) -> bool:
        """Whether losses are shared."""
        return self.loss is not None

    def loss_limit(self, year_of_agreement: int | None) -> Decimal | None:
        """Most that is owed, of the benchmark."""
        if self.limits_by_year and year_of_agreement is not None:
            return self.limits_by_year[min(year_of_agreement, len(self.limits_by_year)) - 1]
        return self.limit


class Relief(Terms):
    """Share of the sharing rate below the minimum savings rate."""

    starts_from: date
    families: tuple[Family, ...]
    share: Fraction
    beneficiaries: int
    trust: Trust


class Election(Terms):
    """Minimum rates to choose from."""

    rates: tuple[Fraction, ...]
    trust: Trust


class Band(Terms):
    """Minimum savings rate in percent, linear between the ends of a band of assigned beneficiaries."""

    since: int = Field(alias="from")
    through: int
    first: Decimal
    last: Decimal

    def percent(self, beneficiaries: int) -> Decimal:
        """The rate of a number within the band."""
        return self.first + (self.last - self.first) * (beneficiaries - self.since) / (self.through - self.since)


class RegionalWeight(Terms):
    """Weights of the regional adjustment the n-th time that it applies."""

    time: int
    below: Fraction
    above: Fraction


class BenchmarkRules(Terms):
    """How a historical benchmark is built."""

    first_agreement: tuple[Decimal, Decimal, Decimal]
    later_agreement: tuple[Decimal, Decimal, Decimal]
    risk_cap: Fraction
    two_way_share: Fraction
    regional_cap: Fraction
    negative_regional_cap: Fraction
    negative_regional_cap_from_2024: Fraction
    prior_savings_share: Fraction
    prior_savings_cap: Fraction
    population_minimum: Fraction
    population_cap: Fraction
    trust: Trust
    regional: tuple[RegionalWeight, ...]

    def regional_weight(self, time: int) -> RegionalWeight:
        """The weights of a time; the last ones hold from then on."""
        return self.regional[min(time, len(self.regional)) - 1]


class MsspYear(ProgrammeYear):
    """What changes from year to year."""

    quality: Literal["score", "standard", "alternative"]
    percentile: Fraction | None = None
    sequestration: Fraction
    emergency_months: int = Field(default=0, ge=0, le=12)


class MsspRules(Terms):
    """What does not."""

    levels: tuple[Level, ...]
    low_revenue_relief: Relief
    election: Election
    benchmark: BenchmarkRules
    equity_years: tuple[int, int]
    msr: tuple[Band, ...]

    def level(self, name: str) -> Level:
        """The level of a name as contracts and results write it; ContractError when there is none."""
        found = _levels().get(_plain(name))
        if found is None:
            known = ", ".join(level.level for level in self.levels)
            raise ContractError(f"level: '{name}' is no level of the Shared Savings Program (there are {known})")
        return found


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum() or character == "+")


@cache
def _levels() -> dict[str, Level]:
    return {_plain(name): level for level in mssp_rules().levels for name in (level.level, *level.names)}


@cache
def mssp_rules() -> MsspRules:
    """The shipped rules."""
    text = files("fhir_gateway.contracts.programmes").joinpath("mssp.toml").read_text(encoding="utf-8")
    stated = tomllib.loads(text, parse_float=Decimal)
    return MsspRules.model_validate({name: value for name, value in stated.items() if name != "years"})


@cache
def mssp_year(year: int) -> MsspYear:
    """The rules of a performance year."""
    return programme_year("mssp", year, MsspYear)
