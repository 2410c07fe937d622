"""The arithmetic of a shared savings settlement, step by step into the ledger."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from fhir_gateway.contracts.arrangements.base import SettlementInputs
from fhir_gateway.contracts.arrangements.corridor import variable_msr
from fhir_gateway.contracts.arrangements.shared_savings_parts import Corridor, EquityBonus, Tier
from fhir_gateway.contracts.arrangements.shared_savings_payment import Payment
from fhir_gateway.contracts.arrangements.shared_savings_target import add_target, agreed
from fhir_gateway.contracts.bands import band_parts, bands_from
from fhir_gateway.contracts.scoring import ONE, ZERO, composite, score_measures
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.social_risk import underserved
from fhir_gateway.contracts.statements import add_exposure, add_measures, percent
from fhir_gateway.contracts.terms import MeasureTerms

if TYPE_CHECKING:
    from fhir_gateway.contracts.arrangements.shared_savings import SharedSavings


class Reconciliation:
    """One settlement: target, cost, gross, corridor, share or loss; then :class:`Payment`."""

    def __init__(
        self, terms: SharedSavings, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger
    ) -> None:
        self.terms = terms
        self.inputs = inputs
        self.measures = measures
        self.ledger = ledger
        self.where = terms.where

    def run(self) -> None:
        """All steps in order."""
        members, months = add_exposure(self.ledger, self.inputs.exposure)
        if self.terms.expenditures:
            where = f"{self.where}.expenditures"
            members, months, cost = self.terms.expenditures.cost(self.inputs, where, self.ledger)
        else:
            cost = self._cost()
        target = add_target(self.terms.target, self.inputs, f"{self.where}.target", months, cost, self.ledger)
        gross = self.ledger.add(
            "gross",
            target.value - cost.value,
            "Savings (losses when negative)",
            "target - cost",
            f"{self.where}.target",
            (target, cost),
            metric="variance-cost",
        )
        gross = self._guardrail(gross, cost)
        quality = self._quality() if self.terms.uses_quality() else None
        counted, relief = self._corridor(members, gross, target)
        payment = Payment(self.terms, target, self.inputs.part, self.ledger)
        if gross.value >= 0:
            counted = self._carry(counted, gross)
            payment.pay_savings(self._share(counted, gross, relief, quality, target))
        else:
            self._carry(counted, gross)
            payment.pay_losses(self._lose(counted, gross, quality, target))

    def _cost(self) -> Number:
        exposure, add = self.inputs.exposure, self.ledger.add
        raw = add(
            "paid",
            exposure.cost_before_truncation,
            "Claims cost",
            "sum of counting claim lines",
            "claims",
            metric="paid-claim",
        )
        above = add(
            "above-truncation",
            exposure.cost_before_truncation - exposure.cost_before_completion,
            "Cost of members above the truncation",
            f"sum of max(0, cost of member - truncation); {exposure.truncated_members} members truncated",
            "claims.truncation",
        )
        truncated = add(
            "truncated",
            exposure.cost_before_completion,
            "Claims cost, truncated per member",
            "claims cost - what is above the truncation",
            "claims.truncation",
            (raw, above),
            metric="adjusted-paid-claim",
        )
        formula = "truncated cost x completion factor"
        return add("cost", exposure.cost, "Cost", formula, "claims.completion_factor", (truncated,), metric="med-cost")

    def _guardrail(self, gross: Number, cost: Number) -> Number:
        """A loss is measured against the better of both targets, and never turns into savings."""
        guardrail, where = self.terms.guardrail, f"{self.where}.guardrail"
        if guardrail is None or (gross.value >= 0 and not guardrail.applied):
            return gross
        because, value = [gross], gross.value
        if guardrail.target is not None:
            label = "Target without the update set in advance"
            value_of, formula = guardrail.target * self.inputs.part, agreed(self.inputs.part)
            other = self.ledger.add("guardrail-target", value_of, label, formula, where)
            because += [other, cost]
            value = max(value, other.value - cost.value)
        formula = "the smaller loss against both targets, no savings"
        return self.ledger.add("guarded", min(ZERO, value), "Losses after the guardrail", formula, where, because)

    def _quality(self) -> Number | None:
        """The composite; None when no measure takes part."""
        scored = score_measures(self.measures, self.inputs.outcomes, self.terms.quality.missing)
        weighted = add_measures(self.ledger, scored)
        value = composite(scored)
        line = self.ledger.add(
            "quality",
            value,
            "Quality composite",
            "sum of weighted points" if value is not None else "no measure takes part",
            f"{self.where}.quality",
            weighted,
            unit="1",
            metric="quality-gate-performance-percentage",
        )
        if value is None:
            return None
        quality, where = self.terms.quality, f"{self.where}.quality"
        if quality.equity:
            bonus = self._equity(quality.equity, f"{where}.equity")
            value, formula = min(ONE, line.value + bonus.value), "composite + equity bonus, at most 1"
            line = self.ledger.add(
                "quality-with-bonus", value, "Quality with bonus", formula, f"{where}.equity", (line, bonus), unit="1"
            )
        if line.value < quality.least:
            label, note = "Quality that counts", f"at least {quality.least}"
            line = self.ledger.add("quality-least", quality.least, label, note, f"{where}.least", (line,), unit="1")
        return line

    def _equity(self, terms: EquityBonus, where: str) -> Number:
        """The bonus, from what was notified or from scores and members."""
        add = self.ledger.add
        because: list[Number] = []
        points = sum(terms.points)
        if terms.thirds:
            scores = {name: outcome.score for name, outcome in self.inputs.outcomes.items()}
            each = {m.id: terms.points_of(m, scores.get(m.id)) for m in self.measures if m.id in terms.thirds}
            points, formula = (
                sum(each.values()),
                "4 in the best third of performance, 2 in the middle: "
                + ", ".join(f"{name} {value}" for name, value in each.items()),
            )
            because.append(add("equity-points", Decimal(points), "Equity points", formula, where, unit="1"))
        share = terms.underserved
        if share is None:
            facts = self.inputs.columns()
            found = underserved(facts.table(terms.table or ""), facts.people["member"].combine_chunks(), terms.adi)
            source = facts.source(terms.table or "")
            share = found.share
            formula = (
                f"the higher of {found.deprived} deprived and {found.poor} poor of {found.members} members; {source}"
            )
            because.append(add("equity-underserved", share, "Underserved members", formula, where, unit="1"))
        formula = f"{points} points x {percent(share)} underserved / 100"
        return add("equity-bonus", terms.bonus(points, share), "Equity bonus", formula, where, because, unit="1")

    def _corridor(self, members: Number, gross: Number, target: Number) -> tuple[Number, Decimal]:
        """Savings or losses that count, and the share of the sharing rate they are paid at."""
        corridor, where, add = self.terms.corridor, f"{self.where}.corridor", self.ledger.add
        rate_value = gross.value / target.value if target.value else ZERO
        rate = add("rate", rate_value, "Savings rate", "savings / target", where, (gross, target), unit="1")
        msr = minimum_rate(corridor, int(members.value))
        enough = members.value >= self.terms.min_members and msr is not None
        msr = ZERO if msr is None else msr
        mlr = msr if corridor.mlr is None else corridor.mlr
        saving = gross.value >= 0
        bound = add(
            "msr",
            msr if saving else -mlr,
            "Minimum savings rate" if saving else "Minimum loss rate",
            f"corridor '{corridor.kind}'",
            where,
            (members,) if corridor.kind in ("variable", "by_size") else (),
            unit="1",
        )
        met = rate.value >= msr if saving else rate.value <= -mlr
        relief = ONE
        value, formula = ZERO, "within the corridor: nothing is shared"
        if not enough:
            fewest = max(self.terms.min_members, min((s.members for s in corridor.sizes), default=0))
            formula = f"fewer than {fewest} members: nothing is shared"
        elif met and corridor.first_dollar:
            value, formula = gross.value, "corridor met: shared from the first dollar"
        elif met:
            value = gross.value - (msr if saving else -mlr) * target.value
            formula = "corridor met: shared beyond it"
        elif saving and corridor.relief_share is not None and members.value >= corridor.relief_members:
            value, relief = gross.value, corridor.relief_share
            formula = f"within the corridor: relief at {percent(relief)} of the sharing rate"
        return add("counted", value, "Savings or losses to share", formula, where, (gross, rate, bound)), relief

    def _carry(self, counted: Number, gross: Number) -> Number:
        """Savings after unpaid losses of earlier years, and what is carried on."""
        carry, where, add = self.terms.carry_forward, f"{self.where}.carry_forward", self.ledger.add
        if carry is None:
            return counted
        open_value, left = ZERO, max(ZERO, counted.value)
        for deficit in sorted(carry.deficits, key=lambda known: known.year):
            label, term = f"Deficit of {deficit.year}", f"{where}.deficits"
            if carry.expires_after is not None and carry.year - deficit.year > carry.expires_after:
                add(f"deficit-{deficit.year}", ZERO, label, f"expired after {carry.expires_after} years", term)
                continue
            line = add(f"deficit-{deficit.year}", deficit.amount, label, "as carried forward", term)
            used = min(left, deficit.amount)
            left -= used
            open_value += deficit.amount - used
            counted = add(
                f"after-deficit-{deficit.year}",
                counted.value - used,
                f"Savings after the deficit of {deficit.year}",
                "savings - deficit, not below 0",
                term,
                (counted, line),
            )
        new = max(ZERO, -gross.value)
        label, formula = "Deficit carried forward", "what is left of earlier deficits + this year's losses"
        add("deficit-left", open_value + new, label, formula, where, (gross,))
        return counted

    def _share(self, counted: Number, gross: Number, relief: Decimal, quality: Number | None, target: Number) -> Number:
        """The provider's share of savings."""
        terms, where, add = self.terms, self.where, self.ledger.add
        factor, formula = self._quality_factor(quality)
        because = [quality] if quality else []
        if terms.quality.gate is not None:
            term, metric = f"{where}.quality.gate", "quality-gate-percentage"
            because.append(add("gate", terms.quality.gate, "Quality gate", "as agreed", term, unit="1", metric=metric))
        value, name, term = terms.rate or ZERO, percent(terms.rate or ZERO), f"{where}.rate"
        if terms.tiers:
            value, name = tiered(terms.tiers, terms.tier_basis, counted.value, gross.value, target.value)
            term = f"{where}.tiers"
        formula = f"{name} x {formula}" + ("" if relief == ONE else f" x {percent(relief)} relief")
        rate = add("share", value * factor * relief, "Sharing rate", formula, term, because, unit="1")
        formula = "savings to share x sharing rate"
        return add("shared", counted.value * rate.value, "Provider's share", formula, term, (counted, rate))

    def _quality_factor(self, quality: Number | None) -> tuple[Decimal, str]:
        """Part of the sharing rate that quality earns, and why."""
        terms = self.terms.quality
        if terms.mode == "none":
            return ONE, "1"
        if quality is None:
            return ZERO, "0 (no quality result)"
        if terms.mode == "multiplicative":
            return quality.value, "composite"
        if terms.mode == "ladder":
            reached = (step.points for step in terms.steps if quality.value >= step.at)
            return max(reached, default=ZERO), "ladder step of the composite"
        if quality.value >= (terms.gate or ZERO):
            return ONE, "1 (gate met)"
        if terms.below_gate == "multiplicative":
            return quality.value, "composite (below the gate)"
        return ZERO, "0 (gate not met)"

    def _lose(self, counted: Number, gross: Number, quality: Number | None, target: Number) -> Number:
        """The provider's share of losses, before limits."""
        losses, where, add = self.terms.losses, f"{self.where}.losses", self.ledger.add
        label = "Provider's share of losses"
        if losses is None:
            return add("loss", ZERO, label, "one-sided: losses are not shared", where, (counted,))
        value, formula, term = losses.rate or ZERO, "as agreed", f"{where}.rate"
        if losses.tiers:
            value, formula = tiered(losses.tiers, "slice", -counted.value, -gross.value, target.value)
            term = f"{where}.tiers"
        elif losses.quality_adjusted:
            factor, _ = self._quality_factor(quality)
            earned = quality.value if quality and factor else ZERO  # who earns no share bears the highest loss rate
            share = self.terms.rate or ZERO
            value = min(losses.rate or ONE, max(losses.floor, 1 - share * earned))
            bounds = f"between {percent(losses.floor)} and {percent(losses.rate or ONE)}"
            formula = f"1 - {percent(share)} x composite, {bounds}"
        because = (quality,) if quality and losses.quality_adjusted else ()
        rate = add("loss-rate", value, "Loss sharing rate", formula, term, because, unit="1")
        formula = "losses to share x loss sharing rate"
        return add("loss", counted.value * rate.value, label, formula, term, (counted, rate))


