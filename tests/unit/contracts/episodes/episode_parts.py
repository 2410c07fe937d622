"""Claim lines and definitions for tests of episodes."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from fhir_gateway.contracts.episodes import Definition, Sources, episodes
from fhir_gateway.lake.claims import LINE_SCHEMA

YEAR = (date(2026, 1, 1), date(2026, 12, 31))


def day(text: str) -> date:
    """A day of 2026 as ``month-day``, or a whole date."""
    return date.fromisoformat(text if len(text) > 5 else f"2026-{text}")


def line(member: str, claim: str, start: str, paid: str | int, **more: Any) -> dict[str, Any]:
    """A claim line of one day or until ``thru``."""
    thru = more.pop("thru", start)
    amount = Decimal(paid)
    row: dict[str, Any] = dict.fromkeys(LINE_SCHEMA.names)
    row |= {
        "_member": member,
        "claim_group": claim,
        "counts": True,
        "denied": False,
        "claim_type": "professional",
        "service_from": day(start),
        "service_thru": day(thru),
        "claim_from": day(start),
        "claim_thru": day(thru),
        "payment_date": day(thru) + timedelta(days=14),
        "paid": amount,
        "allowed": amount,
        "tin": "100000001",
    }
    return row | more


def stay(
    member: str, claim: str, start: str, thru: str, paid: str | int, drg: str | None, **more: Any
) -> dict[str, Any]:
    """An inpatient claim of one line."""
    kind = {"claim_type": "inpatient", "bill_type": "111", "drg": drg, "organization": "Organization/a"}
    return line(member, claim, start, paid, thru=thru, **(kind | more))


def lines(*rows: dict[str, Any]) -> pa.Table:
    """A table of claim lines."""
    return pa.Table.from_pylist(list(rows), schema=LINE_SCHEMA)


def definition(**changes: Any) -> Definition:
    """Joint replacement (469, 470; 27130, 27447 outpatient), 30 days, everything counts, stays per diem."""
    stated = {
        "triggers": [
            {"family": "LEJR", "match": {"claim_type": ["inpatient"], "drg": ["469-470"]}},
            {
                "family": "LEJR",
                "price": "470",
                "match": {"claim_type": ["outpatient"], "procedure": ["27130", "27447"]},
            },
        ],
        "window": {"days": 30},
        "services": [
            {"id": "snf", "match": {"bill_type": ["21*"]}, "proration": "per_diem"},
            {"id": "home-health", "match": {"bill_type": ["32*"]}, "proration": "home_health", "days": 30},
            {"id": "readmission", "match": {"claim_type": ["inpatient"], "drg": ["*"]}, "proration": "gmlos"},
            {"id": "other", "match": {}},
        ],
    }
    return Definition.model_validate(stated | changes)


def found(*rows: dict[str, Any], sources: dict[str, Any] | None = None, **changes: Any) -> list[dict[str, Any]]:
    """Episodes of 2026 as rows; ``changes`` are of the definition, ``sources`` more of what it is made from."""
    more = changes.pop("tables", None)
    initiators = changes.pop("initiators", ())
    made = definition(**changes)
    with duckdb.connect() as connection:
        table = episodes(
            connection, made, Sources(lines(*rows), **(sources or {})), {"performance": YEAR}, more, initiators
        )
    rows_: list[dict[str, Any]] = table.to_pylist()
    return rows_
