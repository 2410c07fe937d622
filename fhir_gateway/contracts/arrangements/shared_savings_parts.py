"""Parts of the terms of shared savings: target, corridor, quality, shares, losses, and what is paid when."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from fhir_gateway.contracts.scoring import ONE, ZERO, ladder_problems
from fhir_gateway.contracts.terms import Fraction, MeasureTerms, Money, Step, Terms

Positive = Annotated[Decimal, Field(gt=0)]
PositiveFraction = Annotated[Decimal, Field(gt=0, le=1)]


class Book(Terms):
    """The payer's cost per member month over its whole book of business, whose growth is the trend."""

    prior: Positive
    current: Positive


class AgreedRisk(Terms):
    """Agreed mean risk scores of the base year and of this year: their ratio adjusts the target."""

    base: Positive
    year: Positive
    cap: Fraction | None = Field(default=None, description="Most that the ratio may rise above 1.")
    floor: Fraction | None = Field(default=None, description="Most that the ratio may fall below 1.")


class RiskNormaliser(Terms):
    """Mean risk scores of the base year and of this year: their ratio adjusts the target.

    Agreed numbers; or out of a table of ``scores`` with ``previous`` ones (kept risk scores, say), the means over the
    members of the list who have both, by their months.
    """

    base: Positive | None = None
    year: Positive | None = None
    scores: str | None = Field(default=None, description="Table of members' scores and previous scores.")
    cap: Fraction | None = Field(default=None, description="Most that the ratio may rise above 1.")
    floor: Fraction | None = Field(default=None, description="Most that the ratio may fall below 1.")


class Blend(Terms):
    """Part of a target that comes from another source, such as the region."""

    amount: Money = Field(description="Of the other source, per member month.")
    credibility: Fraction | None = Field(default=None, description="Weight of the own experience.")
    full_credibility: Positive | None = Field(
        default=None, description="Member months of full credibility; the weight is the root of the part reached."
    )


class BudgetLine(Terms):
    """A category of a budget, per member month."""

    category: str
    amount: Money


class Target(Terms):
    """What the attributed members were expected to cost.

    ``pmpm``: ``amount`` per member month. ``prior_year``: last year's cost per member month (``amount`` when agreed,
    else computed over the same members) grown by ``trend``, or as the ``book`` of business grew. ``budget``: the sum of
    its ``lines`` per member month. ``total``: ``amount`` for the year, whatever the exposure. Targets per member month
    may be adjusted by ``risk`` and blended (``blend``).
    """

    kind: Literal["pmpm", "prior_year", "budget", "total"]
    amount: Money | None = None
    trend: Decimal = ZERO
    book: Book | None = None
    lines: tuple[BudgetLine, ...] = ()
    risk: RiskNormaliser | None = None
    blend: Blend | None = None

    def problems(self, where: str) -> list[str]:
        """Contradictions."""
        found = []
        if self.kind in ("pmpm", "total") and self.amount is None:
            found.append(f"{where}.amount: a {self.kind} target needs it")
        if self.kind != "prior_year" and self.trend:
            found.append(f"{where}.trend: only a prior_year target has one")
        if self.kind != "prior_year" and self.book:
            found.append(f"{where}.book: only a prior_year target has a trend")
        if self.book and self.trend:
            found.append(f"{where}.trend: the book of business gives the trend")
        if (self.kind == "budget") != bool(self.lines):
            found.append(f"{where}.lines: belong to a budget, and it needs them")
        if self.kind == "budget" and self.amount is not None:
            found.append(f"{where}.amount: a budget is the sum of its lines")
        if self.kind == "total" and (self.risk or self.blend):
            found.append(f"{where}: a total is not adjusted; give an amount per member month")
        if self.risk and not ((self.risk.base is None) == (self.risk.year is None) == (self.risk.scores is not None)):
            found.append(f"{where}.risk: needs base and year, or scores")
        if self.blend and (self.blend.credibility is None) == (self.blend.full_credibility is None):
            found.append(f"{where}.blend: needs one of credibility and full_credibility")
        return found


class SizeStep(Terms):
    """A minimum rate from a number of members on."""

    members: int = Field(ge=0)
    msr: Fraction


