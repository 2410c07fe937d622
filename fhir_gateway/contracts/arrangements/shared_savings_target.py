"""The target of shared savings: where it comes from, trend, risk, blend; each a ledger line."""

from __future__ import annotations

from decimal import Decimal

from fhir_gateway.contracts.arrangements.base import SettlementInputs
from fhir_gateway.contracts.arrangements.shared_savings_parts import Blend, RiskNormaliser, Target
from fhir_gateway.contracts.benchmarks.blend import credibility
from fhir_gateway.contracts.benchmarks.risk import capped_ratio, mean_scores
from fhir_gateway.contracts.scoring import ONE, ZERO
from fhir_gateway.contracts.settlement import Ledger, Number
from fhir_gateway.errors import ContractError


def add_target(
    target: Target, inputs: SettlementInputs, where: str, months: Number, cost: Number, ledger: Ledger
) -> Number:
    """The target, with all that leads to it."""
    add = ledger.add
    if months.value:
        label = "Cost per member month"
        value = cost.value / months.value
        add("pmpm", value, label, "cost / member months", "claims", (cost, months), metric="med-cost-pmpm")
    if target.kind == "total":
        value, formula = (target.amount or ZERO) * inputs.part, agreed(inputs.part)
        return add("target", value, "Target", formula, where, metric="cost-target")
    because: list[Number] = []
    if target.kind == "pmpm":
        pmpm, formula = target.amount or ZERO, "as agreed"
    elif target.kind == "budget":
        because = [
            add(f"budget-{number}", line.amount, f"Budget: {line.category}", "as agreed", f"{where}.lines")
            for number, line in enumerate(target.lines, 1)
        ]
        pmpm, formula = sum((line.value for line in because), ZERO), "sum of the budget's lines"
    else:
        prior = _prior_year(target, inputs, where, ledger)
        because = [prior]
        trend, formula = ONE + target.trend, f"prior year x (1 + {target.trend})"
        if target.book:
            growth, text = target.book.current / target.book.prior, f"{target.book.current} / {target.book.prior}"
            label = "Growth of the book of business"
            line = add("book-trend", growth, label, text, f"{where}.book", unit="1")
            because.append(line)
            trend, formula = line.value, "prior year x growth of the book of business"
        pmpm = prior.value * trend
    label = "Target per member month"
    line = add("target-pmpm", pmpm, label, formula, where, because, metric="med-cost-pmpm-target")
    if target.risk:
        line = _adjust(target.risk, line, inputs, f"{where}.risk", ledger)
    if target.blend:
        line = _blend(target.blend, line, months, f"{where}.blend", ledger)
    formula = "target per member month x member months"
    return add("target", line.value * months.value, "Target", formula, where, (line, months), metric="cost-target")


def _adjust(risk: RiskNormaliser, line: Number, inputs: SettlementInputs, where: str, ledger: Ledger) -> Number:
    """The target for a population of another risk."""
    because: tuple[Number, ...] = ()
    if risk.scores is not None:
        scores = inputs.columns()
        now, before = mean_scores(scores.table(risk.scores), scores.months, f"{where}.scores")
        formula = "by member months, of members with both"
        because = (
            ledger.add("risk-year", now, "Mean risk score", formula, where, unit="1", metric="avg-risk-score"),
            ledger.add("risk-base", before, "Mean risk score before", formula, where, unit="1"),
        )
        formula = "mean score / mean score before"
    else:
        now, before = risk.year or ONE, risk.base or ONE
        formula = f"{now} / {before}"
    raw = ledger.add("risk-ratio", now / before, "Risk ratio", formula, where, because, unit="1")
    value, note = capped_ratio(raw.value, risk.cap, risk.floor), "within its bounds"
    ratio = ledger.add("risk-factor", value, "Risk factor", note, where, (raw,), unit="1")
    label, formula = "Target per member month, risk adjusted", "target x risk factor"
    return ledger.add("target-pmpm-risk", line.value * ratio.value, label, formula, where, (line, ratio))


def _blend(blend: Blend, line: Number, months: Number, where: str, ledger: Ledger) -> Number:
    """Own experience and the other source's, by credibility."""
    because: tuple[Number, ...] = ()
    if blend.full_credibility is not None:
        value = credibility(months.value, blend.full_credibility)
        formula, because = f"root of member months / {blend.full_credibility}, at most 1", (months,)
    else:
        value, formula = blend.credibility or ZERO, "as agreed"
    weight = ledger.add("credibility", value, "Credibility of the own experience", formula, where, because, unit="1")
    value = weight.value * line.value + (ONE - weight.value) * blend.amount
    label, formula = "Target per member month, blended", f"credibility x own + (1 - credibility) x {blend.amount}"
    return ledger.add("target-pmpm-blended", value, label, formula, where, (line, weight))


def _prior_year(target: Target, inputs: SettlementInputs, where: str, ledger: Ledger) -> Number:
    baseline, label = inputs.baseline, "Prior year cost per member month"
    if target.amount is not None:
        return ledger.add("prior-pmpm", target.amount, label, "as agreed", where)
    if baseline is None:
        raise ContractError(f"{where}: the cost of the year before is needed and was not given")
    if not baseline.member_months:
        raise ContractError(f"{where}: the attributed members have no months in the year before")
    formula = "cost of the same members in the year before / their member months"
    cost = ledger.add("prior-cost", baseline.cost, "Prior year cost", "as this year's cost", where)
    months = ledger.add(
        "prior-member-months", baseline.member_months, "Prior year member months", "as this year's", where, unit="mo"
    )
    return ledger.add("prior-pmpm", cost.value / months.value, label, formula, where, (cost, months))


def agreed(part: Decimal) -> str:
    """How an amount agreed for the whole period comes into this settlement."""
    return "as agreed" if part == ONE else f"as agreed, x {part:.4f} of the period"
