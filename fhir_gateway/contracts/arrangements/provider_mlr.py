"""Medical loss ratio of a provider at risk: cost against capitation revenue, shared around a target ratio."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, SettlementInputs, arrangement
from fhir_gateway.contracts.bands import Band, band_parts
from fhir_gateway.contracts.scoring import ZERO
from fhir_gateway.contracts.settlement import Ledger
from fhir_gateway.contracts.statements import add_exposure, percent
from fhir_gateway.contracts.terms import Fraction, MeasureTerms, Money


@arrangement("provider_mlr")
class ProviderMlr(ArrangementTerms):
    """Terms: ``target`` is the ratio at which nothing is shared; ``gains`` and ``losses`` are bands of the revenue.

    Revenue is agreed as a sum or per member month. Cost is that of the claims terms, completed for what is not yet
    reported.
    """

    kind: Literal["provider_mlr"]
    target: Annotated[Decimal, Field(gt=0, le=2)]
    revenue: Money | None = Field(default=None, description="Capitation revenue of the period.")
    revenue_pmpm: Money | None = Field(default=None, description="Or per member month.")
    gains: tuple[Band, ...] = Field(min_length=1)
    losses: tuple[Band, ...] = ()
    cap: Fraction | None = Field(default=None, description="Most that is gained or lost, as a part of the revenue.")

    metrics = (
        *("eligible-member", "member-months", "revenue", "med-cost", "med-ibnr", "med-loss-ratio"),
        *("med-loss-ratio-target", "earnings-cap"),
    )

    def stream(self) -> str:
        """Total cost of care."""
        return "tcoc"

    def uses_quality(self) -> bool:
        """Quality plays no part."""
        return False

    def problems(self) -> list[str]:
        """Both revenues or none; bands that do not grow."""
        found = []
        if (self.revenue is None) == (self.revenue_pmpm is None):
            found.append(f"{self.where}.revenue: either revenue or revenue_pmpm")
        for name, bands in (("gains", self.gains), ("losses", self.losses)):
            edges = [band.through for band in bands]
            stated = [edge for edge in edges if edge is not None]
            if stated != sorted(set(stated)) or None in edges[:-1]:
                found.append(f"{self.where}.{name}: bands do not grow, or one after the open band")
        return found

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Revenue, cost, ratio, deviation from the target, bands, payable."""
        _, months = add_exposure(ledger, inputs.exposure)
        if self.revenue_pmpm is not None:
            value, formula = self.revenue_pmpm * months.value, f"{self.revenue_pmpm} x member months"
        else:
            value, formula = (self.revenue or ZERO) * inputs.part, "as agreed for the period"
        revenue = ledger.add(
            "revenue", value, "Capitation revenue", formula, f"{self.where}.revenue", (months,), metric="revenue"
        )
        exposure = inputs.exposure
        ledger.add(
            "ibnr",
            exposure.cost - exposure.cost_before_completion,
            "Incurred but not reported",
            "completed cost - cost",
            "claims.completion_factor",
            metric="med-ibnr",
        )
        cost = ledger.add("cost", exposure.cost, "Cost", "by the claims terms, completed", "claims", metric="med-cost")
        ratio = cost.value / revenue.value if revenue.value else None
        ledger.add(
            "ratio",
            ratio,
            "Medical loss ratio",
            "cost / revenue" if ratio is not None else "no revenue",
            self.where,
            (cost, revenue),
            unit="1",
            metric="med-loss-ratio",
        )
        target = ledger.add(
            "target",
            self.target,
            "Target ratio",
            "as agreed",
            f"{self.where}.target",
            unit="1",
            metric="med-loss-ratio-target",
        )
        deviation = ledger.add(
            "deviation",
            target.value * revenue.value - cost.value,
            "Surplus or deficit",
            "target x revenue - cost",
            f"{self.where}.target",
            (target, revenue, cost),
        )
        name = "gains" if deviation.value >= 0 else "losses"
        parts = [
            ledger.add(
                f"{name}.{number}",
                part.shared,
                f"{name}: band {number}",
                f"{percent(part.share)} of {part.amount:f}: from {percent(part.lower)}"
                + (" of the revenue on" if part.upper is None else f" to {percent(part.upper)} of the revenue"),
                f"{self.where}.{name}[{number}]",
                (deviation, revenue),
            )
            for number, part in enumerate(band_parts(deviation.value, revenue.value, getattr(self, name)), start=1)
        ]
        shared = ledger.add(
            "shared",
            sum((part.value for part in parts), ZERO),
            "Shared",
            "sum of the bands",
            self.where,
            parts or (deviation,),
        )
        if self.cap is not None and abs(shared.value) > (most := self.cap * revenue.value):
            limit = most if shared.value > 0 else -most
            note = f"at most {percent(self.cap)} of the revenue"
            shared = ledger.add("capped", limit, "Within the cap", note, f"{self.where}.cap", (shared, revenue))
        ledger.pay(shared, "Shared surplus or deficit", self.where, "earnings-cap")
