"""Claim lines under capitation: encounters, leakage, carve-outs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.contracts.audit import AMOUNT, AUDIT_SCHEMA, connect
from fhir_gateway.contracts.service_categories import CATEGORY_COLUMNS, Category, categorize
from fhir_gateway.errors import ContractError

#: Columns of claim lines that are looked at.
SERVICE_COLUMNS = ("denied", "service_from", "tin", "allowed", "paid", *CATEGORY_COLUMNS)
FEES_SCHEMA = pa.schema([pa.field("procedure", pa.string(), nullable=False), pa.field("fee", AMOUNT, nullable=False)])


@dataclass(frozen=True, slots=True)
class Services:
    """Services of a category, of members in months that count. ``whose``: own, other, or unknown (no TIN)."""

    category: str
    covered_by: str
    whose: str
    lines: int
    equivalent: Decimal  # fee-for-service equivalent: the fee schedule's, else what was allowed
    paid: Decimal


def services(
    lines: pa.Table,
    months: pa.Table,
    categories: Sequence[Category],
    otherwise: str,
    tins: Sequence[str],
    period: tuple[date, date],
    fees: pa.Table | None,
) -> tuple[list[Services], pa.Table]:
    """Services by category, and audit rows (negative) of what was paid for capitated services by month.

    Their rule is ``leakage.<whose>.<category>``.
    """
    if fees is not None and pc.count_distinct(fees["procedure"]).as_py() != fees.num_rows:
        raise ContractError("tables: a procedure is twice in the fee schedule")
    with connect(claims=lines, months=months) as connection:
        connection.register("own", pa.table({"tin": pa.array(tins, pa.string())}))
        connection.register("fees", fees if fees is not None else FEES_SCHEMA.empty_table())
        connection.execute(
            """
            CREATE TEMP TABLE served AS
            SELECT m.member, m.month, c.* FROM claims c JOIN months m
              ON c._member = m.member AND m.month = date_trunc('month', c.service_from)
            WHERE NOT c.denied AND m.months > 0 AND c.service_from BETWEEN $start AND $end
            """,
            {"start": period[0], "end": period[1]},
        )
        categorize(connection, categories, otherwise, "served")
        connection.execute(
            """
            CREATE TEMP VIEW judged_lines AS SELECT l.member, month, category, covered_by,
              coalesce(f.fee, l.allowed, 0) AS equivalent, coalesce(l.paid, 0) AS paid,
              CASE WHEN l.tin IS NULL THEN 'unknown' WHEN l.tin IN (SELECT tin FROM own) THEN 'own' ELSE 'other' END
                AS whose
            FROM categorized l LEFT JOIN fees f ON l.procedure = f.procedure
            """
        )
        found = connection.execute(
            """
            SELECT category, covered_by, whose, count(*), sum(equivalent), sum(paid)
            FROM judged_lines GROUP BY ALL ORDER BY ALL
            """
        ).fetchall()
        rows = connection.sql(
            """
            SELECT member, month, 'leakage.' || whose || '.' || category AS rule, category AS cell,
              1 AS quantity, -sum(paid) AS rate,
              1 AS factor, -sum(paid) AS amount, 'paid' AS status, NULL::VARCHAR AS reason
            FROM judged_lines WHERE covered_by = 'capitation' AND whose <> 'unknown' AND paid <> 0 GROUP BY ALL
            """
        ).to_arrow_table()
    return [Services(*row) for row in found], rows.cast(AUDIT_SCHEMA)
