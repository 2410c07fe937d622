"""Shared savings and losses: cost of the attributed members against a target.

Order of operations (Medicare Shared Savings Program, 42 CFR 425.605; commercial contracts use the same parts):
target x exposure -> gross = target - cost -> rate = gross / target -> corridor -> share by quality -> sequestration ->
cap -> payable. Losses: gross x loss rate -> limit -> relief. Rates are never rounded on the way.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from fhir_gateway.contracts.arrangements.base import ArrangementTerms, SettlementInputs, arrangement
from fhir_gateway.contracts.arrangements.corridor import variable_msr
from fhir_gateway.contracts.scoring import ONE, ZERO, composite, ladder_problems, score_measures
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.contracts.statements import add_exposure, add_measures, percent
from fhir_gateway.contracts.terms import Fraction, MeasureTerms, Money, Step, Terms
from fhir_gateway.errors import ContractError


class Target(Terms):
    """What the attributed members were expected to cost.

    ``pmpm``: ``amount`` per member month. ``prior_year``: last year's cost per member month (``amount`` when agreed,
    else computed over the same members) grown by ``trend``. ``total``: ``amount`` for the year, whatever the exposure.
    """

    kind: Literal["pmpm", "prior_year", "total"]
    amount: Money | None = None
    trend: Decimal = ZERO


class Corridor(Terms):
    """Savings and losses that do not count. ``fixed`` rates, or ``variable`` by size (MSSP table), or ``none``."""

    kind: Literal["none", "fixed", "variable"] = "none"
    msr: Fraction | None = Field(default=None, description="Minimum savings rate.")
    mlr: Fraction | None = Field(default=None, description="Minimum loss rate, as a positive number; default the msr.")
    first_dollar: bool = Field(default=True, description="Once met, share from the first dollar; else only above it.")
    relief_share: Fraction | None = Field(
        default=None, description="Share of the sharing rate paid on savings below the msr (42 CFR 425.605(h))."
    )
    relief_members: int = Field(default=0, ge=0, description="Members needed for that relief.")


class Quality(Terms):
    """How quality changes the share. The composite is between 0 and 1."""

    mode: Literal["none", "gate", "ladder", "multiplicative"] = "none"
    gate: Decimal | None = Field(default=None, description="Composite needed for the full share.")
    below_gate: Literal["nothing", "multiplicative"] = "nothing"
    steps: tuple[Step, ...] = ()
    missing: Literal["reweight", "zero"] = "reweight"


class Losses(Terms):
    """The provider's share of losses."""

    rate: Fraction = Field(description="Share of losses; with quality_adjusted its ceiling.")
    quality_adjusted: bool = Field(default=False, description="1 - sharing rate x composite, between floor and rate.")
    floor: Fraction = Field(default=ZERO, description="Lowest loss rate when quality adjusted.")
    limit: Annotated[Decimal, Field(gt=0, le=1)] | None = Field(default=None, description="Of the target.")
    limit_amount: Money | None = Field(default=None, description="Such as a share of the provider's revenue.")
    relief: Fraction = Field(default=ZERO, description="Share of losses forgiven after disasters.")


