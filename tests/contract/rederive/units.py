"""Clinics, outcomes, episodes of care."""

from __future__ import annotations

import re
from typing import Any

from tests.contract.rederive.case import NOTHING, Case, NoRuleError, Value, half_up, known, number, rule

# Clinics, outcomes, episodes


@rule("ccbhc", r"(rate|crisis)\.([^.]+)\.amount")
def _units(case: Case, of: str, name: str) -> Value:
    if case.term("trend"):
        raise NoRuleError("trend")
    rates = case.terms["rates"] if of == "rate" else case.terms["crisis_rates"]
    if isinstance(rates[name], dict):
        cost = number(rates[name]["allowable_cost"]) / number(rates[name]["visits"])
        return half_up(cost, "cent") * case.at(f"{of}.{name}.units")
    return number(rates[name]) * case.at(f"{of}.{name}.units")


@rule("ccbhc", r"due")
def _due(case: Case) -> Value:
    return case.sum(r"(rate|crisis)\.[^.]+\.amount", "outlier")


@rule("ccbhc", r"remaining")
def _remaining(case: Case) -> Value:
    if case.term("bonus"):
        raise NoRuleError("bonus")
    return case.at("due") + case.at("paid-rates") + case.at("paid-services")


def _tariff(case: Case, outcome: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in case.terms["card"] if one["outcome"] == outcome)
    return found


@rule("outcome_rate_card", r"([^.]+)\.caused")
def _caused(case: Case, outcome: str) -> Value:
    terms = _tariff(case, outcome)
    if terms.get("counterfactual", "none") == "control":
        raise NoRuleError("control groups")
    dead = terms["deadweight"] if terms.get("counterfactual") == "deadweight" else 0
    return case.at(f"{outcome}.verified") * (1 - number(dead))


@rule("outcome_rate_card", r"([^.]+)\.paid")
def _outcome_paid(case: Case, outcome: str) -> Value:
    return case.at(f"{outcome}.caused") * number(_tariff(case, outcome)["tariff"])


@rule("outcome_rate_card", r"([^.]+)\.capped")
def _outcome_capped(case: Case, outcome: str) -> Value:
    return min(case.at(f"{outcome}.paid"), number(_tariff(case, outcome)["cap"]))


@rule("outcome_rate_card", r"outcomes")
def _outcomes(case: Case) -> Value:
    if set(case.terms) & {"trigger", "investors"}:
        raise NoRuleError("triggers, investors")
    total = NOTHING
    for one in case.terms["card"]:
        total += case.last(f"{one['outcome']}.paid", f"{one['outcome']}.capped")
    if total > case.number("cap", 10**12) and "capped" not in case:
        raise NoRuleError("the budget is passed, and there is no line 'capped'")
    return total


@rule("outcome_rate_card", r"capped")
def _budget(case: Case) -> Value:
    return min(case.at("outcomes"), case.number("cap"))


@rule("bundle_retrospective", r"([^.]+)\.([^.]+)\.target")
def _group_target(case: Case, family: str, group: str) -> Value:
    discount = NOTHING
    if not case.terms["price"].get("discounted"):
        discount = known(case.peek(f"{family}.discount")) if f"{family}.discount" in case else NOTHING
    if set(case.terms) & {"trend", "normalisation", "multipliers"}:
        raise NoRuleError("trend, normalisation")
    return case.at(f"{family}.{group}.prices") * (1 - discount)


@rule("bundle_retrospective", r"([^.]+)\.([^.]+)\.counted")
def _group_counted(case: Case, family: str, group: str) -> Value:
    return case.at(f"{family}.{group}.actual") + case.at(f"{family}.{group}.outside")


@rule("bundle_retrospective", r"([^.]+)\.([^.]+)\.difference")
def _group_difference(case: Case, family: str, group: str) -> Value:
    return case.at(f"{family}.{group}.target") - case.at(f"{family}.{group}.counted")


@rule("bundle_retrospective", r"([^.]+)\.difference")
def _family_difference(case: Case, family: str) -> Value:
    return case.sum(rf"{re.escape(family)}\.[^.]+\.difference")


@rule("bundle_retrospective", r"(target|counted)")
def _of_groups(case: Case, what: str) -> Value:
    return case.sum(rf"[^.]+\.[^.]+\.{what}")


@rule("bundle_retrospective", r"difference")
def _difference(case: Case) -> Value:
    known = {"kind", "id", "pool", "population", "episode", "price", "gain_share", "loss_share"}
    if set(case.terms) - known:
        raise NoRuleError(f"terms {', '.join(sorted(set(case.terms) - known))}")
    return case.sum(r"[^.]+\.difference")


@rule("bundle_retrospective", r"shared")
def _bundle_shared(case: Case) -> Value:
    amount = case.at("difference")
    return amount * case.number("gain_share" if amount > 0 else "loss_share", 1)
