"""ACO REACH and LEAD: a discounted benchmark against the cost of aligned members, shared in risk corridors.

Benchmark -> discount (Global only) -> quality withhold, earned back by quality -> equity adjustment -> final benchmark.
Cost, net of individual stop-loss. Gross = final benchmark - net cost; what lies in each band of the final benchmark is
kept (or borne) at the band's share; sequestration takes its part of savings only.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.facts import Needs
from fhir_gateway.contracts.arrangements.reach_adjustments import add_equity, add_rate, add_stop_loss
from fhir_gateway.contracts.arrangements.reach_rules import ReachYear, Risk, RiskOption, reach_year
from fhir_gateway.contracts.arrangements.shared_savings_parts import AgreedRisk, Tier, tier_problems
from fhir_gateway.contracts.arrangements.shared_savings_target import agreed
from fhir_gateway.contracts.bands import band_parts, bands_from
from fhir_gateway.contracts.benchmarks.cost import COST_COLUMNS
from fhir_gateway.contracts.scoring import ONE, ZERO, composite, score_measures
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.social_risk import SOCIAL_RISK_SCHEMA
from fhir_gateway.contracts.statements import add_exposure, add_measures, percent
from fhir_gateway.contracts.terms import Fraction, MeasureTerms, Money, Terms
from fhir_gateway.errors import ContractError

EQUITY_SCHEMA = pa.schema(
    [pa.field("member", pa.string(), nullable=False), pa.field("tenth", pa.int32(), nullable=False)]
)


class RegionalBlend(Terms):
    """Regional and national cost per member month; share and caps are the year's unless stated."""

    amount: Money
    national: Money
    share: Fraction | None = None
    cap: Fraction | None = None
    floor: Fraction | None = None


class ReachBenchmark(Terms):
    """The benchmark before discount and withholds, or ``final`` after them: ``amount`` in all, or per member month.

    Per member month it may be blended with the ``regional`` cost, and adjusted by ``risk`` (the year's cap both ways).
    """

    amount: Money
    per: Literal["total", "member_month"] = "total"
    final: bool = False
    regional: RegionalBlend | None = None
    risk: AgreedRisk | None = None


class StopLossBand(Terms):
    """``share`` of a member's cost above ``at``, as far as the next band."""

    at: Annotated[Decimal, Field(gt=0, decimal_places=2)]
    share: Annotated[Decimal, Field(gt=0, le=1)]


class StopLoss(Terms):
    """Individual stop-loss: bands over the year's cost of a member, for a charge per member month; or as notified."""

    bands: tuple[StopLossBand, ...] = ()
    charge: Money = ZERO
    notified: Decimal | None = Field(default=None, description="Charge less payout, added to cost.")


class EquityScores(Terms):
    """Tenths out of social risk: percentile of deprivation, and points for who is dual eligible or of low income."""

    table: str = "social_risk"
    poor_points: int | None = Field(default=None, ge=0, description="In place of the year's.")
    cuts: tuple[Decimal, ...] = Field(
        default=(),
        description="Nine scores at which the tenths begin, the highest first; without them the table is ranked.",
    )


class Equity(Terms):
    """Equity adjustment of the benchmark: up and down as notified, or amounts by tenth times member months."""

    up: Money = ZERO
    down: Annotated[Decimal, Field(le=0)] = ZERO
    by_tenth: bool = Field(default=False, description="From the contract's table `equity_tenths` (member, tenth).")
    amounts: tuple[Decimal, ...] | None = Field(default=None, description="Ten amounts; default the year's.")
    scores: EquityScores | None = Field(default=None, description="Tenths are computed from social risk.")


