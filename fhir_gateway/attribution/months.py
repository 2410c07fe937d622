"""Member months as they stand, for the ledger: who counted in which month, with whom, in which cell."""

from __future__ import annotations

from datetime import date
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.attribution.eligibility import BIRTH_SCHEMA, MONTH_SCHEMA, register
from fhir_gateway.attribution.methods.selection import effective

Snapshot = Literal["first", "fifteenth", "last"]

_DAY = {"first": "month", "fifteenth": "month + 14", "last": "last_day(month)"}

#: Months with the provider of record on the snapshot day.
PCP_MONTH_SCHEMA = pa.schema([*MONTH_SCHEMA, ("tin", pa.string()), ("npi", pa.string()), ("kind", pa.string())])


def with_provider_of_record(
    months: pa.Table,
    selections: pa.Table,
    snapshot: Snapshot = "first",
    rule: Literal["immediate", "next_month", "fifteenth"] = "immediate",
) -> pa.Table:
    """Months (``MONTH_SCHEMA``) with the provider of record of the snapshot day: the newest selection that held then.

    ``selections`` are rows of ``SELECTION_SCHEMA``; ``rule`` says from when on one holds. Months without a provider of
    record are left out: they are paid to nobody.
    """
    with duckdb.connect() as connection:
        connection.register("months", months)
        connection.register("selections", selections)
        found = connection.sql(
            f"""
            WITH held AS (SELECT *, {effective(rule)} AS first FROM selections),
            days AS (SELECT *, {_DAY[snapshot]} AS day FROM months)
            SELECT d.member, d.month, d.months, h.tin, h.npi, h.kind
            FROM days d JOIN held h ON h.member = d.member AND h.first <= d.day AND coalesce(h.until >= d.day, TRUE)
            QUALIFY row_number() OVER (PARTITION BY d.member, d.month ORDER BY h.first DESC, h.made DESC, h.npi, h.tin,
              h.kind) = 1
            ORDER BY d.member, d.month
            """  # noqa: S608 only words of this package are spliced in
        ).to_arrow_table()
    return found.select(PCP_MONTH_SCHEMA.names).cast(PCP_MONTH_SCHEMA)


def with_newborn_cell(months: pa.Table, births: pa.Table, through_months: int = 0) -> pa.Table:
    """Months with the cell ``newborn``: true in the month of birth and so many months after it."""
    with duckdb.connect() as connection:
        connection.register("months", months)
        register(connection, "births", births, BIRTH_SCHEMA)
        found = connection.sql(
            """
            SELECT m.*, coalesce(m.month BETWEEN date_trunc('month', b.born)::DATE
              AND (date_trunc('month', b.born) + to_months($after))::DATE, FALSE) AS newborn
            FROM months m LEFT JOIN (SELECT member, min(born) AS born FROM births GROUP BY member) b USING (member)
            ORDER BY m.member, m.month
            """,
            params={"after": through_months},
        ).to_arrow_table()
    return found.cast(pa.schema([*months.schema, ("newborn", pa.bool_())]))


def of_period(months: pa.Table, period: tuple[date, date]) -> pa.Table:
    """The months that a period touches."""
    first = pc.greater_equal(months["month"], period[0].replace(day=1))
    return months.filter(pc.and_(first, pc.less_equal(months["month"], period[1])))