@arrangement("shared_savings")
class SharedSavings(ArrangementTerms):
    """Terms of a shared savings arrangement; two-sided when ``losses`` is given."""

    kind: Literal["shared_savings"]
    target: Target
    corridor: Corridor = Corridor()
    rate: Fraction = Field(description="Share of savings at full quality.")
    quality: Quality = Quality()
    sequestration: Fraction = ZERO
    cap: Annotated[Decimal, Field(gt=0, le=1)] | None = Field(default=None, description="Of the target.")
    floor: Money = Field(default=ZERO, description="Savings payments below it are not made.")
    losses: Losses | None = None
    min_members: int = Field(default=0, ge=0, description="Below it nothing is shared.")

    metrics = (
        *("eligible-member", "member-months", "paid-claim", "adjusted-paid-claim", "med-cost", "med-cost-pmpm"),
        *("med-cost-pmpm-target", "cost-target", "variance-cost", "quality-gate-percentage"),
        *("quality-gate-performance-percentage", "potential-upside-ssl", "potential-downside-ssl"),
        "shared-saving-deficit",
    )

    def stream(self) -> str:
        """Gated on quality (``ssq``) or a plain share (``ssp``)."""
        return "ssq" if self.uses_quality() else "ssp"

    def uses_quality(self) -> bool:
        """Whether the share, and with it a quality adjusted loss rate, depends on quality."""
        return self.quality.mode != "none"

    def needs_baseline(self) -> bool:
        """Whether last year's cost must be computed."""
        return self.target.kind == "prior_year" and self.target.amount is None

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        found, where = [], self.where
        if self.target.kind != "prior_year" and self.target.amount is None:
            found.append(f"{where}.target.amount: a {self.target.kind} target needs it")
        if self.target.kind != "prior_year" and self.target.trend:
            found.append(f"{where}.target.trend: only a prior_year target has one")
        corridor = self.corridor
        if corridor.kind != "fixed" and (corridor.msr is not None or corridor.mlr is not None):
            found.append(f"{where}.corridor: a minimum rate is given, but the corridor is '{corridor.kind}'")
        if corridor.kind == "fixed" and corridor.msr is None:
            found.append(f"{where}.corridor.msr: a fixed corridor needs it")
        if corridor.kind == "none" and corridor.relief_share is not None:
            found.append(f"{where}.corridor.relief_share: there is no corridor to be relieved of")
        if corridor.mlr is not None and self.losses is None:
            found.append(f"{where}.corridor.mlr: there are no losses to share")
        quality = self.quality
        if quality.mode == "gate" and quality.gate is None:
            found.append(f"{where}.quality.gate: a gate needs it")
        if quality.mode != "gate" and quality.gate is not None:
            found.append(f"{where}.quality.gate: the mode is '{quality.mode}'")
        if quality.gate is not None and not ZERO <= quality.gate <= ONE:
            found.append(f"{where}.quality.gate: above the highest composite, which is 1")
        if (quality.mode == "ladder") != bool(quality.steps):
            found.append(f"{where}.quality.steps: belong to mode 'ladder', and it needs them")
        found += ladder_problems(f"{where}.quality.steps", [(s.at, s.points) for s in quality.steps])
        if any(s.at > ONE for s in quality.steps):
            found.append(f"{where}.quality.steps: start above the highest composite, which is 1")
        total = self.target.amount if self.target.kind == "total" else None
        if self.cap is not None and total is not None and self.floor > self.cap * total:
            found.append(f"{where}.cap: below the floor, nothing could ever be paid")
        losses = self.losses
        if losses:
            if losses.floor > losses.rate:
                found.append(f"{where}.losses.floor: above the loss rate, which is its ceiling")
            if losses.quality_adjusted and quality.mode == "none":
                found.append(f"{where}.losses.quality_adjusted: quality plays no part (quality.mode is 'none')")
            if losses.floor and not losses.quality_adjusted:
                found.append(f"{where}.losses.floor: the loss rate is not quality adjusted")
        return found

    def settle(self, inputs: SettlementInputs, measures: tuple[MeasureTerms, ...], ledger: Ledger) -> None:
        """Target, cost, corridor, quality, share or loss, payable (see :class:`Reconciliation`)."""
        Reconciliation(self, inputs, measures, ledger).run()


