"""Merit-based incentive payments: quality and three other categories to a final score, that to a payment factor."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.scoring import ONE, ZERO
from fhir_gateway.contracts.scoring import mips as rules
from fhir_gateway.contracts.scoring.mips import Category, MipsYear, QualityScore, Track
from fhir_gateway.contracts.scoring.points import decile_points
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import percent
from fhir_gateway.contracts.terms import Fraction, MeasureTerms, Money
from fhir_gateway.errors import ContractError


@arrangement("mips")
class Mips(ArrangementTerms):
    """Terms of merit-based incentive payments; weights and thresholds by ``year``, or the contract's own in ``rules``.

    The contract's measures are scored by ``decile``; their weights play no part. Categories that are not stated are
    missing, and their weight is redistributed.
    """

    kind: Literal["mips"]
    year: int = Field(description="Performance year; payment is two years later.")
    covered_services: Money = Field(description="Payments for covered professional services in the payment year.")
    scaling: Annotated[Decimal, Field(ge=0)] = Field(
        default=ONE, description="Scaling factor of the payment year: makes the programme budget neutral."
    )
    track: Literal["traditional", "app"] = Field(
        default="traditional", description="Traditional reporting, or the APM performance pathway (APP, APP Plus)."
    )
    rules: MipsYear | None = Field(default=None, description="Own table; default the one shipped for the year.")
    small_practice: bool = False
    completeness: dict[str, Fraction] = Field(
        default={}, description="Measure id -> part of the eligible patients that was reported; default all."
    )
    claims_measures: tuple[str, ...] = Field(
        default=(), description="Measures out of claims: nothing to report, excluded below their case minimum."
    )
    electronic_measures: int = Field(default=0, ge=0, description="Bonus points of an organization in track app.")
    quality_before: Fraction | None = Field(default=None, description="Last year's achievement, for improvement.")
    cost: Fraction | None = None
    improvement_activities: Fraction | None = None
    promoting_interoperability: Fraction | None = None
    complex_patient_bonus: Money = ZERO

    metrics = ("performance-qip", "quality-metric-performance-incentive", "interim-pmt-rate", "revenue", "earnings-qip")

    def stream(self) -> str:
        """Quality incentive payment, pay for performance."""
        return "p4p"

    def uses_quality(self) -> bool:
        """Always."""
        return True

    def weighs_measures(self) -> bool:
        """Every measure has the same weight."""
        return False

    def names_measures(self) -> tuple[str, ...]:
        """Measures whose completeness is stated, and claims measures."""
        return (*self.completeness, *self.claims_measures)

    @property
    def table(self) -> MipsYear:
        """The rules that hold."""
        return self.rules or MipsYear.of(self.year)

    def problems(self) -> list[str]:
        """A year without rules, categories that the track does not have."""
        try:
            track = self.table.tracks[self.track]
        except (ContractError, KeyError):
            return [f"{self.where}.year: there are no rules for {self.track} in {self.year}"]
        found = [
            f"{self.where}.{name}: plays no part in track {self.track}"
            for name in rules.CATEGORIES[1:]
            if getattr(self, name) is not None and not track.weights.get(name)
        ]
        if self.electronic_measures and self.track != "app":
            found.append(f"{self.where}.electronic_measures: give points in track app only")
        return found

    def carried_on(self) -> Carried:
        """By scores and tables as they stand."""
        return "scores"

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Points of the measures, categories, final score, factor, payment."""
        track = self.table.tracks[self.track]
        quality = self._quality(inputs, measures, track, ledger)
        stated: dict[Category, Decimal | None] = {
            "cost": self.cost,
            "improvement_activities": self.improvement_activities,
            "promoting_interoperability": self.promoting_interoperability,
        }
        scores: dict[Category, Number] = {} if quality is None else {"quality": quality}
        for name, score in stated.items():
            if score is not None:
                line = ledger.add(name, score, name.replace("_", " "), "as reported", f"{self.where}.{name}", unit="1")
                scores[name] = line
        missing = [name for name in rules.CATEGORIES if name not in scores]
        weights = rules.category_weights(missing, track, self.small_practice)
        weighted = [
            ledger.add(
                f"{name}.weighted",
                weight * scores[name].value,
                f"{name.replace('_', ' ')}: weighted",
                f"{percent(weight)} x score" + (f" ({', '.join(missing)} missing)" if missing else ""),
                f"{self.where}.rules.tracks.{self.track}.weights",
                (scores[name],),
                unit="1",
            )
            for name, weight in weights.items()
        ]
        self._pay(scores, weights, weighted, ledger)

    def _pay(
        self,
        scores: dict[Category, Number],
        weights: dict[Category, Decimal],
        weighted: Sequence[Number],
        ledger: Ledger,
    ) -> None:
        table, where = self.table, self.where
        bonus = ledger.add(
            "complex-patients",
            min(self.complex_patient_bonus, table.complex_patient_cap),
            "Complex patient bonus",
            f"as computed by the programme, at most {table.complex_patient_cap}",
            f"{where}.complex_patient_bonus",
            unit="1",
        )
        final = ledger.add(
            "final-score",
            rules.final_score({n: s.value for n, s in scores.items()}, weights, bonus.value, table),
            "Final score",
            "100 x weighted categories + bonus, at most 100",
            f"{where}.rules",
            (*weighted, bonus),
            unit="1",
            metric="performance-qip",
        )
        factor = ledger.add(
            "adjustment",
            rules.payment_adjustment(final.value, self.scaling, table),
            "Payment adjustment",
            self._formula(final.value),
            f"{where}.rules.threshold",
            (final,),
            unit="1",
            metric="interim-pmt-rate",
        )
        paid = ledger.add(
            "covered-services", self.covered_services, "Covered services", "as agreed", where, metric="revenue"
        )
        amount = ledger.add(
            "amount",
            paid.value * factor.value,
            "Gained or lost",
            "covered services x adjustment",
            where,
            (paid, factor),
        )
        ledger.pay(amount, "Merit-based incentive", where, "earnings-qip")

    def _formula(self, score: Decimal) -> str:
        table = self.table
        rate, threshold = percent(table.highest_rate), table.threshold
        if score > threshold:
            return f"{rate} x (score - {threshold}) / (100 - {threshold}) x scaling {self.scaling} (at most 3)"
        if score <= threshold * table.lowest_quarter:
            return f"-{rate}: in the lowest part of the scores below {threshold}"
        return f"-{rate} x ({threshold} - score) / {threshold}"

    def _quality(
        self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], track: Track, ledger: Ledger
    ) -> Number | None:
        """The quality category; None when no measure counts."""
        lines: list[Number] = []
        reported: list[Decimal] = []
        claims: list[Decimal] = []
        for terms in measures:
            points, reason = self._points(terms, inputs, track)
            line = ledger.add(
                f"{terms.id}.points",
                points,
                f"{terms.name}: points",
                reason,
                f"measures.{terms.id}.scoring",
                unit="1",
                metric="quality-metric-performance-incentive",
                evidence={"measure": terms.canonical},
            )
            lines.append(line)
            if points is not None:
                (claims if terms.id in self.claims_measures else reported).append(points)
        if not reported and not claims:
            return None
        required = track.required_measures
        plain = rules.quality_score(reported, claims, required, self.table)
        bonus = self.table.small_practice_bonus if self.small_practice and reported else ZERO
        bonus += min(Decimal(self.electronic_measures), self.table.complex_organization_cap * plain.available)
        quality = rules.quality_score(reported, claims, required, self.table, bonus=bonus, before=self.quality_before)
        return self._quality_line(quality, lines, ledger)

    def _quality_line(self, quality: QualityScore, lines: Sequence[Number], ledger: Ledger) -> Number:
        formula = (
            f"({quality.points.normalize():f} points + {quality.bonus.normalize():f} bonus) / "
            f"{quality.available.normalize():f} + improvement {percent(quality.improvement)}, at most 100%"
        )
        return ledger.add("quality", quality.score, "quality", formula, f"{self.where}.rules", lines, unit="1")

    def _points(self, terms: MeasureTerms, inputs: SettlementInputs, track: Track) -> tuple[Decimal | None, str]:
        """Points of 10 of a measure and why; None when it counts neither in the numerator nor in the denominator."""
        outcome = inputs.outcomes.get(terms.id)
        if outcome is None:
            raise ContractError(f"measures.{terms.id}: there is no result for {terms.canonical}")
        if terms.scoring is None or terms.scoring.kind != "decile":
            raise ContractError(f"measures.{terms.id}.scoring: merit-based incentives score by decile")
        from_claims = terms.id in self.claims_measures
        least = self.table.small_practice_floor if self.small_practice else ZERO
        if outcome.score is None or outcome.denominator < terms.min_denominator:
            if from_claims or outcome.denominator == 0:
                return None, f"does not count: below the case minimum of {terms.min_denominator}"
            return least, f"below the case minimum of {terms.min_denominator}"
        complete = self.completeness.get(terms.id, ONE)
        if complete < self.table.completeness:
            return (
                least,
                f"{percent(complete)} of eligible patients reported, {percent(self.table.completeness)} needed",
            )
        if not terms.scoring.deciles and terms.scoring.floor is None:
            return (
                (None, "does not count: no benchmark")
                if track.without_benchmark == "exclude"
                else (least, "no benchmark")
            )
        points = decile_points(outcome.score, terms.direction, terms.scoring)
        return (
            points,
            f"by deciles, score {outcome.score.normalize():f} of {outcome.denominator}, better is {terms.direction}",
        )
