"""Derive a statement again from its contract and its own lines alone.

    python -m tests.contract.rederive CONTRACT STATEMENT.json

It shares no code with the product. Lines that rest on no others are taken as given, unless the contract states them;
every other line, the payable amount and its distribution are computed here with exact fractions, from the lines that
they say they rest on. Prints each line that comes out otherwise, each line that there is no rule for and each line
that rests on others than it says; exit 1 if there is any. Values are compared to 20 significant digits (statements
carry quotients to 60, scores to 28), published amounts and parts exactly.

A rule is a function of (Case, name parts) in ``RULES``, by kind of arrangement and name of the line.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

Value = Fraction | None
Rule = Callable[..., Value]
RULES: dict[str, dict[str, Rule]] = {}
NOTHING = Fraction(0)
DIGITS = Fraction(1, 10**20)
#: Medicare Shared Savings Program, 42 CFR 425.610: highest sharing rate and cap of the ENHANCED track; sequestration.
MSSP_SHARE, MSSP_CAP = {"EN": Fraction(3, 4)}, {"EN": Fraction(1, 5)}
SEQUESTRATION = Fraction(2, 100)
#: 40th percentile of MIPS quality scores, by performance year.
MSSP_GATE = {2024: Fraction("0.7705")}
#: ACO REACH, Global option: discount and quality withhold by performance year; from which part of the benchmark on
#: which part of savings or losses is kept.
REACH_DISCOUNT = {2023: Fraction(3, 100), 2024: Fraction(3, 100)}
REACH_WITHHOLD = {2023: Fraction(2, 100), 2024: Fraction(2, 100)}
REACH_BANDS = [(NOTHING, Fraction(1)), (Fraction(1, 4), Fraction(1, 2)), (Fraction(35, 100), Fraction(1, 4))]
REACH_BANDS.append((Fraction(1, 2), Fraction(1, 10)))


class NoRuleError(Exception):
    """The contract asks for something that this script cannot do."""


def number(stated: Any) -> Fraction:
    """A number of a document, exactly as written."""
    return Fraction(str(stated))


def rule(kinds: str, pattern: str) -> Callable[[Rule], Rule]:
    """Register a rule for lines of these kinds of arrangements (``*``: all) whose whole name is like this."""

    def register(function: Rule) -> Rule:
        for kind in kinds.split():
            RULES.setdefault(kind, {})[pattern] = function
        return function

    return register


class Case:
    """An arrangement, the contract around it and its lines; remembers which lines a rule looked at."""

    def __init__(self, contract: dict[str, Any], terms: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        self.contract, self.terms = contract, terms
        self.id: str = terms["id"]
        self.lines = {line["id"].removeprefix(f"{self.id}."): line for line in lines}
        self.used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.lines

    def peek(self, name: str) -> Value:
        """What a line says, where it only decides."""
        if name not in self.lines:
            raise NoRuleError(f"there is no line '{name}'")
        stated = self.lines[name]["value"]
        return None if stated is None else Fraction(stated)

    def at(self, name: str) -> Fraction:
        """What a line says, computed with; nothing counts as zero."""
        found = self.peek(name)
        self.used.add(name)
        return NOTHING if found is None else found

    def like(self, pattern: str) -> list[str]:
        """Names of lines, in their order."""
        return [name for name in self.lines if re.fullmatch(pattern, name)]

    def sum(self, *patterns: str) -> Fraction:
        """The sum of the lines with such names."""
        return sum((self.at(name) for pattern in patterns for name in self.like(pattern)), NOTHING)

    def last(self, *names: str) -> Fraction:
        """The last of these that is there: what steps that a contract may have or not lead to."""
        return self.at([name for name in names if name in self.lines][-1])

    def term(self, name: str, default: Any = None) -> Any:
        """A term of the arrangement; the default where it is not stated."""
        stated = self.terms.get(name)
        return default if stated is None else stated

    def number(self, name: str, default: Any = 0) -> Fraction:
        """A term that is a number."""
        return number(self.term(name, default))

    def only(self, of: str, allowed: str) -> None:
        """Terms of a part of the arrangement that rules know; others would need rules of their own."""
        more = set(self.term(of, {})) - set(allowed.split())
        if more:
            raise NoRuleError(f"terms {of}: {', '.join(sorted(more))}")

    def measures(self) -> list[dict[str, Any]]:
        """Measures that count for the arrangement."""
        named = self.term("measures")
        of = self.contract.get("measures", [])
        return [m for m in of if (m["id"] in named if named else m.get("status", "contractual") == "contractual")]

    def measure(self, name: str) -> dict[str, Any]:
        """The measure of an id."""
        return next(m for m in self.measures() if m["id"] == name)


def half_up(value: Fraction, rounding: str) -> Fraction:
    """To whole cents or dollars, halves away from zero."""
    units = 100 if rounding == "cent" else 1
    whole = (abs(value) * units + Fraction(1, 2)).__floor__()
    return Fraction(whole if value >= 0 else -whole, units)


def share_out(amount: Fraction, weights: dict[str, Fraction], rounding: str) -> dict[str, Fraction]:
    """Largest remainder: everybody's share cut to whole cents, what is left to the largest rests, then by name."""
    units = 100 if rounding == "cent" else 1
    whole, total = abs(amount) * units, sum(weights.values())
    exact = {name: whole * weight / total for name, weight in weights.items()}
    parts = {name: share.__floor__() for name, share in exact.items()}
    left = int(whole) - sum(parts.values())
    for name in sorted(parts, key=lambda name: (parts[name] - exact[name], name))[:left]:
        parts[name] += 1
    return {name: Fraction(part if amount >= 0 else -part, units) for name, part in parts.items()}