def minimum_rate(corridor: Corridor, members: int) -> Decimal | None:
    """The minimum savings rate for a number of members; None below the smallest that may share."""
    if corridor.kind == "variable":
        return variable_msr(members)
    if corridor.kind == "by_size":
        reached = [size.msr for size in corridor.sizes if members >= size.members]
        return reached[-1] if reached else None
    return corridor.msr or ZERO


def tiered(
    tiers: tuple[Tier, ...], basis: str, counted: Decimal, gross: Decimal, target: Decimal
) -> tuple[Decimal, str]:
    """The sharing rate that tiers come to, and its explanation. Amounts are positive, of savings or of losses.

    ``counted`` lies at the upper end of ``gross``: what a corridor or a deficit took away are the first dollars.
    """
    if not counted or not target:
        return tiers[0].share, f"first tier {percent(tiers[0].share)}"
    if basis == "whole":
        tier = [t for t in tiers if gross / target >= t.at][-1]
        return tier.share, f"tier from {percent(tier.at)} on: {percent(tier.share)}"
    bands = bands_from((tier.at, tier.share) for tier in tiers)
    whole, below = (band_parts(to, target, bands) for to in (gross, max(ZERO, gross - counted)))
    slices = [(one, one.amount - other.amount) for one, other in zip(whole, below, strict=True)]
    amount = sum((part * one.share for one, part in slices), ZERO)
    parts = [f"{percent(one.share)} from {percent(one.lower)} on" for one, part in slices if part]
    return amount / counted, "slices of " + ", ".join(parts)
