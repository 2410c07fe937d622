"""Pay for performance: a pool of money, earned by points on quality measures."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, SettlementInputs, arrangement
from fhir_gateway.contracts.scoring import ONE, ZERO, composite, score_measures
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import add_exposure, add_measures, percent
from fhir_gateway.contracts.terms import MeasureTerms, Money, Terms


class Pool(Terms):
    """What can be earned: a ``fixed`` amount, or an amount ``per_member`` or ``per_member_month`` attributed."""

    kind: Literal["fixed", "per_member", "per_member_month"]
    amount: Annotated[Decimal, Field(gt=0)]


@arrangement("pay_for_performance")
class PayForPerformance(ArrangementTerms):
    """Terms of a pay-for-performance arrangement; each measure's scoring and weight stand with the measure."""

    kind: Literal["pay_for_performance"]
    budget: Pool
    gate: Decimal | None = Field(default=None, description="Composite below which nothing is earned.")
    missing: Literal["reweight", "zero"] = "reweight"
    cap: Money | None = Field(default=None, description="Most that is paid.")
    floor: Money | None = Field(default=None, description="Least that is paid once the gate is met.")
    min_members: int = Field(default=0, ge=0, description="Below it nothing is earned.")

    metrics = (
        *("eligible-member", "member-months", "potential-upside-qip", "performance-qip", "quality-gate-percentage"),
        *("quality-metric-performance-incentive", "earned-incentive"),
    )

    def stream(self) -> str:
        """Quality incentive payment, pay for performance."""
        return "p4p"

    def uses_quality(self) -> bool:
        """Always."""
        return True

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        found = []
        if self.gate is not None and not ZERO <= self.gate <= ONE:
            found.append(f"{self.where}.gate: above the highest composite, which is 1")
        if self.cap is not None and self.floor is not None and self.cap < self.floor:
            found.append(f"{self.where}.cap: below the floor")
        return found

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Pool, points, what each measure earned, gate, limits, payable."""
        members, months = add_exposure(ledger, inputs.exposure)
        pool = self._pool(members, months, ledger)
        scored = score_measures(measures, inputs.outcomes, self.missing)
        weighted = add_measures(ledger, scored)
        value = composite(scored)
        formula = "sum of weighted points" if value is not None else "no measure takes part"
        quality = ledger.add(
            "composite", value, "Composite", formula, self.where, weighted, unit="1", metric="performance-qip"
        )
        earned = [
            ledger.add(
                f"{entry.terms.id}.earned",
                pool.value * points.value,
                f"{entry.terms.name}: earned",
                "pool x weighted points",
                f"measures.{entry.terms.id}",
                (pool, points),
                metric="quality-metric-performance-incentive",
                evidence={"measure": entry.terms.canonical},
            )
            for entry, points in zip(scored, weighted, strict=True)
        ]
        total = sum((number.value for number in earned), ZERO)
        amount = ledger.add(
            "earned", total, "Earned by all measures", "sum of what each measure earned", f"{self.where}.budget", earned
        )
        amount = self._limit(amount, quality, value is not None, members, ledger)
        ledger.pay(amount, "Earned incentive", self.where, "earned-incentive")

    def _pool(self, members: Number, months: Number, ledger: Ledger) -> Number:
        amount = self.budget.amount
        value, formula, because = {
            "fixed": (amount, "as agreed", ()),
            "per_member": (amount * members.value, f"{amount} x members", (members,)),
            "per_member_month": (amount * months.value, f"{amount} x member months", (months,)),
        }[self.budget.kind]
        term = f"{self.where}.budget"
        return ledger.add("pool", value, "Pool", formula, term, because, metric="potential-upside-qip")

    def _limit(self, amount: Number, quality: Number, has_quality: bool, members: Number, ledger: Ledger) -> Number:
        where = self.where
        if members.value < self.min_members:
            note = f"fewer than {self.min_members} members: nothing is earned"
            label = "Earned with enough members"
            return ledger.add("small", ZERO, label, note, f"{where}.min_members", (amount, members))
        passed = has_quality and (self.gate is None or quality.value >= self.gate)
        if self.gate is not None:
            term = f"{where}.gate"
            gate = ledger.add(
                "gate", self.gate, "Quality gate", "as agreed", term, unit="1", metric="quality-gate-percentage"
            )
            note = "gate met" if passed else f"composite below {percent(self.gate)}: nothing is earned"
            value = amount.value if passed else ZERO
            amount = ledger.add("gated", value, "Earned after the gate", note, term, (amount, quality, gate))
        if self.floor is not None and passed and amount.value < self.floor:
            amount = ledger.add("floored", self.floor, "Least that is paid", "as agreed", f"{where}.floor", (amount,))
        if self.cap is not None and amount.value > self.cap:
            amount = ledger.add("capped", self.cap, "Most that is paid", "as agreed", f"{where}.cap", (amount,))
        return amount