def in_bands(deviation: Fraction, reference: Fraction, bands: list[dict[str, Any]]) -> list[tuple[Fraction, Fraction]]:
    """What of a deviation lies in each band, and at which share."""
    found, low, size = [], NOTHING, abs(deviation)
    for band in bands:
        high = number(band["through"]) * reference if band.get("through") is not None else size
        inside = max(NOTHING, min(size, high) - low)
        found.append((inside if deviation >= 0 else -inside, number(band["share"])))
        low = high
    return found


# Lines of all arrangements


@rule("*", r"payable")
def _payable(case: Case) -> Value:
    before = case.lines["payable"]["because"]
    if len(before) != 1:
        raise NoRuleError("what is payable rests on one line")
    return case.at(before[0].removeprefix(f"{case.id}."))


@rule("*", r"distribution\.(.+)")
def _distribution(case: Case, party: str) -> Value:
    terms = next((d for d in case.contract.get("distributions", []) if d["arrangement"] == case.id), None)
    if terms is None:
        raise NoRuleError("the contract distributes nothing")
    rounding, how = case.contract.get("rounding", "cent"), terms.get("weight", "member_months")
    amount = Fraction(case.lines["payable"]["amount"])
    case.used.add("payable")
    kept = half_up(amount * number(terms.get("reserve", 0)), rounding) if amount > 0 else NOTHING
    if how == "shares":
        weights = {name: number(share) for name, share in terms["shares"].items()}
    elif how == "equal":
        named = [name.removeprefix("distribution.") for name in case.like(r"distribution\..+")]
        weights = {name: Fraction(1) for name in named if name != "organization"}
    else:
        panel = {name.removeprefix("panel."): name for name in case.like(r"panel\..+")}
        if party not in panel and party == "organization":
            return kept
        weights = {name: case.at(line) for name, line in panel.items()}
    parts = share_out(amount - kept, weights, rounding)
    return parts.get(party, NOTHING) + (kept if party == "organization" else NOTHING)


