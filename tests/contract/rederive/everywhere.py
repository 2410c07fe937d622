"""Lines that all arrangements have: payable, parts, quality."""

from __future__ import annotations

from fractions import Fraction

from tests.contract.rederive.case import NOTHING, Case, NoRuleError, Value, half_up, number, rule, share_out

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
