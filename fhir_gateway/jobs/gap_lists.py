"""The work list of a run: every member's gap by group, with practice and clinician, filtered and in pages.

Statuses are written once for each run, beside the views (:mod:`fhir_gateway.jobs.kept_views`), as columns: a page of
the list reads these and the evidence of one attribution, and no result.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.locks import hold
from fhir_gateway.measures.gap import OPEN, gap_statuses

STATUSES = ("open-gap", "prospective-gap", "closed-gap", "not-applicable")
COLUMNS = ("member", "group", "status", "tin", "npi")
_ROW_GROUP = 1 << 15
_MET = """
list_contains($statuses, status) and ($group = '' or "group" = $group) and ($tin = '' or tin = $tin)
and ($npi = '' or npi = $npi)
"""
_NO_ATTRIBUTION = pa.schema([(name, pa.string()) for name in ("member", "tin", "npi")]).empty_table()


@dataclass(frozen=True, slots=True)
class Filter:
    """What of a list is wanted: a status (empty: any that is open), a group, a practice, a clinician; ``members``:
    those who are seen, None for everybody."""

    status: str = ""
    group: str = ""
    tin: str = ""
    npi: str = ""
    members: Sequence[str] | None = None

    @property
    def values(self) -> dict[str, Any]:
        """What is compared with the rows."""
        statuses = [self.status] if self.status in STATUSES else list(OPEN)
        return {"statuses": statuses, "group": self.group, "tin": self.tin, "npi": self.npi}


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of a page and how many there are in all; groups of the measure; practices, and clinicians of the chosen
    practice, with their rows, the most first."""

    rows: list[dict[str, Any]]
    total: int
    groups: list[str]
    practices: list[tuple[str, int]]
    clinicians: list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class GapList:
    """The list of a run; ``attribution`` is the file of the members of a kept attribution, where one is looked at."""

    gaps: Path
    attribution: Path | None

    def page(self, wanted: Filter, rows: int, page: int) -> Page:
        """A page of the list, by member, with what can be chosen of it."""
        with self._joined(wanted.members) as connection:
            values = wanted.values
            total = int(connection.execute(f"select count(*) from listed where {_MET}", values).fetchall()[0][0])  # noqa: S608 - ours
            at = max(0, min(page - 1, (total - 1) // rows)) * rows
            names = ", ".join(f'"{name}"' for name in COLUMNS)
            statement = f'select {names} from listed where {_MET} order by member, "group" limit {rows} offset {at}'  # noqa: S608 - ours
            found = connection.execute(statement, values).fetchall()
            groups = connection.execute('select distinct "group" from listed order by 1').fetchall()
            return Page(
                [dict(zip(COLUMNS, row, strict=True)) for row in found],
                total,
                [str(one) for (one,) in groups],
                _counted(connection, "tin", replace(wanted, tin="", npi="")),
                _counted(connection, "npi", replace(wanted, npi="")) if wanted.tin else [],
            )

    def all(self, wanted: Filter) -> pa.Table:
        """Every row, by member."""
        with self._joined(wanted.members) as connection:
            names = ", ".join(f'"{name}"' for name in COLUMNS)
            statement = f'select {names} from listed where {_MET} order by member, "group"'  # noqa: S608 - ours
            return connection.sql(statement, params=wanted.values).to_arrow_table()

    @contextmanager
    def _joined(self, members: Sequence[str] | None) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with the list of those who are seen as ``listed``."""
        with duckdb.connect(config={"threads": 1}) as connection:
            if members is not None:
                connection.register("seen", pa.table({"member": pa.array(members, pa.string())}))
            if self.attribution is None:
                connection.register("attributed", _NO_ATTRIBUTION)
            else:
                connection.register("attributed", pq.read_table(self.attribution, columns=_NO_ATTRIBUTION.column_names))
            connection.register("gaps", pq.read_table(self.gaps, read_dictionary=["group", "status"]))
            only = "" if members is None else "where g.member in (select member from seen)"
            connection.execute(
                f'create view listed as select g.member, g."group", g.status, a.tin, a.npi from gaps g '  # noqa: S608 - ours
                f"left join attributed a on a.member = g.member {only}"
            )
            yield connection


def _counted(connection: duckdb.DuckDBPyConnection, column: str, wanted: Filter) -> list[tuple[str, int]]:
    """How many rows there are by practice or clinician, the most first."""
    statement = f"select {column}, count(*) n from listed where {_MET} and {column} is not null group by 1"  # noqa: S608 - ours
    rows = connection.execute(f"{statement} order by n desc, 1", wanted.values).fetchall()
    return [(str(one), int(number)) for one, number in rows]


def gap_list(gateway: Gateway, run: str, evidence: Path | None) -> GapList:
    """The list of a run, with the practices and clinicians of a kept attribution."""
    path = gateway.data_folder / "views" / "gaps-1" / f"{run}.parquet"
    if not path.exists():
        with hold(gateway, f"gaps-{run}", wait=lambda: True, once=True):
            if not path.exists():
                _write(gateway, run, path)
    return GapList(path, None if evidence is None else evidence / "members.parquet")


def _write(gateway: Gateway, run: str, path: Path) -> None:
    result = gateway.results.load(run)
    parts = []
    for group in result.groups:
        statuses = gap_statuses(group, result.period, result.evaluated_at)
        if statuses is not None:
            coded = pa.array(statuses, pa.string()).dictionary_encode()
            named = pa.repeat(group.id, len(statuses)).dictionary_encode()
            parts.append(pa.table({"member": result.members.cast(pa.string()), "group": named, "status": coded}))
    empty = pa.table({name: pa.array([], pa.string()) for name in COLUMNS[:3]})
    table = pa.concat_tables(parts).sort_by("member") if parts else empty
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, partial = tempfile.mkstemp(prefix=".keeping-", dir=path.parent)
    with open(descriptor, "wb") as file:
        pq.write_table(table, file, row_group_size=_ROW_GROUP, compression="zstd")
    os.replace(partial, path)