@rule("*", r"([^.]+)\.points")
def _points(case: Case, name: str) -> Value:
    score, terms = case.peek(f"{name}.score"), case.measure(name)["scoring"]
    case.used.add(f"{name}.score")
    if score is None or "does not take part" in case.lines[f"{name}.points"]["formula"]:
        return None
    sign = 1 if case.measure(name)["direction"] == "increase" else -1
    if terms["kind"] == "linear":
        low, high = number(terms["threshold"]), number(terms["target"])
        return min(Fraction(1), max(NOTHING, (score - low) / (high - low)))
    if terms["kind"] == "threshold":
        return Fraction(sign * (score - number(terms["target"])) >= 0)
    if terms["kind"] == "ladder":
        reached = [number(s["points"]) for s in terms["steps"] if sign * (score - number(s["at"])) >= 0]
        return max(reached, default=NOTHING)
    raise NoRuleError(f"scoring {terms['kind']}")


@rule("*", r"([^.]+)\.weighted")
def _weighted(case: Case, name: str) -> Value:
    if case.term("heirs"):
        raise NoRuleError("terms heirs")
    weights = {m["id"]: number(m["weight"]) for m in case.measures()}
    there = {one for one in weights if case.peek(f"{one}.points") is not None}
    weight = weights[name]
    if there and case.term("missing", case.term("quality", {}).get("missing", "reweight")) == "reweight":
        weight = weight * sum(weights.values()) / sum(weights[one] for one in there)
    return weight * case.at(f"{name}.points")


@rule("pay_for_performance capitation", r"composite")
@rule("shared_savings mssp aco_reach", r"quality")
def _composite(case: Case) -> Value:
    total = case.sum(r"[^.]+\.weighted")
    return total if any(case.peek(f"{m['id']}.points") is not None for m in case.measures()) else None


# Pay for performance


@rule("pay_for_performance", r"pool")
def _pool(case: Case) -> Value:
    terms = case.terms["budget"]
    amount = number(terms["amount"])
    if terms["kind"] == "fixed":
        return amount
    if terms["kind"] in ("per_member", "per_member_month"):
        return amount * case.at("members" if terms["kind"] == "per_member" else "member-months")
    raise NoRuleError(f"budget {terms['kind']}")


@rule("pay_for_performance", r"([^.]+)\.earned")
def _earned_by(case: Case, name: str) -> Value:
    return case.at("pool") * case.at(f"{name}.weighted")


@rule("pay_for_performance", r"earned")
def _earned(case: Case) -> Value:
    if set(case.terms) & {"gate", "gates", "floor", "min_members", "points_rounding"}:
        raise NoRuleError("gates, floors, rounded points")
    if case.number("cap", 10**12) < case.sum(r"[^.]+\.earned") and "capped" not in case:
        raise NoRuleError("the cap is passed, and there is no line 'capped'")
    return case.sum(r"[^.]+\.earned")


@rule("pay_for_performance", r"capped")
def _p4p_cap(case: Case) -> Value:
    return min(case.at("earned"), case.number("cap"))


# Shared savings, MSSP


@rule("shared_savings mssp", r"truncated")
def _truncated(case: Case) -> Value:
    return case.at("paid") - case.at("above-truncation")


@rule("shared_savings mssp", r"cost")
def _cost(case: Case) -> Value:
    return case.at("truncated") * number(case.contract["claims"].get("completion_factor", 1))


@rule("shared_savings mssp", r"pmpm")
def _pmpm(case: Case) -> Value:
    return case.at("cost") / case.at("member-months")


@rule("shared_savings mssp", r"target-pmpm")
def _target_pmpm(case: Case) -> Value:
    case.only("target", "kind amount")
    if case.terms["target"]["kind"] != "pmpm":
        raise NoRuleError(f"target {case.terms['target']['kind']}")
    return number(case.terms["target"]["amount"])


@rule("shared_savings mssp", r"target")
def _target(case: Case) -> Value:
    return case.at("target-pmpm") * case.at("member-months")


