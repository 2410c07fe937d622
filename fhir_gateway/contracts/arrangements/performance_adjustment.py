"""Performance-based adjustments: a part of a payment added or taken off, by the composite of quality."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from fhir_gateway.contracts.arrangements.base import SettlementInputs
from fhir_gateway.contracts.audit import ZERO
from fhir_gateway.contracts.scoring import composite, ladder_problems, score_measures
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import add_measures, percent
from fhir_gateway.contracts.terms import Fraction, MeasureTerms, Terms


class AdjustmentStep(Terms):
    """From a composite of ``at`` on, this part of the payment is added, or taken off when negative."""

    at: Fraction
    part: Annotated[Decimal, Field(ge=-1)]


class PerformanceAdjustment(Terms):
    """The best step reached counts; below the first, ``below`` does."""

    steps: tuple[AdjustmentStep, ...] = Field(min_length=1)
    below: Annotated[Decimal, Field(ge=-1)] = Decimal(0)
    missing: Literal["reweight", "zero"] = "reweight"

    def problems(self, where: str) -> list[str]:
        """Terms that contradict each other."""
        found = ladder_problems(f"{where}.steps", [(step.at, step.part) for step in self.steps])
        if self.steps[0].part < self.below:
            found.append(f"{where}.below: pays more than the first step")
        return found

    def part(self, value: Decimal | None) -> Decimal:
        """The part for a composite; nothing is changed when no measure takes part."""
        if value is None:
            return ZERO
        return max((step.part for step in self.steps if value >= step.at), default=self.below)


def add_adjustment(
    terms: PerformanceAdjustment,
    payment: Number,
    inputs: SettlementInputs,
    measures: tuple[MeasureTerms, ...],
    ledger: Ledger,
    where: str,
) -> Number:
    """Measures, composite and what it adds or takes off."""
    scored = score_measures(measures, inputs.outcomes, terms.missing)
    weighted = add_measures(ledger, scored)
    value = composite(scored)
    note = "sum of weighted points" if value is not None else "no measure takes part"
    quality = ledger.add("composite", value, "Composite", note, where, weighted, unit="1", metric="performance-ccf")
    part = terms.part(value)
    formula = f"{percent(part)} x payment"
    return ledger.add(
        "adjustment", payment.value * part, "Performance-based adjustment", formula, where, (payment, quality)
    )
