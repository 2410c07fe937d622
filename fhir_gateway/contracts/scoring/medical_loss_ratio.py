"""Medical loss ratio: credibility, the ratio, and the rebate below the standard.

45 CFR part 158 (commercial), 42 CFR 422.2400 (Medicare Advantage), 423.2400 (Part D) and 438.8 (Medicaid). Standards
and credibility are data (``contracts/programmes/medical_loss_ratio.toml``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from typing import Literal

from fhir_gateway.contracts.apportion import CENT, apportion_by
from fhir_gateway.contracts.programmes import ProgrammeYear, programme_year
from fhir_gateway.contracts.scoring.points import ONE, ZERO
from fhir_gateway.contracts.terms import Fraction, Money, Terms
from fhir_gateway.errors import ContractError

_THREE_DECIMALS = Decimal("0.001")
Points = tuple[tuple[Decimal, Decimal], ...]


class Market(Terms):
    """The rules of a market."""

    standard: Fraction
    exposure: Literal["life_years", "member_months"]
    credibility: Points
    deductible: Points = ()
    flat_quality_improvement: Fraction | None = None
    persistent_exposure: Money | None = None
    de_minimis: Money = ZERO
    single_year: bool = False
    sanctions: tuple[tuple[int, str], ...] = ()


class MedicalLossRatioYear(ProgrammeYear):
    """A reporting year."""

    markets: Mapping[str, Market]

    @classmethod
    def of(cls, year: int) -> MedicalLossRatioYear:
        """The shipped table for a reporting year."""
        return programme_year("medical_loss_ratio", year, cls)


@dataclass(frozen=True, slots=True)
class Experience:
    """A year of a market in a state. ``net_transfers``: paid less received for risk adjustment, reinsurance, corridors.

    ``quality_improvement`` None takes the flat part of the premium, where the market has one.
    """

    year: int
    claims: Decimal
    premium: Decimal
    taxes: Decimal
    member_months: Decimal
    quality_improvement: Decimal | None = ZERO
    fraud_reduction: Decimal = ZERO
    net_transfers: Decimal = ZERO
    deductible: Decimal | None = None

    def numerator(self, market: Market) -> Decimal:
        """Claims, quality improvement, fraud reduction, net transfers."""
        improvement = self.quality_improvement
        if improvement is None:
            improvement = (market.flat_quality_improvement or ZERO) * self.premium
        return self.claims + improvement + self.fraud_reduction + self.net_transfers

    @property
    def denominator(self) -> Decimal:
        """Earned premium less taxes and fees."""
        return self.premium - self.taxes

    def exposed(self, market: Market) -> Decimal:
        """Life years or member months."""
        return self.member_months / 12 if market.exposure == "life_years" else self.member_months


def interpolate(points: Points, at: Decimal) -> Decimal | None:
    """Straight lines between points; the last value beyond the last; None before the first."""
    if not points or at < points[0][0]:
        return None
    for (start, low), (end, high) in pairwise(points):
        if at < end:
            return low + (high - low) * (at - start) / (end - start)
    return points[-1][1]


def credibility(market: Market, exposure: Decimal, deductible: Decimal | None = None) -> Decimal | None:
    """What is added to the ratio for small numbers; None where the experience is not credible at all.

    Base by exposure times the factor of the average deductible (1 when it is not given). Nothing beyond the table.
    """
    if exposure > market.credibility[-1][0]:
        return ZERO
    base = interpolate(market.credibility, exposure)
    if base is None:
        return None
    factor = interpolate(market.deductible, deductible) if deductible is not None and market.deductible else ONE
    return base * (ONE if factor is None else factor)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of three decimals: what it is made of, and what credibility added (None: not credible)."""

    numerator: Decimal
    denominator: Decimal
    exposure: Decimal
    credibility: Decimal | None
    ratio: Decimal

    @property
    def is_credible(self) -> bool:
        """Whether there is enough experience to judge."""
        return self.credibility is not None


def loss_ratio(years: Sequence[Experience], market: Market) -> Ratio:
    """The ratio over up to three years together (of the last one, where the market reports single years).

    Credibility is left out when each of three years, large enough, was below the standard (45 CFR 158.232(d)).
    """
    ordered = sorted(years, key=lambda one: one.year)
    if not ordered:
        raise ContractError("medical loss ratio: there is no year to report on")
    counted = ordered[-1:] if market.single_year else ordered[-3:]
    numerator = sum((one.numerator(market) for one in counted), ZERO)
    denominator = sum((one.denominator for one in counted), ZERO)
    if denominator <= 0:
        raise ContractError("medical loss ratio: premium does not exceed taxes and fees")
    exposure = sum((one.exposed(market) for one in counted), ZERO)
    added = credibility(market, exposure, _average_deductible(counted))
    if added is not None and len(counted) == 3 and all(_was_below(one, market) for one in counted):
        added = ZERO
    plain = numerator / denominator
    return Ratio(
        numerator, denominator, exposure, added, (plain + (added or ZERO)).quantize(_THREE_DECIMALS, ROUND_HALF_UP)
    )


def _average_deductible(years: Sequence[Experience]) -> Decimal | None:
    """Weighted by member months; None when a year does not state it."""
    stated = [(one.deductible, one.member_months) for one in years]
    months = sum((weight for _, weight in stated), ZERO)
    if not months or any(value is None for value, _ in stated):
        return None
    return sum((value * weight for value, weight in stated if value is not None), ZERO) / months


def _was_below(one: Experience, market: Market) -> bool:
    enough = market.persistent_exposure
    below = one.numerator(market) / one.denominator < market.standard
    return enough is not None and one.exposed(market) >= enough and below


def years_below(years: Sequence[Experience], market: Market) -> int:
    """How many years in a row, up to the last, had a credible ratio below the standard, each by itself."""
    below = 0
    for one in sorted(years, key=lambda one: one.year, reverse=True):
        added = credibility(market, one.exposed(market), one.deductible)
        if added is None or one.numerator(market) / one.denominator + added >= market.standard:
            break
        below += 1
    return below


def rebate(found: Ratio, market: Market, last: Experience) -> Decimal:
    """What is paid back: how far the ratio is below the standard, of the last year's premium less taxes and fees."""
    if not found.is_credible or found.ratio >= market.standard:
        return ZERO
    return (market.standard - found.ratio) * last.denominator


def rebates(total: Decimal, premiums: Mapping[str, Decimal], de_minimis: Decimal) -> dict[str, Decimal]:
    """The rebate by subscriber: pro rata to premium; what is below ``de_minimis`` goes, in equal parts, to the others.

    Parts sum to the total, to the cent; all are paid pro rata when everybody is below.
    """
    shares = apportion_by(total, premiums)
    paid = [name for name, share in shares.items() if share >= de_minimis]
    if not paid or len(paid) == len(shares):
        return shares
    spread = sum((share for name, share in shares.items() if share < de_minimis), ZERO)
    extra = apportion_by(spread, dict.fromkeys(paid, ONE), CENT)
    return {name: shares[name] + extra[name] if name in extra else ZERO for name in shares}