@rule("shared_savings mssp", r"gross")
def _gross(case: Case) -> Value:
    return case.at("target") - case.at("cost")


@rule("shared_savings mssp", r"rate")
def _savings_rate(case: Case) -> Value:
    return case.at("gross") / case.at("target")


@rule("shared_savings mssp", r"msr")
def _msr(case: Case) -> Value:
    saving = _known(case.peek("gross")) >= 0
    if case.terms["kind"] == "mssp":
        return number(case.term("msr", case.terms["election"])) * (1 if saving else -1)
    terms = case.term("corridor", {"kind": "fixed", "msr": 0})
    if terms["kind"] != "fixed":
        raise NoRuleError(f"corridor {terms['kind']}")
    low = number(terms.get("msr", 0))
    return low if saving else -number(terms.get("mlr", low))


@rule("shared_savings mssp", r"counted")
def _counted(case: Case) -> Value:
    if set(case.terms) & {"min_members", "carry_forward", "guardrail"} or not case.term("corridor", {}).get(
        "first_dollar", True
    ):
        raise NoRuleError("smallest numbers of members, deficits carried forward, corridors beyond which is shared")
    gross, rate, bound = case.at("gross"), case.at("rate"), case.at("msr")
    return gross if (rate >= bound if gross >= 0 else rate <= bound) else NOTHING


@rule("mssp", r"level-share")
def _level_share(case: Case) -> Value:
    return MSSP_SHARE[case.terms["level"]]


@rule("mssp", r"gate")
def _gate(case: Case) -> Value:
    return number(case.term("percentile", MSSP_GATE[case.terms["performance_year"]]))


@rule("mssp", r"share")
def _mssp_share(case: Case) -> Value:
    if case.at("quality") < case.at("gate"):
        raise NoRuleError("quality below the standard")
    return MSSP_SHARE[case.terms["level"]]


@rule("shared_savings", r"share")
def _share(case: Case) -> Value:
    quality = case.term("quality", {"mode": "none"})
    case.only("quality", "mode gate below_gate missing")
    rate = case.number("rate")
    if quality["mode"] == "none":
        return rate
    score = case.at("quality")
    if quality["mode"] == "multiplicative":
        return rate * score
    if quality["mode"] == "gate":
        below = score if quality.get("below_gate") == "multiplicative" else NOTHING
        return rate * (1 if score >= number(quality["gate"]) else below)
    raise NoRuleError(f"quality {quality['mode']}")


@rule("shared_savings mssp", r"shared")
def _shared(case: Case) -> Value:
    return case.at("counted") * case.at("share")


@rule("shared_savings mssp", r"sequestered")
def _sequestered(case: Case) -> Value:
    part = SEQUESTRATION if case.terms["kind"] == "mssp" else NOTHING
    return case.at("shared") * (1 - case.number("sequestration", part))


@rule("shared_savings mssp", r"cap")
def _cap(case: Case) -> Value:
    if set(case.terms) & {"cap_of_fees", "cap_amount", "floor", "participation_months", "advances"}:
        raise NoRuleError("caps of fees, floors, proration, advances")
    of = MSSP_CAP[case.terms["level"]] if case.terms["kind"] == "mssp" else case.number("cap")
    return of * case.at("target")


@rule("shared_savings mssp", r"capped")
def _capped(case: Case) -> Value:
    return min(case.last("shared", "sequestered"), case.at("cap"))


@rule("shared_savings", r"loss-rate")
def _loss_rate(case: Case) -> Value:
    case.only("losses", "rate limit")
    return number(case.terms["losses"]["rate"])


@rule("shared_savings", r"loss")
def _loss(case: Case) -> Value:
    return case.at("counted") * case.at("loss-rate") if case.term("losses") else NOTHING


@rule("shared_savings", r"loss-limit")
def _loss_limit(case: Case) -> Value:
    return -number(case.terms["losses"]["limit"]) * case.at("target")