class Corridor(Terms):
    """Savings and losses that do not count.

    ``fixed`` rates; ``variable`` by size (MSSP table); ``by_size`` by steps of one's own; or ``none``.
    """

    kind: Literal["none", "fixed", "variable", "by_size"] = "none"
    msr: Fraction | None = Field(default=None, description="Minimum savings rate.")
    mlr: Fraction | None = Field(default=None, description="Minimum loss rate, as a positive number; default the msr.")
    sizes: tuple[SizeStep, ...] = Field(default=(), description="From the smallest on; below it nothing is shared.")
    first_dollar: bool = Field(default=True, description="Once met, share from the first dollar; else only above it.")
    relief_share: Fraction | None = Field(
        default=None, description="Share of the sharing rate paid on savings below the msr (42 CFR 425.605(h))."
    )
    relief_members: int = Field(default=0, ge=0, description="Members needed for that relief.")

    def problems(self, where: str, two_sided: bool) -> list[str]:
        """Contradictions."""
        found = []
        if self.kind != "fixed" and (self.msr is not None or self.mlr is not None):
            found.append(f"{where}: a minimum rate is given, but the corridor is '{self.kind}'")
        if self.kind == "fixed" and self.msr is None:
            found.append(f"{where}.msr: a fixed corridor needs it")
        if (self.kind == "by_size") != bool(self.sizes):
            found.append(f"{where}.sizes: belong to a corridor by_size, and it needs them")
        if [s.members for s in self.sizes] != sorted({s.members for s in self.sizes}):
            found.append(f"{where}.sizes: go from the smallest to the largest, each once")
        if self.kind == "none" and self.relief_share is not None:
            found.append(f"{where}.relief_share: there is no corridor to be relieved of")
        if self.mlr is not None and not two_sided:
            found.append(f"{where}.mlr: there are no losses to share")
        return found


class EquityBonus(Terms):
    """Points for good scores among the underserved, added to the composite (42 CFR 425.512(b), 2023 to 2025).

    The sum of the measures' points (4, 2 or 0 by third of performance) times the underserved share of members, in
    hundredths; nothing below the ``minimum`` share, at most the ``cap``. Points and share are as notified, or computed:
    from where the ``thirds`` of measures begin, and from the contract's ``table`` of social risk.
    """

    points: tuple[Annotated[int, Field(ge=0, le=4)], ...] = ()
    underserved: Fraction | None = None
    minimum: Fraction = Decimal("0.20")
    cap: Fraction = Decimal("0.10")
    thirds: dict[str, tuple[Decimal, Decimal]] = Field(
        default={}, description="By measure, the scores at which the middle and the best third of performance begin."
    )
    table: str | None = Field(
        default=None, description="Table of social risk; the share is the higher one of the deprived and the poor."
    )
    adi: int = Field(default=85, ge=1, le=100, description="National percentile of deprivation from which on.")

    def problems(self, where: str) -> list[str]:
        """Contradictions."""
        found = []
        if bool(self.points) == bool(self.thirds):
            found.append(f"{where}.points: needs one of points and thirds")
        if (self.underserved is None) == (self.table is None):
            found.append(f"{where}.underserved: needs one of underserved and table")
        return found

    def bonus(self, points: int, share: Decimal) -> Decimal:
        """What is added."""
        return ZERO if share < self.minimum else min(self.cap, points * share / 100)

    def points_of(self, measure: MeasureTerms, score: Decimal | None) -> int:
        """Points of a measure: 4 in the best third, 2 in the middle one; 0 below, and without a score."""
        middle, best = self.thirds[measure.id]
        if score is None:
            return 0
        reached = [score >= at if measure.direction == "increase" else score <= at for at in (middle, best)]
        return 4 if reached[1] else 2 if reached[0] else 0


class Quality(Terms):
    """How quality changes the share. The composite is between 0 and 1."""

    mode: Literal["none", "gate", "ladder", "multiplicative"] = "none"
    gate: Decimal | None = Field(default=None, description="Composite needed for the full share.")
    below_gate: Literal["nothing", "multiplicative"] = "nothing"
    steps: tuple[Step, ...] = ()
    missing: Literal["reweight", "zero"] = "reweight"
    equity: EquityBonus | None = None
    least: Fraction = Field(default=ZERO, description="The composite counts as at least this, such as after disasters.")

    def problems(self, where: str) -> list[str]:
        """Contradictions."""
        found = []
        if self.mode == "none" and (self.equity or self.least):
            found.append(f"{where}: quality plays no part (the mode is 'none')")
        if self.equity:
            found += self.equity.problems(f"{where}.equity")
        if self.mode == "gate" and self.gate is None:
            found.append(f"{where}.gate: a gate needs it")
        if self.mode != "gate" and self.gate is not None:
            found.append(f"{where}.gate: the mode is '{self.mode}'")
        if self.gate is not None and not ZERO <= self.gate <= ONE:
            found.append(f"{where}.gate: above the highest composite, which is 1")
        if (self.mode == "ladder") != bool(self.steps):
            found.append(f"{where}.steps: belong to mode 'ladder', and it needs them")
        found += ladder_problems(f"{where}.steps", [(s.at, s.points) for s in self.steps])
        if any(s.at > ONE for s in self.steps):
            found.append(f"{where}.steps: start above the highest composite, which is 1")
        return found


