"""Payments by member month, risk pools, loss ratios of providers."""

from __future__ import annotations

from tests.contract.rederive.case import Case, NoRuleError, Value, in_bands, known, number, rule

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
    deviation = known(case.peek("deviation"))
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