@rule("shared_savings", r"limited")
def _limited(case: Case) -> Value:
    return max(case.at("loss"), case.at("loss-limit"))


def _known(value: Value) -> Fraction:
    if value is None:
        raise NoRuleError("a line that must have a value has none")
    return value


# ACO REACH


@rule("aco_reach", r"rate-historical")
def _benchmark_rate(case: Case) -> Value:
    return number(case.terms["benchmark"]["amount"])


@rule("aco_reach", r"benchmark")
def _benchmark(case: Case) -> Value:
    case.only("benchmark", "amount per")
    if case.terms["benchmark"].get("per") == "member_month":
        return case.at("rate-historical") * case.at("member-months")
    return number(case.terms["benchmark"]["amount"])


@rule("aco_reach", r"discounted")
def _discounted(case: Case) -> Value:
    return case.at("benchmark") * (1 - case.number("discount", REACH_DISCOUNT[case.terms["performance_year"]]))


@rule("aco_reach", r"after-quality")
def _after_quality(case: Case) -> Value:
    held = case.number("quality_withhold", REACH_WITHHOLD[case.terms["performance_year"]])
    return case.last("benchmark", "discounted") * (1 - held + held * case.at("quality"))


@rule("aco_reach", r"final")
def _final(case: Case) -> Value:
    if set(case.terms) & {"stop_loss", "equity", "retention_withhold", "bands", "loss_bands"}:
        raise NoRuleError("stop-loss, equity, retention, bands of its own")
    return case.last("benchmark", "discounted", "after-quality")


@rule("aco_reach", r"gross")
def _reach_gross(case: Case) -> Value:
    return case.at("final") - case.at("cost")


@rule("aco_reach", r"rate")
def _reach_rate(case: Case) -> Value:
    return case.at("gross") / case.at("final")


@rule("aco_reach", r"band-(\d+)")
def _reach_band(case: Case, which: str) -> Value:
    if case.terms["risk"] != "global":
        raise NoRuleError("bands of the professional option")
    gross, final = case.at("gross"), case.at("final")
    edges = [
        {"through": str(on), "share": str(share)}
        for (on, _), (_, share) in zip([*REACH_BANDS[1:], (None, None)], REACH_BANDS, strict=True)
    ]
    edges[-1]["through"] = None  # type: ignore[assignment]
    inside, share = in_bands(gross, final, edges)[int(which) - 1]
    return inside * share


@rule("aco_reach", r"shared")
def _reach_shared(case: Case) -> Value:
    total = case.sum(r"band-\d+")
    gross, final = _known(case.peek("gross")), _known(case.peek("final"))
    if len(case.like(r"band-\d+")) != sum(abs(gross) > on * final for on, _ in REACH_BANDS):
        raise NoRuleError("a band is missing")
    return total


@rule("aco_reach", r"sequestered")
def _reach_sequestered(case: Case) -> Value:
    return case.at("shared") * (1 - case.number("sequestration", SEQUESTRATION))


# Payments by member month


@rule("capitation", r"capitation")
def _capitation(case: Case) -> Value:
    if case.term("risk"):
        raise NoRuleError("risk")
    return case.sum(r"cell\.\d+\.paid")


@rule("capitation", r"pmpm")
def _capitation_pmpm(case: Case) -> Value:
    return case.at("capitation") / case.at("member-months")


@rule("capitation", r"withhold")
def _withhold(case: Case) -> Value:
    case.only("withhold", "part")
    return number(case.terms["withhold"]["part"]) * case.at("capitation")


@rule("capitation", r"withheld")
def _withheld(case: Case) -> Value:
    return -case.at("withhold")


@rule("capitation", r"earned-share")
def _earned_share(case: Case) -> Value:
    return case.at("composite")


@rule("capitation", r"returned")
def _returned(case: Case) -> Value:
    return case.at("withhold") * case.at("earned-share")


