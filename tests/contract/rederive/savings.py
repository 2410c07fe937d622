"""Pay for performance, shared savings, MSSP, ACO REACH."""

from __future__ import annotations

from fractions import Fraction

from tests.contract.rederive.case import NOTHING, Case, NoRuleError, Value, in_bands, known, number, rule

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
    saving = known(case.peek("gross")) >= 0
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
    gross, final = known(case.peek("gross")), known(case.peek("final"))
    if len(case.like(r"band-\d+")) != sum(abs(gross) > on * final for on, _ in REACH_BANDS):
        raise NoRuleError("a band is missing")
    return total


@rule("aco_reach", r"sequestered")
def _reach_sequestered(case: Case) -> Value:
    return case.at("shared") * (1 - case.number("sequestration", SEQUESTRATION))
