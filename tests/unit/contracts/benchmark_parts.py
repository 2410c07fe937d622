"""Facts for tests of what is built from claims: a few persons whose numbers can be checked by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal

import pyarrow as pa

from fhir_gateway.contracts.arrangements import Facts
from fhir_gateway.contracts.arrangements.facts import AMOUNT, PEOPLE_SCHEMA

D = Decimal
Line = tuple[str, date, str | int | Decimal]


def lines(*stated: Line, paid_on: Mapping[int, date] | None = None, types: Mapping[int, str] | None = None) -> pa.Table:
    """Claim lines of (member, day of service, paid); by position another payment day or claim type."""
    days = [day for _, day, _ in stated]
    amounts = pa.array([D(paid) for *_, paid in stated], AMOUNT)
    return pa.table(
        {
            "_member": pa.array([member for member, *_ in stated], pa.string()),
            "service_from": pa.array(days, pa.date32()),
            "claim_from": pa.array(days, pa.date32()),
            "claim_thru": pa.array(days, pa.date32()),
            "payment_date": pa.array([(paid_on or {}).get(n, day) for n, day in enumerate(days)], pa.date32()),
            "claim_type": pa.array([(types or {}).get(n, "professional") for n in range(len(days))], pa.string()),
            "denied": pa.array([False] * len(days)),
            "paid": amounts,
            "allowed": amounts,
        }
    )


def enrolment(*spans: tuple[str, int, Iterable[int], str]) -> pa.Table:
    """Months of enrolment: member, year, months, type."""
    rows = [(member, date(year, month, 1), kind) for member, year, months, kind in spans for month in months]
    return pa.table(
        {
            "member": pa.array([row[0] for row in rows], pa.string()),
            "month": pa.array([row[1] for row in rows], pa.date32()),
            "type": pa.array([row[2] for row in rows], pa.string()),
        }
    )


def facts(
    claim_lines: pa.Table, members: Mapping[str, int], year: int = 2024, tables: Mapping[str, pa.Table] | None = None
) -> Facts:
    """Facts of members with as many months of a year, from January on."""
    known = ("member", "months")
    people = pa.table(
        {
            "member": pa.array(list(members), pa.string()),
            **{field.name: pa.nulls(len(members), field.type) for field in PEOPLE_SCHEMA if field.name not in known},
            "months": pa.array([D(months) for months in members.values()], AMOUNT),
        }
    ).select(PEOPLE_SCHEMA.names)  # fmt: skip
    rows = [(member, date(year, month, 1)) for member, months in members.items() for month in range(1, months + 1)]
    months = pa.table(
        {
            "member": pa.array([row[0] for row in rows], pa.string()),
            "month": pa.array([row[1] for row in rows], pa.date32()),
            "months": pa.array([D(1)] * len(rows), AMOUNT),
        }
    )
    return Facts((date(year, 1, 1), date(year, 12, 31)), claim_lines, people, months, months.slice(0, 0), tables or {})