@rule("capitation", r"add-on\.([^.]+)")
def _add_on(case: Case, name: str) -> Value:
    terms = next(one for one in case.terms["add_ons"] if one["id"] == name)
    return number(terms["pmpm"]) * case.at(f"add-on.{name}.quantity")


@rule("capitation", r"balance")
def _capitation_balance(case: Case) -> Value:
    return case.at("capitation") + case.sum(r"withheld|returned", r"add-on\.[^.]+")


@rule("case_rate", r"balance")
def _cases(case: Case) -> Value:
    return case.sum(r"case\.\d+")


@rule("care_management_fee", r"fees")
def _fees(case: Case) -> Value:
    return case.sum(r"(fee|debit|credit|overlap)\.\d+")


@rule("care_management_fee", r"(fee|debit|credit)\.(\d+)")
def _fee(case: Case, what: str, which: str) -> Value:
    if len(case.term("fees", [])) != 1 or case.term("programme"):
        raise NoRuleError("several fees")
    return number(case.terms["fees"][0]["pmpm"]) * case.at(f"{what}.{which}.months")


@rule("care_management_fee", r"balance")
def _fee_balance(case: Case) -> Value:
    if case.term("adjustment"):
        raise NoRuleError("adjustment")
    return case.at("fees")


# Risk pool, provider's loss ratio


@rule("risk_pool", r"fund")
def _fund(case: Case) -> Value:
    case.only("fund", "kind amount")
    amount = number(case.terms["fund"]["amount"])
    return amount * case.at("member-months") if case.terms["fund"]["kind"] == "pmpm" else amount


@rule("risk_pool", r"target")
def _pool_target(case: Case) -> Value:
    return case.at("fund")


@rule("risk_pool", r"loss-ratio-target")
def _pool_ratio_target(case: Case) -> Value:
    return number(case.terms["fund"].get("ratio", 1))


@rule("risk_pool", r"individual")
def _individual(case: Case) -> Value:
    return -number(case.terms["individual"]["coinsurance"]) * case.at("insured")


@rule("risk_pool", r"cost")
def _pool_cost(case: Case) -> Value:
    if set(case.terms) & {"aggregate", "completion", "gate", "carry_forward", "surplus_cap", "deficit_cap"}:
        raise NoRuleError("aggregate stop-loss, completion, gate, deficits, caps")
    case.only("individual", "attachment coinsurance")
    return case.at("paid") + case.sum("individual")


@rule("risk_pool", r"loss-ratio")
def _loss_ratio(case: Case) -> Value:
    return case.at("cost") / case.at("fund")


@rule("risk_pool", r"deviation")
def _pool_deviation(case: Case) -> Value:
    return case.at("target") - case.at("cost")


@rule("risk_pool", r"(band|shared)\.(\d+)")
def _pool_band(case: Case, what: str, which: str) -> Value:
    case.only("corridor", "losses savings")
    corridor = case.terms["corridor"]
    deviation = _known(case.peek("deviation"))
    bands = corridor.get("savings", corridor["losses"]) if deviation >= 0 else corridor["losses"]
    if what == "shared":
        return case.at(f"band.{which}") * number(bands[int(which) - 1]["share"])
    reference = case.at("target" if case.term("reference", "target") == "target" else "fund")
    return in_bands(case.at("deviation"), reference, bands)[int(which) - 1][0]


@rule("risk_pool", r"plan")
def _plan(case: Case) -> Value:
    return case.at("deviation") - case.sum(r"shared\.\d+")


@rule("risk_pool", r"provider")
def _provider(case: Case) -> Value:
    return case.sum(r"shared\.\d+")


@rule("provider_mlr", r"revenue")
def _revenue(case: Case) -> Value:
    return case.number("revenue_pmpm") * case.at("member-months")


@rule("provider_mlr", r"ratio")
def _ratio(case: Case) -> Value:
    return case.at("cost") / case.at("revenue")


@rule("provider_mlr", r"target")
def _ratio_target(case: Case) -> Value:
    return case.number("target")


