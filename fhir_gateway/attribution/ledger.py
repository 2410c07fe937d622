"""The member-month ledger: what was counted for whom in which month, posted once and never edited.

Each cycle the months as they stand now are compared with what was posted before; the differences are new rows. A month
whose turn it is gets an ``original`` row, a month of the past an ``adjustment`` (+ or -) in the current cycle under its
own month. Months further back than the retro window are not changed; the difference is flagged in ``outside`` instead.
For every member, month and cell it holds after each posting that

    sum(months) + sum(outside) = months as they stand now

so a retroactive change and its reversal leave zero, and posting the parts of a population is posting the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import duckdb
import pyarrow as pa

from fhir_gateway.errors import ContractError

_MONTHS = pa.decimal128(28, 8)
_KEYS = (("member", pa.string()), ("month", pa.date32()))
_POSTED = (("months", _MONTHS), ("outside", _MONTHS), ("cycle", pa.date32()), ("kind", pa.string()))

#: Kinds of rows: a month in its own turn; a change of a month of the past; a change too late to be made (``months`` 0).
KINDS = ("original", "adjustment", "outside_window")


def ledger_schema(cells: Sequence[pa.Field] = ()) -> pa.Schema:
    """Columns of a ledger: member, month (its first day), the cells of the contract, months, outside, cycle, kind."""
    return pa.schema([*map(pa.field, *zip(*_KEYS, strict=True)), *cells, *map(pa.field, *zip(*_POSTED, strict=True))])


def cells_of(table: pa.Table) -> list[pa.Field]:
    """The cell columns of a ledger or of months as they stand: all that is neither key nor posting."""
    known = {name for name, _ in (*_KEYS, *_POSTED)}
    return [one for one in table.schema if one.name not in known]


def post(
    previous: pa.Table | None,
    current: pa.Table,
    cycle: date,
    window_months: int,
    *,
    original_from: date | None = None,
    span: tuple[date, date] | None = None,
) -> pa.Table:
    """The rows to add to a ledger in a cycle, in the order of their keys; none when nothing changed.

    ``previous`` are all rows posted so far (:func:`ledger_schema`), ``current`` the months as they stand now: member,
    month (first day), months, and any cell columns (age band, programme ...). What ``current`` mentions no more
    has ended; ``span`` (first and last month) limits what it speaks for. Months from ``original_from`` on (default: the
    cycle's) are in their own turn; months more than ``window_months`` before the cycle's are outside the retro window.
    A changed cell is the old one taken back and the new one posted. ContractError for days that begin no month, and for
    more than one month of one member in a month.
    """
    cells = cells_of(current)
    schema = ledger_schema(cells)
    posted = previous if previous is not None else schema.empty_table()
    if set(posted.schema.names) != set(schema.names):
        raise ContractError(f"the ledger's cells are {[one.name for one in cells_of(posted)]}, not those given")
    opened = cycle.replace(day=1)
    keys = ", ".join(f'"{name}"' for name in ("member", "month", *(one.name for one in cells)))
    with duckdb.connect() as connection:
        connection.register("posted", posted)
        connection.register("standing", current)
        _check(connection)
        rows = connection.sql(
            f"""
            WITH facts AS (
              SELECT {keys}, months AS now, 0 AS months, 0 AS outside FROM standing
              UNION ALL SELECT {keys}, 0, months, outside FROM posted
            ), compared AS (
              SELECT {keys}, sum(now) AS now, sum(months) AS months, sum(outside) AS outside,
                month >= least($opened - to_months($window), $turn) AS open
              FROM facts WHERE month BETWEEN $first AND $last GROUP BY {keys}
            ), differing AS (
              SELECT *, month >= $turn AND NOT EXISTS (
                  SELECT 1 FROM posted p WHERE p.member = c.member AND p.month = c.month) AS first_time
              FROM compared c WHERE now <> months + outside OR (open AND outside <> 0)
            )
            SELECT {keys}, CASE WHEN open THEN now - months ELSE 0 END AS months,
              CASE WHEN open THEN -outside ELSE now - months - outside END AS outside, $cycle AS cycle,
              CASE WHEN NOT open THEN 'outside_window' WHEN first_time THEN 'original' ELSE 'adjustment' END AS kind
            FROM differing ORDER BY ALL
            """,  # noqa: S608 only column names are spliced in, quoted
            params={
                "first": span[0] if span else date.min,
                "last": span[1] if span else date.max,
                "opened": opened,
                "turn": (original_from or opened).replace(day=1),
                "window": window_months,
                "cycle": cycle,
            },
        ).to_arrow_table()
    return rows.select(schema.names).cast(schema)


def state(ledger: pa.Table) -> pa.Table:
    """Where each member, month and cell stands: months posted, outside, ``first_paid_as_of`` and the ``last`` cycle.

    ``first_paid_as_of`` is the first cycle that posted something.
    """
    keys = ", ".join(f'"{name}"' for name in ("member", "month", *(one.name for one in cells_of(ledger))))
    with duckdb.connect() as connection:
        connection.register("ledger", ledger)
        return connection.sql(
            f"""
            SELECT {keys}, sum(months)::DECIMAL(28, 8) AS months, sum(outside)::DECIMAL(28, 8) AS outside,
              min(cycle) FILTER (months <> 0) AS first_paid_as_of, max(cycle) AS last
            FROM ledger GROUP BY {keys} ORDER BY {keys}
            """  # noqa: S608 only column names are spliced in, quoted
        ).to_arrow_table()


def _check(connection: duckdb.DuckDBPyConnection) -> None:
    wrong = connection.execute(
        "SELECT count(*) FILTER (day(month) <> 1 OR member IS NULL), count(*) FILTER (months < 0) FROM standing"
    ).fetchall()[0]
    if wrong[0]:
        raise ContractError("member months: a month is named by its first day, and has a member")
    if wrong[1]:
        raise ContractError("member months as they stand are not negative")
    twice = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM standing GROUP BY member, month HAVING sum(months) > 1)"
    ).fetchall()[0]
    if twice[0]:
        raise ContractError("member months: a member counts at most one month in a month, over all cells")
