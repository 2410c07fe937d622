"""CJR: Comprehensive Care for Joint Replacement (42 CFR 510), performance years 1-8.

Quality does not change the difference but the discount, and below ``acceptable`` nothing is paid. Blend, bounds,
limits and the composite's points are data (``contracts/episodes/models/cjr.toml``).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

from pydantic import Field

from fhir_gateway.contracts.arrangements.base import SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.episode_programme import ProgrammeTerms
from fhir_gateway.contracts.episodes.caps import Cap
from fhir_gateway.contracts.episodes.codes import shipped
from fhir_gateway.contracts.episodes.definition import Definition, shipped_definition
from fhir_gateway.contracts.episodes.reconciliation import ZERO, Limits, PostEpisode
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import percent
from fhir_gateway.contracts.terms import MeasureTerms, Terms


def of_year(name: str, year: int) -> dict[str, Any]:
    """The entry of a list of ``cjr.toml`` that holds in a performance year."""
    return next(dict(one) for one in shipped("cjr")[name] if one["years"][0] <= year <= one["years"][1])


class CompositeQuality(Terms):
    """The composite of 0-20 points: two measures by percentile (empty: too few cases, then the 50th), and more.

    ``*_improved``: deciles better than the year before. ``outcomes_data``: patient-reported outcomes were submitted.
    """

    complications: Decimal | None = Field(default=None, ge=0, le=100)
    hcahps: Decimal | None = Field(default=None, ge=0, le=100)
    complications_improved: int = 0
    hcahps_improved: int = 0
    outcomes_data: bool = False

    def points(self) -> dict[str, Decimal]:
        """Points by part (42 CFR 510.315)."""
        table = shipped("cjr")["points"]
        enough = table["improvement_deciles"]
        return {
            "complications": _points(self.complications, table["complications"]),
            "hcahps": _points(self.hcahps, table["hcahps"]),
            "complications-improvement": Decimal(table["complications_improvement"])
            if self.complications_improved >= enough
            else ZERO,
            "hcahps-improvement": Decimal(table["hcahps_improvement"]) if self.hcahps_improved >= enough else ZERO,
            "outcomes-data": Decimal(table["outcomes_data"]) if self.outcomes_data else ZERO,
        }

    def composite(self) -> Decimal:
        """Their sum, within the highest there is."""
        return min(sum(self.points().values(), ZERO), Decimal(shipped("cjr")["points"]["highest"]))


def _points(percentile: Decimal | None, scale: list[list[Decimal]]) -> Decimal:
    reached = Decimal(50) if percentile is None else percentile
    return next((Decimal(points) for at, points in scale if reached >= at), ZERO)


def discount_of(composite: Decimal, year: int) -> tuple[Decimal, str]:
    """Discount and category of a composite in a performance year."""
    rule = of_year("quality", year)
    base = Decimal(rule["discount"])
    if composite < rule["acceptable"]:
        return base, "below acceptable"
    if composite < rule["good"]:
        return base, "acceptable"
    if composite <= rule["excellent"]:
        return base - rule["good_reduction"], "good"
    return base - rule["excellent_reduction"], "excellent"


@arrangement("cjr")
class Cjr(ProgrammeTerms):
    """Terms of a participant hospital in a performance year."""

    kind: Literal["cjr"]
    performance_year: int = Field(ge=1, le=8)
    composite: CompositeQuality
    protected: bool = Field(default=False, description="Rural, sole community, Medicare-dependent: a lower stop-loss.")

    programme = "cjr"

    def definition(self) -> Definition:
        """The programme's; outpatient replacements from their year on."""
        if self.episode is not None:
            return self.episode
        stated = shipped_definition("cjr")
        if self.performance_year >= shipped("cjr")["outpatient_from"]:
            return stated
        inpatient = tuple(one for one in stated.triggers if "inpatient" in one.match.claim_type)
        return stated.model_copy(update={"triggers": inpatient})

    def shipped_discount(self, family: str) -> Decimal:
        """By quality."""
        del family
        return discount_of(self.composite.composite(), self.performance_year)[0]

    def bound(self) -> Cap | None:
        """The programme's of the year unless the contract states bounds."""
        return self.cap or Cap.model_validate(of_year("caps", self.performance_year)["cap"])

    def afterwards(self) -> PostEpisode:
        """The programme's unless the contract states another."""
        return self.post_episode or PostEpisode.model_validate(shipped("cjr")["post_episode"])

    def shipped_adjustment(self) -> None:
        """Quality changes the discount."""

    def uses_quality(self) -> bool:
        """The composite is stated as percentiles."""
        return False

    def shipped_limits(self) -> Limits:
        """By year."""
        rule = of_year("limits", self.performance_year)
        return Limits(gain=rule["gain"], loss=rule["protected_loss" if self.protected else "loss"])

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        found = super().problems()
        if self.quality_score is not None:
            found.append(f"{self.where}.quality_score: quality is stated by composite")
        if self.quality is not None:
            found.append(f"{self.where}.quality: quality changes the discount, not the difference")
        blend, rule = of_year("blend", self.performance_year), shipped("cjr")["blend_rule"]
        stated = (self.price.own * blend["region"], self.price.min_episodes)
        if self.price.kind == "baseline" and stated != (self.price.region * blend["own"], rule["min_episodes"]):
            found.append(
                f"{self.where}.price: own and region are {blend['own']} : {blend['region']} in year"
                f" {self.performance_year}, min_episodes is {rule['min_episodes']}"
            )
        return found

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """The composite first, then the reconciliation."""
        term = f"{self.where}.composite"
        parts = [
            ledger.add(f"quality.{name}", points, f"Composite: {name}", "points", term, unit="{points}")
            for name, points in self.composite.points().items()
        ]
        value = self.composite.composite()
        _, category = discount_of(value, self.performance_year)
        discounts = ", ".join(sorted({percent(self.discount(family)) for family in self.definition().families}))
        ledger.add(
            "quality",
            value,
            "Composite quality score",
            f"sum of points: {category}, discount {discounts}",
            term,
            parts,
            unit="{points}",
            metric="performance-qip",
        )
        super().settle(inputs, measures, ledger)

    def adjust(self, ledger: Ledger, prefix: str, difference: Number, score: Number | None) -> Number:
        """Nothing is gained below acceptable quality."""
        del score
        _, category = discount_of(self.composite.composite(), self.performance_year)
        if category != "below acceptable" or difference.value <= 0:
            return difference
        term = f"{self.where}.composite"
        return ledger.add(
            f"{prefix}adjusted", ZERO, "After quality", "below acceptable: no payment", term, (difference,)
        )
