"""What of a statement does not follow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tests.contract.rederive import everywhere, months, savings, units  # noqa: F401 their rules
from tests.contract.rederive.case import (
    DIGITS,
    NOTHING,
    RULES,
    Case,
    NoRuleError,
    Rule,
    Value,
    half_up,
    known,
)

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
    if kind == "bundle_retrospective" and "shared" not in case and known(case.peek("difference")):
        gain = known(case.peek("difference")) > 0
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
