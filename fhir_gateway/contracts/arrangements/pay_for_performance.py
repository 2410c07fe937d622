"""Pay for performance: a pool of money, earned by points on quality measures."""

from __future__ import annotations

from collections import defaultdict
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Literal

from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, Carried, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.facts import Needs
from fhir_gateway.contracts.arrangements.p4p_terms import PEERS_SCHEMA, PROGRAMME_SCHEMA, Gates, Pool
from fhir_gateway.contracts.scoring import ONE, ZERO, Scored, composite, score_measures
from fhir_gateway.contracts.scoring.points import next_step
from fhir_gateway.contracts.scoring.stars import members_to
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import add_exposure, add_measures, percent
from fhir_gateway.contracts.terms import MeasureTerms, Money, Terms
from fhir_gateway.errors import ContractError


class PointsRounding(Terms):
    """To how many decimals a measure's points (of 1) are rounded, and how."""

    digits: int = Field(ge=0, le=8)
    mode: Literal["half_up", "down"] = "half_up"


@arrangement("pay_for_performance")
class PayForPerformance(ArrangementTerms):
    """Terms of a pay-for-performance arrangement; each measure's scoring and weight stand with the measure."""

    kind: Literal["pay_for_performance"]
    budget: Pool
    gate: Decimal | None = Field(default=None, description="Composite below which nothing is earned.")
    gates: Gates | None = Field(default=None, description="Conditions: all, any or so many of them.")
    missing: Literal["reweight", "zero"] = "reweight"
    heirs: dict[str, str] = Field(
        default={}, description="Measure id -> id of the measure that takes its weight when it does not take part."
    )
    peers: str | None = Field(default=None, description="Table (measure, score) of peers, for percentile scoring.")
    points_rounding: PointsRounding | None = None
    cap: Money | None = Field(default=None, description="Most that is paid.")
    floor: Money | None = Field(default=None, description="Least that is paid once the gate is met.")
    min_members: int = Field(default=0, ge=0, description="Below it nothing is earned.")

    metrics = (
        *("eligible-member", "member-months", "potential-upside-qip", "performance-qip", "quality-gate-percentage"),
        *("quality-metric-performance-incentive", "earned-incentive", "med-cost", "med-cost-target", "revenue"),
    )

    def stream(self) -> str:
        """Quality incentive payment, pay for performance."""
        return "p4p"

    def uses_quality(self) -> bool:
        """Always."""
        return True

    def names_measures(self) -> tuple[str, ...]:
        """Measures of gates and of weights that move."""
        gated = [c.measure for c in self.gates.conditions if c.measure] if self.gates else []
        return (*gated, *self.heirs, *self.heirs.values())

    def needs(self) -> Needs:
        """The tables that the terms name."""
        tables = {self.peers: PEERS_SCHEMA} if self.peers else {}
        return Needs(tables=tables | ({self.budget.table: PROGRAMME_SCHEMA} if self.budget.table else {}))

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        found = self.budget.problems(f"{self.where}.budget")
        if self.gates is not None:
            found += self.gates.problems(f"{self.where}.gates")
        if self.gate is not None and not ZERO <= self.gate <= ONE:
            found.append(f"{self.where}.gate: above the highest composite, which is 1")
        if self.cap is not None and self.floor is not None and self.cap < self.floor:
            found.append(f"{self.where}.cap: below the floor")
        if self.budget.kind == "budget_neutral" and (self.cap is not None or self.floor is not None):
            found.append(f"{self.where}.budget: a cap or a floor would break its neutrality")
        found += [f"{self.where}.heirs: '{name}' is its own heir" for name, heir in self.heirs.items() if name == heir]
        return found

    def carried_on(self) -> Carried:
        """By scores as they stand, and months as coverage stands."""
        return "scores"

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Pool, points, what each measure earned, gates, limits, payable."""
        members, months = add_exposure(ledger, inputs.exposure)
        scored = [self._rounded(entry) for entry in self._score(inputs, measures)]
        value = composite(scored)
        pool = self._pool(inputs, value or ZERO, members, months, ledger)
        weighted = add_measures(ledger, scored)
        self._next_steps(scored, ledger)
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
        amount = self._limit(amount, quality, value, members, inputs, ledger)
        ledger.pay(amount, "Earned incentive", self.where, "earned-incentive")

    def _score(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...]) -> tuple[Scored, ...]:
        peers: dict[str, list[Decimal]] = defaultdict(list)
        if self.peers is not None:
            table = inputs.columns().table(self.peers)
            for name, score in zip(table["measure"].to_pylist(), table["score"].to_pylist(), strict=True):
                peers[name].append(score)
        return score_measures(measures, inputs.outcomes, self.missing, heirs=self.heirs, peers=peers)

    def _next_steps(self, scored: list[Scored], ledger: Ledger) -> None:
        """How many members are missing to the next step of a rate that is scored by steps."""
        for entry in scored:
            terms, outcome = entry.terms, entry.outcome
            if entry.points is None or terms.scoring is None or outcome.score is None or outcome.numerator is None:
                continue
            step = next_step(outcome.score, terms.direction, terms.scoring)
            if step is None or terms.unit != "1" or not ZERO <= step <= ONE:
                continue
            ledger.add(
                f"{terms.id}.to-next-step",
                Decimal(members_to(step, outcome.numerator, outcome.denominator, terms.direction)),
                f"{terms.name}: members to the next step",
                f"up to {percent(step)} x {outcome.denominator}, less {outcome.numerator}, in whole members",
                f"measures.{terms.id}.scoring",
                unit="{members}",
            )

    def _rounded(self, entry: Scored) -> Scored:
        rule = self.points_rounding
        if rule is None or entry.points is None:
            return entry
        mode = ROUND_HALF_UP if rule.mode == "half_up" else ROUND_DOWN
        points = entry.points.quantize(Decimal(1).scaleb(-rule.digits), mode)
        return Scored(entry.terms, entry.outcome, points, entry.weight, entry.reason)

    def _pool(
        self, inputs: SettlementInputs, score: Decimal, members: Number, months: Number, ledger: Ledger
    ) -> Number:
        amount, term = self.budget.amount, f"{self.where}.budget"
        because: tuple[Number, ...] = ()
        value, formula = amount * inputs.part, _agreed(inputs.part)
        if self.budget.kind == "per_member":
            value, formula, because = amount * members.value, f"{amount} x members", (members,)
        elif self.budget.kind == "per_member_month":
            value, formula, because = amount * months.value, f"{amount} x member months", (months,)
        elif self.budget.kind == "percent_of_premium":
            stated = (self.budget.premium or ZERO) * inputs.part
            premium = ledger.add("premium", stated, "Premium", _agreed(inputs.part), term, metric="revenue")
            value, formula, because = amount * premium.value, f"{percent(amount)} of the premium", (premium,)
        elif self.budget.kind == "percent_of_savings":
            savings = self._savings(inputs, months, ledger)
            value, formula, because = amount * savings.value, f"{percent(amount)} of the savings", (savings,)
        elif self.budget.kind == "budget_neutral":
            base, slope = self._exchange(inputs, score, ledger)
            value, because = amount * base.value * slope.value, (base, slope)
            formula = f"{percent(amount)} of the base x slope"
        return ledger.add("pool", value, "Pool", formula, term, because, metric="potential-upside-qip")

    def _savings(self, inputs: SettlementInputs, months: Number, ledger: Ledger) -> Number:
        term = f"{self.where}.budget"
        if self.budget.target_pmpm is not None:
            stated, formula = self.budget.target_pmpm * months.value, f"{self.budget.target_pmpm} x member months"
        else:
            stated, formula = (self.budget.target or ZERO) * inputs.part, _agreed(inputs.part)
        target = ledger.add("target", stated, "Target cost", formula, term, (months,), metric="med-cost-target")
        cost = ledger.add("cost", inputs.exposure.cost, "Cost", "by the claims terms", "claims", metric="med-cost")
        value = max(ZERO, target.value - cost.value)
        return ledger.add("savings", value, "Savings", "target - cost, none below zero", term, (target, cost))

    def _exchange(self, inputs: SettlementInputs, score: Decimal, ledger: Ledger) -> tuple[Number, Number]:
        """Base of the contract's provider, and the slope with which all that is withheld is paid back."""
        rows = inputs.columns().table(self.budget.table or "").to_pylist()
        own = [row["base"] for row in rows if row["score"] is None]
        if len(own) != 1:
            raise ContractError(f"tables.{self.budget.table}: one row has no score: that of the contract's provider")
        term = f"{self.where}.budget"
        evidence = {"table": self.budget.table or "", "providers": str(len(rows))}
        base = ledger.add("base", own[0], "Base payments", "of the contract's provider", term, evidence=evidence)
        whole = sum((row["base"] for row in rows), ZERO)
        points = sum((row["base"] * (score if row["score"] is None else row["score"]) for row in rows), ZERO)
        slope = ledger.add(
            "slope",
            whole / points if points else ZERO,
            "Slope of the exchange function",
            "sum of all bases / sum of base x score: all that is withheld is paid back",
            term,
            (base,),
            unit="1",
            evidence=evidence,
        )
        return base, slope

    def _limit(
        self,
        amount: Number,
        quality: Number,
        value: Decimal | None,
        members: Number,
        inputs: SettlementInputs,
        ledger: Ledger,
    ) -> Number:
        where = self.where
        if members.value < self.min_members:
            note = f"fewer than {self.min_members} members: nothing is earned"
            label = "Earned with enough members"
            return ledger.add("small", ZERO, label, note, f"{where}.min_members", (amount, members))
        passed = value is not None and (self.gate is None or quality.value >= self.gate)
        if self.gate is not None:
            term = f"{where}.gate"
            gate = ledger.add(
                "gate", self.gate, "Quality gate", "as agreed", term, unit="1", metric="quality-gate-percentage"
            )
            note = "gate met" if passed else f"composite below {percent(self.gate)}: nothing is earned"
            remains = amount.value if passed else ZERO
            amount = ledger.add("gated", remains, "Earned after the gate", note, term, (amount, quality, gate))
        if self.gates is not None:
            met = [c for c in self.gates.conditions if c.is_met(value, inputs.outcomes)]
            passed = passed and len(met) >= self.gates.count
            note = f"{len(met)} of {self.gates.count} needed conditions met: " + (
                "; ".join(c.text() for c in met) or "none"
            )
            remains = amount.value * self.gates.share(len(met))
            label = "Earned after the conditions"
            amount = ledger.add("conditioned", remains, label, note, f"{where}.gates", (amount, quality))
        agreed = _agreed(inputs.part)
        if self.floor is not None and passed and amount.value < (least := self.floor * inputs.part):
            amount = ledger.add("floored", least, "Least that is paid", agreed, f"{where}.floor", (amount,))
        if self.cap is not None and amount.value > (most := self.cap * inputs.part):
            amount = ledger.add("capped", most, "Most that is paid", agreed, f"{where}.cap", (amount,))
        return amount


def _agreed(part: Decimal) -> str:
    """How an amount of the year counts in a settlement of a part of it."""
    return "as agreed" if part == 1 else f"as agreed for the year x {part.normalize():f}, the part of it"