class Reconciliation:
    """The arithmetic of one shared savings settlement, step by step into the ledger."""

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
        cost = self._cost()
        target = self._target(months, cost)
        gross = self.ledger.add(
            "gross",
            target.value - cost.value,
            "Savings (losses when negative)",
            "target - cost",
            f"{self.where}.target",
            (target, cost),
            metric="variance-cost",
        )
        quality = self._quality() if self.terms.uses_quality() else None
        counted, relief = self._corridor(members, gross, target)
        if gross.value >= 0:
            self._share(counted, relief, quality, target)
        else:
            self._lose(counted, quality, target)

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
        truncated = add(
            "truncated",
            exposure.cost_before_completion,
            "Claims cost, truncated per member",
            f"sum of min(cost of member, truncation); {exposure.truncated_members} members truncated",
            "claims.truncation",
            (raw,),
            metric="adjusted-paid-claim",
        )
        formula = "truncated cost x completion factor"
        return add("cost", exposure.cost, "Cost", formula, "claims.completion_factor", (truncated,), metric="med-cost")

    def _target(self, months: Number, cost: Number) -> Number:
        target, where, add = self.terms.target, f"{self.where}.target", self.ledger.add
        if months.value:
            label = "Cost per member month"
            value = cost.value / months.value
            add("pmpm", value, label, "cost / member months", "claims", (cost, months), metric="med-cost-pmpm")
        if target.kind == "total":
            return add("target", target.amount, "Target", "as agreed", where, metric="cost-target")
        if target.kind == "pmpm":
            pmpm, formula, because = target.amount or ZERO, "as agreed", []
        else:
            prior = self._prior_year()
            pmpm, formula, because = prior.value * (1 + target.trend), f"prior year x (1 + {target.trend})", [prior]
        label = "Target per member month"
        line = add("target-pmpm", pmpm, label, formula, where, because, metric="med-cost-pmpm-target")
        formula = "target per member month x member months"
        return add("target", pmpm * months.value, "Target", formula, where, (line, months), metric="cost-target")

    def _prior_year(self) -> Number:
        target, baseline, where = self.terms.target, self.inputs.baseline, f"{self.where}.target"
        label = "Prior year cost per member month"
        if target.amount is not None:
            return self.ledger.add("prior-pmpm", target.amount, label, "as agreed", where)
        if baseline is None:
            raise ContractError(f"{where}: the cost of the year before is needed and was not given")
        if not baseline.member_months:
            raise ContractError(f"{where}: the attributed members have no months in the year before")
        formula = "cost of the same members in the year before / their member months"
        cost = self.ledger.add("prior-cost", baseline.cost, "Prior year cost", "as this year's cost", where)
        months = self.ledger.add(
            "prior-member-months",
            baseline.member_months,
            "Prior year member months",
            "as this year's",
            where,
            unit="mo",
        )
        return self.ledger.add("prior-pmpm", cost.value / months.value, label, formula, where, (cost, months))

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
        return None if value is None else line

    def _corridor(self, members: Number, gross: Number, target: Number) -> tuple[Number, Decimal]:
        """Savings or losses that count, and the share of the sharing rate they are paid at."""
        corridor, where, add = self.terms.corridor, f"{self.where}.corridor", self.ledger.add
        rate_value = gross.value / target.value if target.value else ZERO
        rate = add("rate", rate_value, "Savings rate", "savings / target", where, (gross, target), unit="1")
        msr = variable_msr(int(members.value)) if corridor.kind == "variable" else corridor.msr or ZERO
        mlr = msr if corridor.mlr is None else corridor.mlr
        saving = gross.value >= 0
        bound = add(
            "msr",
            msr if saving else -mlr,
            "Minimum savings rate" if saving else "Minimum loss rate",
            f"corridor '{corridor.kind}'",
            where,
            (members,) if corridor.kind == "variable" else (),
            unit="1",
        )
        met = rate.value >= msr if saving else rate.value <= -mlr
        relief = ONE
        value, formula = ZERO, "within the corridor: nothing is shared"
        if members.value < self.terms.min_members:
            formula = f"fewer than {self.terms.min_members} members: nothing is shared"
        elif met and corridor.first_dollar:
            value, formula = gross.value, "corridor met: shared from the first dollar"
        elif met:
            value = gross.value - (msr if saving else -mlr) * target.value
            formula = "corridor met: shared beyond it"
        elif saving and corridor.relief_share is not None and members.value >= corridor.relief_members:
            value, relief = gross.value, corridor.relief_share
            formula = f"within the corridor: relief at {percent(relief)} of the sharing rate"
        return add("counted", value, "Savings or losses to share", formula, where, (gross, rate, bound)), relief

    def _share(self, counted: Number, relief: Decimal, quality: Number | None, target: Number) -> None:
        terms, where, add = self.terms, self.where, self.ledger.add
        factor, formula = self._quality_factor(quality)
        because = [quality] if quality else []
        if terms.quality.gate is not None:
            term, metric = f"{where}.quality.gate", "quality-gate-percentage"
            because.append(add("gate", terms.quality.gate, "Quality gate", "as agreed", term, unit="1", metric=metric))
        formula = f"{percent(terms.rate)} x {formula}" + ("" if relief == ONE else f" x {percent(relief)} relief")
        rate = add("share", terms.rate * factor * relief, "Sharing rate", formula, f"{where}.rate", because, unit="1")
        formula = "savings to share x sharing rate"
        amount = add(
            "shared", counted.value * rate.value, "Provider's share", formula, f"{where}.rate", (counted, rate)
        )
        if terms.sequestration:
            value, formula = amount.value * (1 - terms.sequestration), f"x (1 - {percent(terms.sequestration)})"
            amount = add("sequestered", value, "After sequestration", formula, f"{where}.sequestration", (amount,))
        if terms.cap is not None:
            term, formula = f"{where}.cap", f"{percent(terms.cap)} of target"
            value = terms.cap * target.value
            cap = add("cap", value, "Most that is paid", formula, term, (target,), metric="potential-upside-ssl")
            value = min(amount.value, cap.value)
            amount = add("capped", value, "Share within the cap", "the lesser", term, (amount, cap))
        if amount.value < terms.floor:
            note = f"below {terms.floor}: not paid"
            amount = add("floored", ZERO, "Share from the floor on", note, f"{where}.floor", (amount,))
        self.ledger.pay(amount, "Shared savings", where, "shared-saving-deficit")

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

    def _lose(self, counted: Number, quality: Number | None, target: Number) -> None:
        losses, where, add = self.terms.losses, f"{self.where}.losses", self.ledger.add
        metric, label = "shared-saving-deficit", "Provider's share of losses"
        if losses is None:
            amount = add("loss", ZERO, label, "one-sided: losses are not shared", where, (counted,))
            self.ledger.pay(amount, "Shared losses", where, metric)
            return
        value, formula = losses.rate, "as agreed"
        if losses.quality_adjusted:
            factor, _ = self._quality_factor(quality)
            earned = quality.value if quality and factor else ZERO  # who earns no share bears the highest loss rate
            value = min(losses.rate, max(losses.floor, 1 - self.terms.rate * earned))
            bounds = f"between {percent(losses.floor)} and {percent(losses.rate)}"
            formula = f"1 - {percent(self.terms.rate)} x composite, {bounds}"
        because = (quality,) if quality and losses.quality_adjusted else ()
        rate = add("loss-rate", value, "Loss sharing rate", formula, f"{where}.rate", because, unit="1")
        formula = "losses to share x loss sharing rate"
        amount = add("loss", counted.value * rate.value, label, formula, f"{where}.rate", (counted, rate))
        limits = [] if losses.limit_amount is None else [losses.limit_amount]
        if losses.limit is not None:
            limits.append(losses.limit * target.value)
        if limits:
            term, note = f"{where}.limit", "the lesser of the limits"
            value = -min(limits)
            limit = add(
                "loss-limit", value, "Most that is owed", note, term, (target,), metric="potential-downside-ssl"
            )
            value = max(amount.value, limit.value)
            amount = add("limited", value, "Losses within the limit", "the smaller loss", term, (amount, limit))
        if losses.relief:
            value, formula = amount.value * (1 - losses.relief), f"x (1 - {percent(losses.relief)})"
            amount = add("relieved", value, "Losses after relief", formula, f"{where}.relief", (amount,))
        self.ledger.pay(amount, "Shared losses", where, metric)
