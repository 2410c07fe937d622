"""Rows of tables that pages show: a part of them, filtered and in order, by DuckDB over files or Arrow tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

#: Rows of one page.
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
    order: str,
    page: int = 1,
    equal: Mapping[str, str] | None = None,
    among: Mapping[str, Sequence[str]] | None = None,
) -> Rows:
    """A page of a Parquet file or a table, ordered by a column; ``equal`` and ``among`` filter by columns of strings.

    Column names are ours, values are bound.
    """
    where = [f'"{name}" = ?' for name in equal or ()] + [f'list_contains(?, "{name}")' for name in among or ()]
    values: list[Any] = [*(equal or {}).values(), *(list(one) for one in (among or {}).values())]
    condition = f"where {' and '.join(where)}" if where else ""
    with duckdb.connect() as connection:
        if isinstance(table, Path):
            source, given = "read_parquet(?)", [str(table)]
        else:
            connection.register("given", table)
            source, given = "given", []
        counted = connection.execute(f"select count(*) from {source} {condition}", [*given, *values]).fetchall()  # noqa: S608 - names of ours
        total = int(counted[0][0])
        at = min(max(1, page), max(1, -(-total // ROWS)))
        found = connection.execute(
            f'select * from {source} {condition} order by "{order}" limit {ROWS} offset {(at - 1) * ROWS}',  # noqa: S608 - names of ours
            [*given, *values],
        ).fetchall()
        names = [column[0] for column in connection.description or ()]
    return Rows([dict(zip(names, row, strict=True)) for row in found], total, at)


def counts_of(
    file: Path, columns: Sequence[str], among: Mapping[str, Sequence[str]] | None = None
) -> list[dict[str, Any]]:
    """How many rows of a Parquet file there are by some columns, most first."""
    names = ", ".join(f'"{name}"' for name in columns)
    condition = " and ".join(f'list_contains(?, "{name}")' for name in among or ()) or "true"
    statement = f"select {names}, count(*) as rows from read_parquet(?) where {condition} group by all"  # noqa: S608 - names of ours
    with duckdb.connect() as connection:
        values = [str(file), *(list(one) for one in (among or {}).values())]
        found = connection.execute(f"{statement} order by rows desc, {names}", values).fetchall()
    return [dict(zip([*columns, "rows"], row, strict=True)) for row in found]