@rule("provider_mlr", r"deviation")
def _ratio_deviation(case: Case) -> Value:
    return case.at("target") * case.at("revenue") - case.at("cost")


@rule("provider_mlr", r"(gains|losses)\.(\d+)")
def _ratio_band(case: Case, side: str, which: str) -> Value:
    if (case.at("deviation") >= 0) != (side == "gains"):
        raise NoRuleError("gains of a loss, or losses of a gain")
    inside, share = in_bands(case.at("deviation"), case.at("revenue"), case.terms[side])[int(which) - 1]
    return inside * share


@rule("provider_mlr", r"shared")
def _ratio_shared(case: Case) -> Value:
    if case.term("cap"):
        raise NoRuleError("cap")
    return case.sum(r"(gains|losses)\.\d+")


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
        discount = _known(case.peek(f"{family}.discount")) if f"{family}.discount" in case else NOTHING
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


#: The line that is paid, the last of those that are there; and when lines that the terms ask for are missing.
PAID = {
    "pay_for_performance": ("earned", "capped"),
    "shared_savings": ("shared", "capped", "loss", "limited"),
    "mssp": ("shared", "sequestered", "capped"),
    "aco_reach": ("shared", "sequestered"),
    "capitation": ("balance",),
    "risk_pool": ("provider",),
    "case_rate": ("balance",),
    "care_management_fee": ("balance",),
    "ccbhc": ("remaining",),
    "outcome_rate_card": ("outcomes", "capped"),
    "provider_mlr": ("shared",),
    "bundle_retrospective": ("difference", "shared"),
}


def findings(contract: dict[str, Any], statement: dict[str, Any]) -> Iterator[str]:
    """What of a statement does not follow from its contract and its own lines; nothing when all of it does."""
    stated = contract["period"]
    if statement["period"] != [str(stated["start"]), str(stated["end"])]:
        yield f"period: {statement['period']} is not the contract's; interim statements are not derived here"
    names = [line["id"] for line in statement["lines"]]
    yield from (f"{name}: is there more than once" for name in sorted(set(names)) if names.count(name) > 1)
    total, known = NOTHING, {terms["id"] for terms in contract["arrangements"]}
    yield from (f"{line['id']}: no arrangement" for line in statement["lines"] if line["arrangement"] not in known)
    for terms in contract["arrangements"]:
        case = Case(contract, terms, [one for one in statement["lines"] if one["arrangement"] == terms["id"]])
        earlier: set[str] = set()
        for name, line in case.lines.items():
            yield from (
                f"{line['id']}: rests on {one}, which is not above it" for one in line["because"] if one not in earlier
            )
            yield from _line(case, name, line)
            earlier.add(line["id"])
        if "payable" not in case:
            yield f"{case.id}: nothing is payable"
            continue
        total += Fraction(case.lines["payable"]["amount"])
        yield from _structure(case)
    if Fraction(statement["total"]) != total:
        yield f"total: {statement['total']}, derived {shown(total)}"


def _line(case: Case, name: str, line: dict[str, Any]) -> Iterator[str]:
    found, parts = _rule(case.terms["kind"], name)
    if found is None:
        if line["because"]:
            yield f"{line['id']}: there is no rule for it"
        return
    case.used = set()
    try:
        derived = found(case, *parts)
    except NoRuleError as error:
        yield f"{line['id']}: there is no rule for it: {error}"
        return
    except (IndexError, KeyError, ZeroDivisionError) as error:
        yield f"{line['id']}: the contract or the lines lack something: {error!r}"
        return
    value = None if line["value"] is None else Fraction(line["value"])
    exact = name.startswith("distribution.")
    if (value is None) != (derived is None) or (
        value is not None and derived is not None and not _same(value, derived, exact)
    ):
        yield f"{line['id']}: {line['value']}, derived {shown(derived)}"
    said = {one.removeprefix(f"{case.id}.") for one in line["because"]}
    missing = case.used - said
    if missing:
        yield f"{line['id']}: rests on {', '.join(sorted(missing))}, and does not say so"
    if said - case.used:
        yield f"{line['id']}: says that it rests on {', '.join(sorted(said - case.used))}, and does not"
    if line["amount"] is not None:
        amount = half_up(Fraction(line["value"]), case.contract.get("rounding", "cent"))
        if name != "payable" or Fraction(line["amount"]) != amount:
            yield f"{line['id']}: amount {line['amount']}, derived {shown(amount)}"


