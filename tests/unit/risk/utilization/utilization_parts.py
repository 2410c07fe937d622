"""Claim lines, months and people for tests of utilization."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from fhir_gateway.attribution.eligibility import MONTH_SCHEMA
from fhir_gateway.lake.claims import LINE_SCHEMA
from fhir_gateway.risk.utilization import PEOPLE_SCHEMA, STRATA_SCHEMA

YEAR = (date(2026, 1, 1), date(2026, 12, 31))


def day(text: str) -> date:
    """A day of 2026 as ``month-day``, or a whole date."""
    return date.fromisoformat(text if len(text) > 5 else f"2026-{text}")


def line(member: str, claim: str, start: str, paid: str | int = 0, **more: Any) -> dict[str, Any]:
    """A professional claim line of one day or until ``thru``; allowed is twice what is paid."""
    thru = more.pop("thru", start)
    row: dict[str, Any] = dict.fromkeys(LINE_SCHEMA.names)
    row |= {
        "_member": member,
        "source": "payer",
        "claim_group": claim,
        "counts": True,
        "denied": False,
        "claim_type": "professional",
        "service_from": day(start),
        "service_thru": day(thru),
        "claim_from": day(start),
        "claim_thru": day(thru),
        "payment_date": day(thru) + timedelta(days=14),
        "paid": Decimal(paid),
        "allowed": 2 * Decimal(paid),
        "tin": "100000001",
    }
    return row | more


def stay(member: str, claim: str, start: str, thru: str, paid: str | int = 0, **more: Any) -> dict[str, Any]:
    """An acute inpatient claim of one line, at hospital H1."""
    kind = {"claim_type": "inpatient", "bill_type": "0111", "organization": "H1", "diagnosis": "R69"}
    return line(member, claim, start, paid, thru=thru, **(kind | more))


def lines(*rows: Mapping[str, Any]) -> pa.Table:
    """A table of claim lines."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=LINE_SCHEMA)


def months(counts: Mapping[str, int], first: date = YEAR[0]) -> pa.Table:
    """So many months of each member, from a first one on."""
    rows = [
        {"member": member, "month": date(first.year + at // 12, at % 12 + 1, 1), "months": Decimal(1)}
        for member, count in counts.items()
        for at in range(first.month - 1, first.month - 1 + count)
    ]
    return pa.Table.from_pylist(rows, schema=MONTH_SCHEMA)


def people(*rows: tuple[str, str, str | None]) -> pa.Table:
    """Member, date of birth and of death."""
    return pa.Table.from_pylist(
        [{"member": m, "birth_date": day(born), "died": None if died is None else day(died)} for m, born, died in rows],
        schema=PEOPLE_SCHEMA,
    )


def strata(rows: Iterable[tuple[str, str, str]]) -> pa.Table:
    """Member, dimension and value."""
    return pa.Table.from_pylist(
        [dict(zip(STRATA_SCHEMA.names, row, strict=True)) for row in rows], schema=STRATA_SCHEMA
    )
