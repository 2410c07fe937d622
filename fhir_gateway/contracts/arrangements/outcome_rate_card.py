"""Outcome rate cards and social impact bonds: a tariff per verified outcome, and who of the investors gets what."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

import duckdb
import pyarrow as pa
from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.facts import Facts, Needs
from fhir_gateway.contracts.scoring import ONE, ZERO, MeasureOutcome
from fhir_gateway.contracts.scoring.points import clip
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import percent
from fhir_gateway.contracts.terms import Fraction, MeasureTerms, Money, Terms
from fhir_gateway.errors import ContractError

#: An outcome that is claimed. It counts once per person, outcome and window, when somebody verified it.
OUTCOMES_SCHEMA = pa.schema(
    [
        pa.field("person", pa.string(), False),
        pa.field("outcome", pa.string(), False),
        pa.field("window", pa.string(), False),
        pa.field("occurred", pa.date32(), False),
        pa.field("verified", pa.date32()),
        pa.field("verifier", pa.string()),
        pa.field("evidence", pa.string()),
    ]
)
#: Persons and persons with the outcome, of those served and of a control group.
COHORTS_SCHEMA = pa.schema(
    [
        pa.field("outcome", pa.string(), False),
        pa.field("treated", pa.int64(), False),
        pa.field("treated_with", pa.int64(), False),
        pa.field("control", pa.int64(), False),
        pa.field("control_with", pa.int64(), False),
    ]
)


class Tariff(Terms):
    """An outcome and its price. What would have happened anyway is ``deadweight``, or what the control group shows."""

    outcome: str
    tariff: Money
    counterfactual: Literal["none", "deadweight", "control"] = "none"
    deadweight: Fraction | None = None
    cap: Money | None = None


class Trigger(Terms):
    """A change over the whole cohort: nothing is paid below ``at``, ``start_share`` there, everything at ``full_at``.

    The change is that of the ``measure`` from ``baseline``, in its part of the baseline (``relative``) or absolute.
    """

    measure: str
    baseline: Annotated[Decimal, Field(gt=0)]
    change: Literal["reduction", "rise"] = "reduction"
    relative: bool = True
    at: Annotated[Decimal, Field(gt=0)]
    full_at: Annotated[Decimal, Field(gt=0)] | None = None
    start_share: Fraction = ONE

    def share(self, score: Decimal) -> tuple[Decimal, Decimal]:
        """The change, and the part that is paid."""
        change = self.baseline - score if self.change == "reduction" else score - self.baseline
        if self.relative:
            change /= self.baseline
        if change < self.at:
            return change, ZERO
        if self.full_at is None or change >= self.full_at:
            return change, ONE
        return change, self.start_share + (ONE - self.start_share) * clip((change - self.at) / (self.full_at - self.at))


class Investors(Terms):
    """Who gets outcome payments first: principal, preferred return on it for so many years, a share of the rest."""

    principal: Money
    preferred_rate: Fraction = ZERO
    years: Annotated[Decimal, Field(gt=0)] = ONE
    success_share: Fraction = ZERO


class _Counted(NamedTuple):
    """Claims of an outcome: those that count, and those left out by reason."""

    accepted: int = 0
    repeated: int = 0
    unverified: int = 0
    late: int = 0
    outside: int = 0


_COUNT = """
WITH judged AS (
  SELECT *, occurred BETWEEN $start AND $end AS inside,
    verified IS NOT NULL AND verifier IS NOT NULL AND evidence IS NOT NULL AS proven,
    $lag IS NULL OR verified <= occurred + $lag AS timely
  FROM outcomes
)
SELECT outcome,
  count(DISTINCT (person, "window")) FILTER (inside AND proven AND timely) AS accepted,
  count(*) FILTER (inside AND proven AND timely) - accepted AS repeated,
  count(*) FILTER (inside AND NOT proven) AS unverified,
  count(*) FILTER (inside AND proven AND NOT timely) AS late,
  count(*) FILTER (NOT inside) AS outside