class Tier(Terms):
    """A share from a savings (or loss) rate on."""

    at: Fraction
    share: Fraction


def tier_problems(where: str, tiers: tuple[Tier, ...], basis: str) -> list[str]:
    """Contradictions between tiers."""
    found = []
    if tiers and tiers[0].at != ZERO:
        found.append(f"{where}: the first tier begins at 0")
    if [t.at for t in tiers] != sorted({t.at for t in tiers}):
        found.append(f"{where}: go from the lowest rate to the highest, each once")
    if basis == "whole" and [t.share for t in tiers] != sorted(t.share for t in tiers):
        found.append(f"{where}: the whole amount would pay less for more savings; use basis 'slice'")
    return found


class Disaster(Terms):
    """Extreme and uncontrollable circumstances: months affected and the share of members who live there."""

    months: int = Field(ge=0, le=12)
    share: Fraction


class Losses(Terms):
    """The provider's share of losses."""

    rate: Fraction | None = Field(default=None, description="Share of losses; with quality_adjusted its ceiling.")
    tiers: tuple[Tier, ...] = Field(default=(), description="Shares by loss rate, each for its slice.")
    quality_adjusted: bool = Field(default=False, description="1 - sharing rate x composite, between floor and rate.")
    floor: Fraction = Field(default=ZERO, description="Lowest loss rate when quality adjusted.")
    limit: PositiveFraction | None = Field(default=None, description="Of the target.")
    limit_amount: Money | None = Field(default=None, description="Such as a share of the provider's revenue.")
    limit_of_fees: PositiveFraction | None = Field(default=None, description="Of `fees` (revenue under the contract).")
    relief: Fraction = Field(default=ZERO, description="Share of losses forgiven after disasters.")
    relief_amount: Money = Field(default=ZERO, description="Amount of losses forgiven.")
    disaster: Disaster | None = None

    def problems(self, where: str, quality: Quality) -> list[str]:
        """Contradictions."""
        found = tier_problems(f"{where}.tiers", self.tiers, "slice")
        if (self.rate is None) == (not self.tiers):
            found.append(f"{where}.rate: needs one of rate and tiers")
        if self.rate is not None and self.floor > self.rate:
            found.append(f"{where}.floor: above the loss rate, which is its ceiling")
        if self.quality_adjusted and quality.mode == "none":
            found.append(f"{where}.quality_adjusted: quality plays no part (quality.mode is 'none')")
        if self.quality_adjusted and self.tiers:
            found.append(f"{where}.quality_adjusted: tiers are not adjusted by quality")
        if self.floor and not self.quality_adjusted:
            found.append(f"{where}.floor: the loss rate is not quality adjusted")
        if sum((bool(self.relief), bool(self.relief_amount), self.disaster is not None)) > 1:
            found.append(f"{where}.relief: losses are forgiven twice")
        return found


class Deficit(Terms):
    """A loss of an earlier year that was not paid."""

    year: int
    amount: Positive


class CarryForward(Terms):
    """Unpaid losses of earlier years, the oldest first, that later savings make up before they are shared."""

    year: int = Field(description="This year.")
    deficits: tuple[Deficit, ...] = ()
    expires_after: int | None = Field(default=None, ge=1, description="Years after which a deficit is forgotten.")

    def problems(self, where: str, two_sided: bool) -> list[str]:
        """Contradictions."""
        found = []
        if two_sided:
            found.append(f"{where}: losses are shared, nothing is carried forward")
        if any(d.year >= self.year for d in self.deficits):
            found.append(f"{where}.deficits: are of years before this one")
        if len({d.year for d in self.deficits}) != len(self.deficits):
            found.append(f"{where}.deficits: two are of the same year")
        return found


class Guardrail(Terms):
    """No losses owed only because part of the update was set in advance (ACPT), and no savings by being spared them.

    ``target`` without that part: a loss must hold against it too. ``applied``: the target already is that one.
    """

    target: Money | None = None
    applied: bool = False

    def problems(self, where: str, two_sided: bool) -> list[str]:
        """Contradictions."""
        found = [] if two_sided else [f"{where}: there are no losses to share"]
        if self.applied == (self.target is not None):
            found.append(f"{where}: needs one of target and applied")
        return found
