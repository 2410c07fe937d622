"""Payments by member month: the rows, out of what the contract states, and the lines that are their sums.

Rows are those of `fhir-gateway contract audit RUN --out rows.csv`. How many months a member has, which cell and which
tier are taken as given (they come from Coverage, persons and assessments); what is paid for them is derived here.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.contract.rederive.case import NOTHING, number

#: Kind -> rule of the rows -> how the lines that sum them are named, and the columns that each line has of its own.
LINES = {
    "capitation": {"base": ("cell.{number}.{status}", ("cell", "status")), "add-on": ("{rule}", ("rule",))},
    "case_rate": {"*": ("{rule}.{number}", ("rule", "cell", "status", "reason"))},
    "care_management_fee": {"*": ("{rule}.{number}", ("rule", "cell", "status", "reason"))},
}
PLACES = 10**8
Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def row_findings(contract: dict[str, Any], statement: dict[str, Any], rows: list[Row], folder: Path) -> Iterator[str]:
    """What of the rows does not follow from the contract, and what of the lines not from the rows."""
    having = [terms for terms in contract["arrangements"] if terms["kind"] in LINES]
    if len(having) != 1:
        yield f"rows are derived of contracts with one arrangement by member month, this has {len(having)}"
        return
    (terms,) = having
    rates = _rates(contract, terms, folder)
    seen: dict[tuple[str, str], Fraction] = {}
    for at, row in enumerate(rows, start=2):
        amount = _places(_places(number(row["quantity"]) * number(row["rate"])) * number(row["factor"]))
        if number(row["amount"]) != (amount if row["status"] in ("paid", "adjustment") else NOTHING):
            yield f"row {at}: amount {row['amount']} is not quantity x rate x factor"
        stated = rates.get((row["rule"], row["cell"]), rates.get((row["rule"], "*")))
        if row["status"] == "paid" and (stated is None or number(row["rate"]) not in stated):
            yield f"row {at}: the contract states no rate {row['rate']} for {row['rule']} {row['cell']}"
        if row["rule"] in ("base", "fee") and row["status"] == "paid":
            key = row["member"], row["month"]
            seen[key] = seen.get(key, NOTHING) + number(row["quantity"])
    yield from (f"{month}: a member counts more than once" for (_, month), months in seen.items() if months > 1)
    yield from _sums(terms, statement, rows)


def _rates(contract: dict[str, Any], terms: dict[str, Any], folder: Path) -> dict[tuple[str, str], set[Fraction]]:
    """Rates by rule and cell, as the contract or its tables state them."""
    found: dict[tuple[str, str], set[Fraction]] = {}
    if terms["kind"] == "capitation":
        for one in read_rows(folder / contract["tables"]["rates"]["path"]):
            found.setdefault(("base", one["cell"]), set()).add(number(one["rate"]))
        for one in terms.get("add_ons", []):
            found["add-on." + one["id"], "*"] = {number(one["pmpm"])}
    elif terms["kind"] == "case_rate":
        for one in terms["rates"]:
            found.setdefault(("case", one["tier"]), set()).add(number(one["rate"]))
    else:
        fees = {number(one["pmpm"]) for one in terms["fees"]}
        found = {("fee", "*"): fees, ("debit", "*"): fees, ("credit", "*"): fees}
    return found


def _sums(terms: dict[str, Any], statement: dict[str, Any], rows: list[Row]) -> Iterator[str]:
    lines = {line["id"]: line for line in statement["lines"] if line["arrangement"] == terms["id"]}
    for rule, (name, columns) in LINES[terms["kind"]].items():
        sums: dict[tuple[str, ...], tuple[Fraction, Fraction]] = {}
        for row in rows:
            if rule in ("*", row["rule"].partition(".")[0]):
                key = tuple(row[column] for column in columns)
                quantity, amount = sums.get(key, (NOTHING, NOTHING))
                sums[key] = quantity + number(row["quantity"]), amount + number(row["amount"])
        for which, key in enumerate(sorted(sums, key=lambda key: [(not one, one) for one in key]), start=1):
            parts = dict(zip(columns, key, strict=True))
            line = f"{terms['id']}." + name.format(number=which, **parts)
            quantity, amount = sums[key]
            for one, derived in ((line, amount), (f"{line}.months", quantity), (f"{line}.quantity", quantity)):
                if one in lines and Fraction(lines[one]["value"]) != derived:
                    yield f"{one}: {lines[one]['value']}, the rows come to {float(derived)}"
            if line not in lines:
                yield f"{line}: there are rows of it, and no line"


def _places(value: Fraction) -> Fraction:
    """Half up to the places of rows."""
    whole = (abs(value) * PLACES + Fraction(1, 2)).__floor__()
    return Fraction(whole if value >= 0 else -whole, PLACES)