@arrangement("aco_reach")
class AcoReach(ArrangementTerms):
    """An agreement of ACO REACH (to 2026) or LEAD (from 2027), for one performance year."""

    kind: Literal["aco_reach"]
    performance_year: int = Field(ge=2021)
    risk: Risk
    benchmark: ReachBenchmark
    high_spending: bool = Field(default=False, description="LEAD: spends more than its region.")
    discount: Fraction | None = Field(default=None, description="In place of the year's.")
    quality_withhold: Fraction | None = Field(default=None, description="In place of the year's.")
    missing: Literal["reweight", "zero"] = "reweight"
    retention_withhold: Fraction = Field(default=ZERO, description="Withheld until the agreement is kept.")
    retention_returned: bool = True
    stop_loss: StopLoss | None = None
    equity: Equity | None = None
    bands: tuple[Tier, ...] = Field(default=(), description="Corridors in place of the year's.")
    loss_bands: tuple[Tier, ...] = Field(default=(), description="Those of losses, when they differ.")
    sequestration: Fraction | None = Field(default=None, description="In place of the year's.")

    metrics = (
        *("eligible-member", "member-months", "paid-claim", "med-cost", "cost-target", "variance-cost"),
        *("quality-gate-performance-percentage", "shared-saving-deficit"),
    )

    def stream(self) -> str:
        """Shared savings, with quality where a part of the benchmark depends on it."""
        return "ssq" if self.uses_quality() else "ssp"

    def uses_quality(self) -> bool:
        """Unless the final benchmark is given, or nothing is withheld."""
        return not self.benchmark.final and self._withhold() != 0

    def needs(self) -> Needs:
        """Claim lines for stop-loss, the table of tenths for the equity adjustment."""
        lines = (*COST_COLUMNS,) if self.stop_loss and self.stop_loss.bands else ()
        tables = {}
        if self.equity and self.equity.by_tenth:
            scores = self.equity.scores
            tables = {scores.table: SOCIAL_RISK_SCHEMA} if scores else {"equity_tenths": EQUITY_SCHEMA}
        return Needs(lines, tables, people=bool(lines or tables))

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        where = self.where
        found = tier_problems(f"{where}.bands", self.bands, "slice")
        found += tier_problems(f"{where}.loss_bands", self.loss_bands, "slice")
        try:
            year = reach_year(self.performance_year)
        except ContractError as error:
            return [*found, f"{where}.performance_year: {error.message}"]
        if self.loss_bands and not self.bands:
            found.append(f"{where}.loss_bands: the bands of savings are missing")
        if self.discount and self.risk == "professional":
            found.append(f"{where}.discount: only the global option has one")
        if self.benchmark.per == "total" and (self.benchmark.regional or self.benchmark.risk):
            found.append(f"{where}.benchmark: a total is not blended or adjusted; give an amount per member month")
        if self.benchmark.final and (self.discount is not None or self.quality_withhold is not None):
            found.append(f"{where}.benchmark.final: discount and quality are in it already")
        if self.high_spending and year.option(self.risk).discount_high_spending is None:
            found.append(f"{where}.high_spending: makes no difference in {self.performance_year}")
        if self.stop_loss:
            bands = [band.at for band in self.stop_loss.bands]
            if bands != sorted(set(bands)):
                found.append(f"{where}.stop_loss.bands: go from the lowest to the highest, each once")
            if bool(bands) == (self.stop_loss.notified is not None):
                found.append(f"{where}.stop_loss: needs one of bands and notified")
        if self.equity:
            amounts = self.equity.amounts or year.equity
            if self.equity.by_tenth and (self.equity.up or self.equity.down):
                found.append(f"{where}.equity: is notified and computed")
            if self.equity.scores and not self.equity.by_tenth:
                found.append(f"{where}.equity.scores: belong to by_tenth")
            cuts = self.equity.scores.cuts if self.equity.scores else ()
            if cuts and (len(cuts) != 9 or list(cuts) != sorted(set(cuts), reverse=True)):
                found.append(f"{where}.equity.scores.cuts: are nine, the highest first, each once")
            if self.equity.by_tenth and len(amounts) != 10:
                found.append(f"{where}.equity.amounts: ten are needed, the year has {len(amounts)}")
        return found

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Final benchmark, net cost, gross, bands, sequestration, payable."""
        where, add = self.where, ledger.add
        year = reach_year(self.performance_year)
        _, months = add_exposure(ledger, inputs.exposure)
        final = self._benchmark(inputs, measures, months, year, ledger)
        cost = add(
            "cost", inputs.exposure.cost, "Total cost of care", "as by the claims terms", "claims", metric="med-cost"
        )
        if self.stop_loss:
            cost = add_stop_loss(self.stop_loss, inputs, months, cost, f"{where}.stop_loss", ledger)
        label, formula = "Gross savings (losses when negative)", "final benchmark - net cost"
        gross = add("gross", final.value - cost.value, label, formula, where, (final, cost), metric="variance-cost")
        rate = gross.value / final.value if final.value else ZERO
        add("rate", rate, "Savings rate", "gross / final benchmark", where, (gross, final), unit="1")
        amount = self._corridors(gross, final, year, ledger)
        part = year.sequestration if self.sequestration is None else self.sequestration
        if part and amount.value > 0:
            value, formula = amount.value * (ONE - part), f"x (1 - {percent(part)}), of savings only"
            amount = add("sequestered", value, "After sequestration", formula, f"{where}.sequestration", (amount,))
        ledger.pay(amount, "Shared savings or losses", where, "shared-saving-deficit")

    def _withhold(self) -> Decimal:
        if self.quality_withhold is not None:
            return self.quality_withhold
        return reach_year(self.performance_year).quality_withhold

    def _discount(self, option: RiskOption) -> Decimal:
        if self.discount is not None:
            return self.discount
        if self.high_spending and option.discount_high_spending is not None:
            return option.discount_high_spending
        return option.discount

    def _benchmark(
        self,
        inputs: SettlementInputs,
        measures: tuple[MeasureTerms, ...],
        months: Number,
        year: ReachYear,
        ledger: Ledger,
    ) -> Number:
        """The final benchmark."""
        where, add, stated = f"{self.where}.benchmark", ledger.add, self.benchmark
        value, formula = stated.amount * inputs.part, agreed(inputs.part)
        because: tuple[Number, ...] = ()
        if stated.per == "member_month":
            rate = add_rate(stated, year, where, ledger)
            value, formula, because = rate.value * months.value, "per member month x member months", (rate, months)
        number = add("benchmark", value, "Final benchmark" if stated.final else "Benchmark", formula, where, because)
        if not stated.final:
            number = self._reduce(inputs, measures, number, year, ledger)
        if self.retention_withhold and not self.retention_returned:
            kept, term = ONE - self.retention_withhold, f"{self.where}.retention_withhold"
            label, formula = "Benchmark less the retention withhold", f"x (1 - {percent(self.retention_withhold)})"
            number = add("after-retention", number.value * kept, label, formula, term, (number,))
        if self.equity:
            amounts = self.equity.amounts or year.equity
            number = add_equity(self.equity, amounts, year.poor_points, inputs, number, f"{self.where}.equity", ledger)
        label = "Benchmark that cost is set against"
        return add("final", number.value, label, "after all adjustments", where, (number,), metric="cost-target")

    def _reduce(
        self,
        inputs: SettlementInputs,
        measures: tuple[MeasureTerms, ...],
        number: Number,
        year: ReachYear,
        ledger: Ledger,
    ) -> Number:
        """Discount, then what quality does not earn back."""
        add, discount = ledger.add, self._discount(year.option(self.risk))
        if discount:
            value, formula = number.value * (ONE - discount), f"x (1 - {percent(discount)})"
            label = "Benchmark after the discount"
            number = add("discounted", value, label, formula, f"{self.where}.discount", (number,))
        withhold = self._withhold()
        if not withhold:
            return number
        scored = score_measures(measures, inputs.outcomes, self.missing)
        weighted = add_measures(ledger, scored)
        score = composite(scored)
        term, metric = f"{self.where}.quality_withhold", "quality-gate-performance-percentage"
        formula = "sum of weighted points" if score is not None else "no measure takes part"
        quality = add("quality", score, "Quality composite", formula, term, weighted, unit="1", metric=metric)
        earned = number.value * (ONE - withhold + withhold * quality.value)
        formula = f"x (1 - {percent(withhold)} + {percent(withhold)} x composite)"
        label = "Benchmark with the earned quality withhold"
        return add("after-quality", earned, label, formula, term, (number, quality))

    def _corridors(self, gross: Number, final: Number, year: ReachYear, ledger: Ledger) -> Number:
        """What is kept or borne of each band."""
        saving = gross.value >= 0
        bands = year.option(self.risk).bands(saving=saving)
        if self.bands:
            bands = self.bands if saving or not self.loss_bands else self.loss_bands
        parts = []
        for number, part in enumerate(
            band_parts(gross.value, final.value, bands_from((b.at, b.share) for b in bands)), 1
        ):
            if not part.amount:
                continue
            formula = f"{percent(part.share)} of what lies above {percent(part.lower)} of the benchmark"
            term = f"{self.where}.bands"
            parts.append(ledger.add(f"band-{number}", part.shared, f"Band {number}", formula, term, (gross, final)))
        total = sum((part.value for part in parts), ZERO)
        label = "Shared savings (losses when negative)"
        return ledger.add("shared", total, label, "sum of the bands", f"{self.where}.bands", parts or (gross,))
