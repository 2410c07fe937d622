"""Performance-based contracting: a place in the preferred network by rank or score, damages for shortfalls."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.facts import AMOUNT, Needs
from fhir_gateway.contracts.arrangements.p4p_terms import Condition
from fhir_gateway.contracts.scoring import ZERO, MeasureOutcome, composite, score_measures
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import add_exposure, add_measures
from fhir_gateway.contracts.terms import MeasureTerms, Money, Terms

#: Composites of the other providers of the network, as fractions.
SCORES_SCHEMA = pa.schema([pa.field("provider", pa.string(), False), pa.field("score", AMOUNT, False)])


class Preferred(Terms):
    """Who is preferred, and for what: the best ``top`` (and ties with the last), or a composite of ``at_least``.

    ``amount`` is paid as a sum, per member or per member month.
    """

    top: Annotated[int, Field(ge=1)] | None = None
    at_least: Decimal | None = None
    amount: Money
    per: Literal["period", "member", "member_month"] = "period"


class Damage(Terms):
    """What is owed when ``condition`` is not met: ``amount``, or that for each begun ``step`` short, up to ``cap``.

    A measure without a score, or below its smallest denominator, owes nothing: there is nothing to judge by.
    """

    condition: Condition
    amount: Money
    step: Annotated[Decimal, Field(gt=0)] | None = None
    cap: Money | None = None


@arrangement("scorecard")
class Scorecard(ArrangementTerms):
    """Terms of a scorecard; baselines of its conditions are those agreed at signature."""

    kind: Literal["scorecard"]
    preferred: Preferred | None = None
    scores_table: str | None = Field(default=None, description="Table (provider, score) of the others, for ``top``.")
    damages: tuple[Damage, ...] = ()
    damages_cap: Money | None = Field(default=None, description="Most that is owed for all shortfalls.")
    missing: Literal["reweight", "zero"] = "reweight"

    metrics = ("eligible-member", "member-months", "performance-qip", "potential-downside-qip", "earned-incentive")

    def stream(self) -> str:
        """Quality incentive payment, pay for performance."""
        return "p4p"

    def uses_quality(self) -> bool:
        """Always."""
        return True

    def names_measures(self) -> tuple[str, ...]:
        """Measures whose shortfall is owed for."""
        return tuple(damage.condition.measure for damage in self.damages if damage.condition.measure)

    def needs(self) -> Needs:
        """Scores of the network."""
        return Needs(tables={self.scores_table: SCORES_SCHEMA} if self.scores_table else {})

    def problems(self) -> list[str]:
        """Nothing at stake, two ways to be preferred, ranks without others."""
        found = []
        if self.preferred is None and not self.damages:
            found.append(f"{self.where}: neither preferred nor damages")
        if self.preferred is not None:
            if (self.preferred.top is None) == (self.preferred.at_least is None):
                found.append(f"{self.where}.preferred: either top or at_least")
            if (self.preferred.top is not None) != (self.scores_table is not None):
                found.append(f"{self.where}.scores_table: belongs to preferred.top")
        for number, damage in enumerate(self.damages, start=1):
            where = f"{self.where}.damages[{number}]"
            found += damage.condition.problems(f"{where}.condition")
            if damage.cap is not None and damage.cap < damage.amount:
                found.append(f"{where}.cap: below the amount of a single step")
        if self.damages_cap is not None and not self.damages:
            found.append(f"{self.where}.damages_cap: there are no damages")
        return found

    def carried_on(self) -> Carried:
        """By scores and tables as they stand."""
        return "scores"

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Composite, rank, what being preferred pays, what shortfalls cost."""
        members, months = add_exposure(ledger, inputs.exposure)
        scored = score_measures(measures, inputs.outcomes, self.missing)
        weighted = add_measures(ledger, scored)
        value = composite(scored)
        quality = ledger.add(
            "composite",
            value,
            "Composite",
            "sum of weighted points" if value is not None else "no measure takes part",
            self.where,
            weighted,
            unit="1",
            metric="performance-qip",
        )
        parts: list[Number] = []
        if self.preferred is not None:
            parts.append(self._preferred(self.preferred, value, quality, members, months, inputs, ledger))
        if self.damages:
            parts.append(self._damages(value, quality, inputs.outcomes, ledger))
        total = sum((part.value for part in parts), ZERO)
        amount = ledger.add("amount", total, "Scorecard", "preferred less damages", self.where, parts)
        ledger.pay(amount, "Scorecard", self.where, "earned-incentive")

    def _preferred(
        self,
        terms: Preferred,
        value: Decimal | None,
        quality: Number,
        members: Number,
        months: Number,
        inputs: SettlementInputs,
        ledger: Ledger,
    ) -> Number:
        because = [quality]
        if terms.top is not None:
            others = inputs.columns().table(self.scores_table or "")["score"].to_pylist()
            better = sum(1 for other in others if value is None or other > value)
            note = f"better than it: {better} of {len(others)} others"
            rank = ledger.add(
                "rank", Decimal(better + 1), "Rank", note, f"{self.where}.scores_table", (quality,), unit="1"
            )
            because.append(rank)
            chosen, rule = value is not None and rank.value <= terms.top, f"rank {terms.top} or better"
        else:
            least = terms.at_least or ZERO
            chosen, rule = value is not None and value >= least, f"composite of {least} or more"
        units = {"period": Decimal(inputs.part), "member": members.value, "member_month": months.value}[terms.per]
        because += {"member": [members], "member_month": [months]}.get(terms.per, [])
        return ledger.add(
            "preferred",
            terms.amount * units if chosen else ZERO,
            "Preferred network",
            f"{terms.amount} per {terms.per.replace('_', ' ')}: {rule}"
            if chosen
            else f"not preferred: {rule} is needed",
            f"{self.where}.preferred",
            because,
        )

    def _damages(
        self, value: Decimal | None, quality: Number, outcomes: Mapping[str, MeasureOutcome], ledger: Ledger
    ) -> Number:
        lines = []
        for number, damage in enumerate(self.damages, start=1):
            margin = damage.condition.margin(value, outcomes)
            owed, note = _owed(damage, margin)
            lines.append(
                ledger.add(
                    f"damage.{number}",
                    -owed,
                    f"Damages: {damage.condition.text()}",
                    note,
                    f"{self.where}.damages[{number}]",
                    () if damage.condition.measure else (quality,),
                    metric="potential-downside-qip",
                )
            )
        total = ledger.add(
            "damages",
            sum((line.value for line in lines), ZERO),
            "Liquidated damages",
            "sum of all shortfalls",
            f"{self.where}.damages",
            lines,
        )
        if self.damages_cap is not None and -total.value > self.damages_cap:
            term = f"{self.where}.damages_cap"
            total = ledger.add("damages-capped", -self.damages_cap, "Most that is owed", "as agreed", term, (total,))
        return total


def _owed(damage: Damage, margin: Decimal | None) -> tuple[Decimal, str]:
    """What a shortfall costs, and how."""
    if margin is None:
        return ZERO, "no score to judge by"
    if margin >= 0:
        return ZERO, "met"
    owed, note = damage.amount, f"short by {-margin:f}: {damage.amount}"
    if damage.step is not None:
        steps = (-margin / damage.step).to_integral_value(ROUND_CEILING)
        owed, note = (
            damage.amount * steps,
            f"short by {-margin:f}: {damage.amount} x {steps} begun steps of {damage.step}",
        )
    if damage.cap is not None and owed > damage.cap:
        return damage.cap, f"{note}, at most {damage.cap}"
    return owed, note