def _structure(case: Case) -> Iterator[str]:
    """What is paid is the last step, and is distributed wholly where the contract says so."""
    kind, payable = case.terms["kind"], case.lines["payable"]
    last = [name for name in PAID[kind] if name in case][-1:]
    if payable["because"] != [f"{case.id}.{name}" for name in last]:
        yield f"{payable['id']}: rests on {payable['because']}, not on the last step, {last}"
    if kind in ("shared_savings", "mssp") and "loss" not in case and (kind == "mssp" or case.term("cap") is not None):
        yield from () if "capped" in case else [f"{payable['id']}: the cap is missing"]
    if kind in ("mssp", "aco_reach") and Fraction(payable["amount"]) > 0 and "sequestered" not in case:
        yield f"{payable['id']}: sequestration is missing"
    if kind == "shared_savings" and "loss" in case and case.term("losses", {}).get("limit") and "limited" not in case:
        yield f"{payable['id']}: the limit of losses is missing"
    if kind == "aco_reach" and not {"discounted", "after-quality"} <= set(case.lines):
        yield f"{payable['id']}: discount or quality withhold is missing"
    if kind == "bundle_retrospective" and "shared" not in case and _known(case.peek("difference")):
        gain = _known(case.peek("difference")) > 0
        if case.number("gain_share" if gain else "loss_share", 1) != 1:
            yield f"{payable['id']}: the share is missing"
    parts = case.like(r"distribution\..+")
    wanted = any(one["arrangement"] == case.id for one in case.contract.get("distributions", []))
    if wanted != bool(parts) and Fraction(payable["amount"]):
        yield f"{case.id}: distributed, and should not be; or the other way round"
    if parts and case.sum(r"distribution\..+") != Fraction(payable["amount"]):
        yield f"{case.id}: what is distributed does not sum to what is payable"
    lost = {one.partition(".")[2] for one in case.like(r"panel\..+")} - {one.partition(".")[2] for one in parts}
    yield from (f"{case.id}: {one} has a weight and no part" for one in sorted(lost))


def _rule(kind: str, name: str) -> tuple[Rule | None, tuple[str, ...]]:
    for of in (kind, "*"):
        for pattern, found in RULES.get(of, {}).items():
            if match := re.fullmatch(pattern, name):
                return found, match.groups()
    return None, ()


def _same(value: Fraction, derived: Fraction, exact: bool) -> bool:
    return abs(value - derived) <= (0 if exact else DIGITS * max(abs(value), abs(derived)))


def shown(value: Value) -> str:
    """A fraction as a decimal number."""
    return "none" if value is None else f"{Decimal(value.numerator) / Decimal(value.denominator):f}"


def read(path: Path) -> dict[str, Any]:
    """A contract; numbers stay as written where the format allows."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return tomllib.loads(text, parse_float=Decimal)
    found: dict[str, Any] = json.loads(text, parse_float=Decimal) if path.suffix == ".json" else yaml.safe_load(text)
    return found


def main(arguments: list[str]) -> int:
    """Print findings; 1 if there are any, 2 when called wrongly."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    contract, statement = map(Path, arguments)
    lines = json.loads(statement.read_text(encoding="utf-8"), parse_float=Decimal)
    found = list(findings(read(contract), lines))
    print("\n".join(found) if found else f"all {len(lines['lines'])} lines follow")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