FROM judged GROUP BY outcome
"""


@arrangement("outcome_rate_card")
class OutcomeRateCard(ArrangementTerms):
    """Terms of a rate card. A claimed outcome needs a day of verification, a verifier and a document of evidence."""

    kind: Literal["outcome_rate_card"]
    card: tuple[Tariff, ...] = Field(min_length=1)
    outcomes_table: str = "outcomes"
    cohorts_table: str | None = Field(default=None, description="Table of persons served and of a control group.")
    evidence_days: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Days after an outcome within which it is verified."
    )
    trigger: Trigger | None = None
    cap: Money | None = Field(default=None, description="Budget of all outcomes.")
    investors: Investors | None = None

    metrics = ("performance-qip", "earned-incentive", "potential-upside-qip")

    def stream(self) -> str:
        """Quality incentive payment."""
        return "qip"

    def uses_quality(self) -> bool:
        """Outcomes are in its own table; a trigger names its measure."""
        return False

    def names_measures(self) -> tuple[str, ...]:
        """The measure of the trigger."""
        return (self.trigger.measure,) if self.trigger else ()

    def needs(self) -> Needs:
        """Outcomes and cohorts."""
        cohorts = {self.cohorts_table: COHORTS_SCHEMA} if self.cohorts_table else {}
        return Needs(tables={self.outcomes_table: OUTCOMES_SCHEMA} | cohorts)

    def problems(self) -> list[str]:
        """Counterfactuals without their terms, outcomes twice, triggers in the wrong order."""
        found = []
        names = [item.outcome for item in self.card]
        found += [f"{self.where}.card: '{n}' is there twice" for n in sorted({n for n in names if names.count(n) > 1})]
        for item in self.card:
            if (item.counterfactual == "deadweight") != (item.deadweight is not None):
                found.append(f"{self.where}.card.{item.outcome}.deadweight: belongs to counterfactual deadweight")
        controlled = any(item.counterfactual == "control" for item in self.card)
        if controlled != (self.cohorts_table is not None):
            found.append(f"{self.where}.cohorts_table: belongs to counterfactual control")
        if self.trigger is not None and self.trigger.full_at is not None and self.trigger.full_at <= self.trigger.at:
            found.append(f"{self.where}.trigger.full_at: not above at")
        return found

    def carried_on(self) -> Carried:
        """Not at all: outcomes to come are not a matter of time."""
        raise self.not_carried("outcomes that are still to be verified are not known from those so far")

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Verified outcomes, counterfactual, caps, trigger, budget, investors."""
        facts = inputs.columns()
        counted = self._count(facts)
        cohorts = (
            {row["outcome"]: row for row in facts.table(self.cohorts_table).to_pylist()} if self.cohorts_table else {}
        )
        lines = [self._item(item, counted.get(item.outcome, _Counted()), cohorts, ledger) for item in self.card]
        total = sum((line.value for line in lines), ZERO)
        amount = ledger.add("outcomes", total, "All outcomes", "sum", f"{self.where}.card", lines)
        if self.trigger is not None:
            amount = self._triggered(self.trigger, amount, inputs.outcomes, ledger)
        if self.cap is not None and amount.value > self.cap:
            amount = ledger.add("capped", self.cap, "Within the budget", "as agreed", f"{self.where}.cap", (amount,))
        if self.investors is not None:
            self._waterfall(self.investors, amount, ledger)
        ledger.pay(amount, "Outcome payments", self.where, "earned-incentive")

    def _count(self, facts: Facts) -> Mapping[str, _Counted]:
        start, end = facts.period
        with duckdb.connect() as connection:
            connection.register("outcomes", facts.table(self.outcomes_table))
            found = connection.execute(_COUNT, {"start": start, "end": end, "lag": self.evidence_days}).fetchall()
        return {name: _Counted(*counts) for name, *counts in found}

    def _item(
        self, item: Tariff, counted: _Counted, cohorts: Mapping[str, Mapping[str, Any]], ledger: Ledger
    ) -> Number:
        term = f"{self.where}.card.{item.outcome}"
        verified = ledger.add(
            f"{item.outcome}.verified",
            Decimal(counted.accepted),
            f"{item.outcome}: verified",
            f"once per person and window; left out: {counted.repeated} repeated, {counted.unverified} not verified,"
            f" {counted.late} verified too late, {counted.outside} outside the period",
            f"tables.{self.outcomes_table}",
            unit="{outcomes}",
        )
        value, formula = verified.value, "all that were verified"
        if item.counterfactual == "deadweight":
            deadweight = item.deadweight or ZERO
            value, formula = value * (ONE - deadweight), f"verified x (1 - deadweight {percent(deadweight)})"
        elif item.counterfactual == "control":
            value, formula = self._against_control(item, cohorts)
        caused = ledger.add(
            f"{item.outcome}.caused",
            value,
            f"{item.outcome}: beyond what would have happened",
            formula,
            term,
            (verified,),
            unit="{outcomes}",
        )
        paid = ledger.add(
            f"{item.outcome}.paid",
            caused.value * item.tariff,
            f"{item.outcome}: tariff",
            f"{item.tariff} x outcomes",
            f"{term}.tariff",
            (caused,),
            metric="potential-upside-qip",
        )
        if item.cap is not None and paid.value > item.cap:
            paid = ledger.add(f"{item.outcome}.capped", item.cap, "At most", "as agreed", f"{term}.cap", (paid,))
        return paid

    def _against_control(self, item: Tariff, cohorts: Mapping[str, Mapping[str, Any]]) -> tuple[Decimal, str]:
        row = cohorts.get(item.outcome)
        if row is None or not row["treated"] or not row["control"]:
            raise ContractError(f"tables.{self.cohorts_table}: '{item.outcome}' needs persons in both groups")
        treated = Decimal(row["treated_with"]) / row["treated"]
        control = Decimal(row["control_with"]) / row["control"]
        formula = (
            f"({row['treated_with']} / {row['treated']} - {row['control_with']} / {row['control']}) x {row['treated']}"
            " persons served, not below zero"
        )
        return max(ZERO, (treated - control) * row["treated"]), formula

    def _triggered(
        self, trigger: Trigger, amount: Number, outcomes: Mapping[str, MeasureOutcome], ledger: Ledger
    ) -> Number:
        outcome = outcomes.get(trigger.measure)
        if outcome is None or outcome.score is None:
            raise ContractError(f"measures.{trigger.measure}: there is no score for it, and the trigger asks for it")
        change, share = trigger.share(outcome.score)
        term = f"{self.where}.trigger"
        moved = ledger.add(
            "change",
            change,
            f"{trigger.measure}: {trigger.change} from {trigger.baseline}",
            f"score {outcome.score.normalize():f}" + (", as a part of the baseline" if trigger.relative else ""),
            term,
            unit="1",
            metric="performance-qip",
        )
        note = f"{percent(share)}: nothing below {percent(trigger.at)}"
        if trigger.full_at is not None:
            note += f", {percent(trigger.start_share)} there, all from {percent(trigger.full_at)} on"
        return ledger.add("triggered", amount.value * share, "After the trigger", note, term, (amount, moved))

    def _waterfall(self, terms: Investors, amount: Number, ledger: Ledger) -> None:
        """What investors get of the payments; the parts sum to them."""
        where, left = f"{self.where}.investors", amount.value
        principal = min(left, terms.principal)
        left -= principal
        preferred = min(left, terms.principal * terms.preferred_rate * terms.years)
        left -= preferred
        success = left * terms.success_share
        for name, value, label, formula in (
            ("principal", principal, "Investors: principal", f"first {terms.principal}"),
            (
                "preferred",
                preferred,
                "Investors: preferred return",
                f"{percent(terms.preferred_rate)} of the principal for {terms.years} years, after it",
            ),
            ("success", success, "Investors: success fee", f"{percent(terms.success_share)} of the rest"),
            ("provider-rest", left - success, "Provider: the rest", "what remains"),
        ):
            ledger.add(f"investors.{name}", value, label, formula, where, (amount,))
