"""The rules of episodes once more, slowly: member by member, claim by claim, in fractions."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

DAY = timedelta(days=1)
Row = dict[str, Any]


def stays_of(rows: list[Row]) -> list[Row]:
    """Acute stays of a member, with those of several claims as one."""
    claims: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["claim_type"] == "inpatient" and row["drg"] and row["bill_type"][:2] == "11":
            claims[row["claim_group"]].append(row)
    ordered = sorted(
        (
            {
                "claims": [name],
                "start": min(row["claim_from"] for row in found),
                "end": max(row["claim_thru"] for row in found),
                "drg": found[0]["drg"],
                "hospital": found[0]["organization"],
            }
            for name, found in claims.items()
        ),
        key=lambda one: (one["start"], one["end"], one["claims"][0]),
    )
    chained: list[Row] = []
    for one in ordered:
        last = chained[-1] if chained else None
        if last:
            other = one["hospital"] != last["hospital"]
            if one["start"] <= last["end"] or (other and one["start"] <= last["end"] + DAY):
                last["claims"] += one["claims"]
                last["drgs"].append((one["drg"], one["claims"][0]))
                last["end"] = max(last["end"], one["end"])
                last["hospital"] = one["hospital"]
                continue
        chained.append(one | {"drgs": [(one["drg"], one["claims"][0])]})
    return chained


def episodes_of(rows: list[Row], on_retrigger: str, days: int, gmlos: dict[str, int]) -> dict[tuple[str, str], Row]:
    """Every anchor by member and claim: reason, window, cost by category."""
    found: dict[tuple[str, str], Row] = {}
    for member in sorted({row["_member"] for row in rows}):
        mine = [row for row in rows if row["_member"] == member]
        candidates = []
        for stay in stays_of(mine):
            triggering = [claim for drg, claim in stay["drgs"] if drg == "470"]
            if triggering:
                end = stay["end"] + timedelta(days=days)
                candidates.append(stay | {"anchor": triggering[-1], "window": (stay["start"], end), "reason": None})
        for one in candidates:
            paid = sum(row["paid"] for row in mine if row["claim_group"] == one["anchor"])
            one["reason"] = "unpaid" if paid <= 0 else None
        _overlaps([one for one in candidates if one["reason"] is None], on_retrigger)
        for one in candidates:
            cost = _cost(one, mine, gmlos) if one["reason"] is None else None
            found[member, one["anchor"]] = one | {"costs": cost}
    return found


def _overlaps(candidates: list[Row], on_retrigger: str) -> None:
    is_open: Row | None = None
    for one in candidates:
        if is_open and one["window"][0] <= is_open["window"][1]:
            if on_retrigger == "readmission":
                one["reason"] = "readmission"
                continue
            is_open["reason"] = "retriggered" if on_retrigger == "cancel" else "replaced"
            if on_retrigger == "replace":
                one["window"] = (is_open["window"][0], one["window"][1])
        is_open = one


def _cost(one: Row, mine: list[Row], gmlos: dict[str, int]) -> dict[str, Decimal]:
    costs: dict[str, Fraction] = defaultdict(Fraction)
    first, last = one["window"]
    for row in mine:
        category, part = _category(row), Fraction(1)
        if row["claim_group"] in one["claims"]:
            category = "anchor"
        elif not first <= (row["service_from"] if category == "other" else row["claim_from"]) <= last:
            continue
        elif category != "other" and row["claim_thru"] > last:
            length = max((row["claim_thru"] - row["claim_from"]).days, 1)
            inside = min(length, (last - row["claim_from"]).days + 1)
            part = Fraction(inside, length)
            if category == "readmission":
                part = min(Fraction(1), Fraction(inside + 1, gmlos[row["drg"]]))
        costs[category] += _rounded(Fraction(row["paid"]) * part)
    return {name: Decimal(int(cost * 10**8)).scaleb(-8) for name, cost in costs.items()}


def _rounded(amount: Fraction) -> Fraction:
    """Half away from zero at eight decimals."""
    units = abs(amount) * 10**8
    whole = int(units + Fraction(1, 2))
    return Fraction(whole if amount >= 0 else -whole, 10**8)


def _category(row: Row) -> str:
    if (row["bill_type"] or "")[:2] == "21":
        return "snf"
    return "readmission" if row["claim_type"] == "inpatient" and row["drg"] else "other"
