"""Rows of tables that pages show: a part of them, filtered and in order, by DuckDB over files or Arrow tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

ROWS = 50


@dataclass(frozen=True, slots=True)
class Rows:
    """One page of rows: ``total`` are all that meet the filters, ``page`` counts from one."""

    rows: list[Any]
    total: int
    page: int

    @property
    def pages(self) -> int:
        """How many pages there are, at least one."""
        return max(1, -(-self.total // ROWS))


def rows_of(found: Sequence[Any], page: int = 1) -> Rows:
    """A page of what is at hand."""
    at = min(max(1, page), max(1, -(-len(found) // ROWS)))
    return Rows(list(found[(at - 1) * ROWS : at * ROWS]), len(found), at)


def page_of(
    table: Path | pa.Table,
    order: str | Sequence[str],
    page: int = 1,
    equal: Mapping[str, Any] | None = None,
    among: Mapping[str, Sequence[str]] | None = None,
) -> Rows:
    """A page of a Parquet file or a table; ``equal`` and ``among`` filter by columns.

    ``order`` names columns, the greatest first of those with a minus before their name; nulls come last. Column names
    are ours, values are bound.
    """
    columns = [order] if isinstance(order, str) else order
    by = ", ".join(f'"{one.lstrip("-")}" {"desc" if one.startswith("-") else "asc"} nulls last' for one in columns)
    with _filtered(table, equal, among) as (connection, source, given):
        total = int(connection.execute(f"select count(*) from {source}", given).fetchall()[0][0])  # noqa: S608 - names of ours
        at = min(max(1, page), max(1, -(-total // ROWS)))
        rows = connection.execute(
            f"select * from {source} order by {by} limit {ROWS} offset {(at - 1) * ROWS}",  # noqa: S608 - names of ours
            given,
        )
        return Rows(_named(rows), total, at)


def counts_of(
    table: Path | pa.Table,
    columns: Sequence[str],
    among: Mapping[str, Sequence[str]] | None = None,
    *,
    equal: Mapping[str, Any] | None = None,
    sums: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """How many rows of a Parquet file or a table there are by some columns, most first.

    Of columns to sum also how many rows have a value, as ``NAME_filled``.
    """
    names = [f'"{name}"' for name in columns]
    added = [f'sum("{name}") as "{name}", count("{name}") as "{name}_filled"' for name in sums]
    with _filtered(table, equal, among) as (connection, source, given):
        statement = f"select {', '.join([*names, 'count(*) as rows', *added])} from {source} group by all"  # noqa: S608 - names of ours
        return _named(connection.execute(f"{statement} order by {', '.join(['rows desc', *names])}", given))


@contextmanager
def _filtered(
    table: Path | pa.Table, equal: Mapping[str, Any] | None, among: Mapping[str, Sequence[str]] | None
) -> Iterator[tuple[duckdb.DuckDBPyConnection, str, list[Any]]]:
    """A connection, what to select from, and the values of that."""
    where = [f'"{name}" = ?' for name in equal or ()]
    values: list[Any] = list((equal or {}).values())
    with duckdb.connect() as connection:
        for number, (name, those) in enumerate((among or {}).items()):
            connection.register(f"among_{number}", pa.table({"one": pa.array(list(those), pa.string())}))
            where.append(f'"{name}" in (select one from among_{number})')  # noqa: S608 - names of ours
        if isinstance(table, Path):
            source, given = "read_parquet(?)", [str(table)]
        else:
            connection.register("given", table)
            source, given = "given", []
        condition = f" where {' and '.join(where)}" if where else ""
        yield connection, f"(select * from {source}{condition})", [*given, *values]  # noqa: S608 - names of ours


def _named(rows: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in rows.description or ()]
    return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
