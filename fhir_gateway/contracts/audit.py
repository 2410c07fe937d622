"""Payments by member month as rows, so that a sum can be disputed row by row.

The rounding rule: an amount is ``quantity x rate``, rounded half up to 8 places, times ``factor``, rounded half up to 8
places. Sums of rows are exact; the line of a settlement is such a sum, and is rounded once, when it is published.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.errors import ContractError

ZERO = Decimal(0)
PLACES = Decimal("1e-8")
AMOUNT = pa.decimal128(28, 8)
FACTOR = pa.decimal128(38, 16)

#: What becomes of a row: it pays; it corrects what was posted before; it would, but comes too late; it pays nothing.
STATUSES = ("paid", "adjustment", "outside_window", "unpaid")

#: A row per member, month and rule. ``reason`` says why a row does not pay, or what it corrects.
AUDIT_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("month", pa.date32()),
        ("rule", pa.string()),
        ("cell", pa.string()),
        ("quantity", AMOUNT),
        ("rate", AMOUNT),
        ("factor", FACTOR),
        ("amount", AMOUNT),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)

#: The rounding rule in SQL.
MACROS = """
CREATE MACRO amount_of(quantity, rate, factor) AS
  ((quantity::DECIMAL(28, 8) * rate::DECIMAL(28, 8))::DECIMAL(28, 8) * factor::DECIMAL(38, 16))::DECIMAL(28, 8);
CREATE MACRO fraction_of(numerator, denominator) AS  -- not negative; 16 places, half up: decimals divide as floats
  ((numerator::HUGEINT * 20000000000000000 + denominator::HUGEINT) // (2 * denominator)::HUGEINT)::DECIMAL(38, 0)
  * 0.0000000000000001::DECIMAL(16, 16);
"""


@contextmanager
def connect(**tables: pa.Table) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with these tables and the rounding rule; ContractError for amounts too large to be exact."""
    with duckdb.connect() as connection:
        connection.execute(MACROS)
        for name, table in tables.items():
            connection.register(name, table)
        try:
            yield connection
        except (duckdb.OutOfRangeException, duckdb.ConversionException):
            # Not chained: the database's message has the value.
            raise ContractError("an amount has more than 14 digits before its decimal point") from None


def newest(
    connection: duckdb.DuckDBPyConnection, left: str, table: str, day: str, begins: str, lag_months: int = 0
) -> str:
    """FROM clause: ``left`` as m with the member's newest row of ``table``, as t, that begins by ``day``, if any.

    Without a day in the column ``begins`` a row holds always; a table that has none at all needs no sorting.
    """
    dated = connection.execute(f"SELECT count({begins}) FROM {table}").fetchall()[0][0]  # noqa: S608 our own names
    if not dated:
        return f"{left} m LEFT JOIN {table} t ON m.member = t.member"
    first = f"coalesce(({begins} + to_months({lag_months}))::DATE, DATE '0001-01-01')"
    return (
        f"{left} m ASOF LEFT JOIN (SELECT * REPLACE ({first} AS {begins}) FROM {table}) t"  # noqa: S608
        f" ON m.member = t.member AND {day} >= t.{begins}"
    )


def amount_of(quantity: Decimal, rate: Decimal, factor: Decimal = Decimal(1)) -> Decimal:
    """The rounding rule for a single amount."""
    return places(places(quantity * rate) * factor)


def places(value: Decimal) -> Decimal:
    """Half up to the places of rows."""
    return value.quantize(PLACES, "ROUND_HALF_UP")


def total(rows: pa.Table, rule: str | None = None) -> Decimal:
    """Exact sum of the amounts of a rule, or of all."""
    if rule is not None:
        rows = rows.filter(pc.equal(rows["rule"], rule))
    return pc.sum(rows["amount"].cast(pa.decimal128(38, 8))).as_py() or ZERO


def totals(rows: pa.Table, by: Sequence[str]) -> list[tuple[tuple[str, ...], Decimal, Decimal, int]]:
    """Sums by the values of columns: values, quantity, amount, number of rows; sorted."""
    names = ", ".join(f'"{name}"' for name in by)
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        found = connection.execute(
            f"SELECT {names}, sum(quantity), sum(amount), count(*) FROM rows GROUP BY {names} ORDER BY {names}"  # noqa: S608
        ).fetchall()
    return [(tuple(row[:-3]), row[-3] or ZERO, row[-2] or ZERO, row[-1]) for row in found]


def text(column: str) -> str:
    """A column's name in SQL."""
    return '"' + column.replace('"', '""') + '"'
