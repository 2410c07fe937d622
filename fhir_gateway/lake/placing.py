"""Second half of a commit, decisions: which of the staged rows are new, newer, or nothing new.

Precedence is ``meta.lastUpdated``, then a numeric ``meta.versionId``, then the order of arrival; a key that one side
lacks does not decide. Every row written therefore supersedes what was there, and readers need only the latest commit.
Rows are compared a part of all ids at a time, so that memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.lake import parting
from fhir_gateway.lake.columns import OWN_COLUMNS
from fhir_gateway.lake.parting import matched
from fhir_gateway.lake.scan import CHECKED
from fhir_gateway.lake.sought import SoughtIds
from fhir_gateway.lake.staging import StagedRows, gathered, id_words
from fhir_gateway.lake.tables import BUCKET

#: Where the row lies that an accepted one replaces; null when there is none.
BEFORE = pa.schema([("old_bucket", pa.int32()), ("old_member", pa.string())])
#: What an accepted row is.
ACCEPTED = pa.schema([*CHECKED, *BEFORE])


@dataclass(frozen=True, slots=True)
class Placement:
    """Fate of the staged rows of one type.

    ``accepted`` are the rows to write, of ``ACCEPTED``; or of ``CHECKED`` where all are, each the first of its id.
    """

    stored: int
    replaced: int
    unchanged: int
    accepted: StagedRows


class Before(NamedTuple):
    """Rows stored so far: how many there are at most, and what gives them anew with ``STORED_COLUMNS``."""

    size: int
    rows: Callable[[], Iterable[pa.RecordBatch]]


#: Columns of the stored rows that a decision needs.
STORED_COLUMNS = ("_source", "id", "_member", "_last_updated", "_version", "_seq", "_deleted", "_hash", "_bucket")

_STORED_SCHEMA = pa.schema([pa.schema([*OWN_COLUMNS, BUCKET]).field(name) for name in STORED_COLUMNS])
#: Bytes of a type's accepted rows that are held in memory.
_HELD_BYTES = 1 << 20

_FRESH_COLUMNS = ["_order", "id", "_last_updated", "_version", "_hash"]
_FRESH = """
select _order, id, _last_updated as updated, _version as version, _hash as content, row_at from staged
"""
# newest stored rows, tombstones among them
_STORED = """
select id, _bucket as bucket, _member as member, _last_updated as updated, _version as version, _hash as content,
    _seq as seq, _deleted as deleted
from stored_rows qualify 1 = row_number() over (partition by id order by _seq desc, _deleted)
"""


def place(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    staged: StagedRows,
    before: Before | None,
    arrived: int,
    scratch: Path,
) -> Placement:
    """Compare rows staged from ``source`` with each other and with those stored (None: there are none).

    The stored rows are of all sources, some of other ids among them; several rows of an id are its history. ``arrived``
    is the lake version that the staged rows came with: that of the commit, or for replayed lines the earlier one that
    refused them. What was written or deleted since has arrived later. ``scratch`` is a folder for parts and
    for what is accepted.
    """

    sought = None
    if before is not None and before.size > parting.PART_ROWS:
        sought = SoughtIds(staged.count, (_hashes(rows) for rows in gathered(staged.batches())))

    def stored_rows() -> Iterable[pa.Table]:
        for rows in gathered(before.rows()) if before else ():
            own = pc.equal(rows["_source"], source)
            if sought is not None:
                own = pc.and_(own, pa.array(sought.may_have(_hashes(rows))))
            yield rows.filter(own).drop_columns(["_source"])

    accepted = StagedRows(staged.resource_type, scratch, ACCEPTED)
    stored = replaced = 0
    count = max(staged.count, before.size if before else 0)
    parts = scratch / staged.resource_type
    for rows, old in matched(lambda: gathered(staged.batches()), stored_rows, count, parts):
        found = _compared(connection, rows, old, arrived)
        stored += found.stored
        replaced += found.replaced
        for batch in found.rows.combine_chunks().to_batches():
            accepted.add(batch)
        if accepted.held > _HELD_BYTES:
            accepted.spill()
    accepted.close()
    return Placement(stored, replaced, staged.count - stored - replaced, accepted)


class _Found(NamedTuple):
    rows: pa.Table
    stored: int
    replaced: int


def _compared(connection: duckdb.DuckDBPyConnection, staged: pa.Table, old: pa.Table | None, arrived: int) -> _Found:
    """Which of the rows of some ids are accepted; ``old`` are all that are stored of these ids."""
    hashed = _hashes(staged)
    new = np.ones(len(hashed), np.bool_)  # nothing of that id is stored
    open_ = ~new  # not told by hashes alone
    if _any_twice(hashed):
        new[:], open_[:] = False, True
    elif old is not None and old.num_rows:
        new, open_ = _told(staged, hashed, old)
    accepted = np.flatnonzero(new)
    stored, replaced = len(accepted), 0
    before = pa.Table.from_arrays([pa.nulls(stored, field.type) for field in BEFORE], schema=BEFORE)
    if open_.any():
        asked = staged.select(_FRESH_COLUMNS).append_column("row_at", pa.array(np.arange(len(hashed))))
        if old is not None:
            old = old.filter(pa.array(np.isin(_hashes(old), hashed[open_])))
        found, repeated = _decided(connection, asked.filter(pa.array(open_)), old, arrived)
        fresh = pc.sum(found["fresh"], min_count=0).as_py()
        stored, replaced = stored + fresh, found.num_rows - fresh + repeated
        before = pa.concat_tables([before, found.select(BEFORE.names).cast(BEFORE)])
        accepted = np.concatenate([accepted, found["row_at"].to_numpy()])
        order = np.argsort(accepted)
        accepted, before = accepted[order], before.take(pa.array(order))
    rows = staged.take(pa.array(accepted))
    return _Found(pa.table([*rows.columns, *before.columns], schema=ACCEPTED), stored, replaced)


def _told(
    staged: pa.Table, hashed: npt.NDArray[np.uint64], old: pa.Table
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Of rows with different ids: which are new, and which are neither that nor surely as stored.

    Nothing is stored of an id whose hash no stored one has; and a row is as the only stored one of its hash, when that
    has its content and is not deleted.
    """
    there = _hashes(old)
    order = np.argsort(there, kind="stable")
    there = there[order]
    first = np.searchsorted(there, hashed)
    at = np.minimum(first, len(there) - 1)
    known = there[at] == hashed
    once = np.ones(len(there) + 1, np.bool_)
    once[:-2] = there[1:] != there[:-1]  # of a hash's first row
    at = pa.array(order[at])
    alike = pc.equal(old["_hash"].take(at), staged["_hash"]).fill_null(False)
    same = pc.and_not(alike, old["_deleted"].take(at)).combine_chunks()
    return ~known, known & ~(once[first] & same.to_numpy(zero_copy_only=False))


def _decided(
    connection: duckdb.DuckDBPyConnection, staged: pa.Table, old: pa.Table | None, arrived: int
) -> tuple[pa.Table, int]:
    """The accepted of rows of ``_FRESH_COLUMNS``, and how many others gave way to the last of several contents.

    Of the accepted: their place ``row_at``, whether they are the first of their id (``fresh``), and ``BEFORE``. Given
    way have those of the same id that nothing orders.
    """
    connection.register("staged", staged)
    connection.register("stored_rows", old if old is not None else _STORED_SCHEMA.empty_table())
    try:
        connection.execute(f"create or replace temp table fresh as {_FRESH}")
        connection.execute(
            "create or replace temp table best as select * from fresh qualify 1 = row_number() over "
            "(partition by id order by updated desc nulls last, version desc nulls last, _order desc)"
        )
        ((repeated,),) = connection.execute(
            "select count(*) from fresh f join best b using (id) where f._order <> b._order and f.content <> b.content "
            "and f.updated is not distinct from b.updated and f.version is not distinct from b.version",
        ).fetchall()
        found = connection.sql(
            f"""
            with old as materialized ({_STORED})
            select row_at, fate = 'stored' as fresh, old_bucket, old_member from (
                select b.row_at,
                    case when not o.deleted then o.bucket end as old_bucket,
                    case when not o.deleted then o.member end as old_member,
                    case when o.id is null or (o.deleted and o.seq <= $arrived) then 'stored'
                         when o.deleted then 'unchanged'
                         when coalesce(o.content = b.content, false)
                              or coalesce(b.updated < o.updated, false)
                              or (coalesce(b.updated = o.updated, true) and coalesce(b.version < o.version, false))
                              or (coalesce(b.updated = o.updated, true) and coalesce(b.version = o.version, true)
                                  and o.seq > $arrived)
                         then 'unchanged'
                         else 'replaced' end as fate
                from best b left join old o using (id)
            ) where fate <> 'unchanged'
            """,  # noqa: S608 - a constant above
            params={"arrived": arrived},
        ).to_arrow_table()
    finally:
        connection.unregister("staged")
        connection.unregister("stored_rows")
    return found, repeated


def _hashes(rows: pa.Table) -> npt.NDArray[np.uint64]:
    found: npt.NDArray[np.uint64] = id_words(rows["id"].combine_chunks())[2]
    return found


def _any_twice(hashed: npt.NDArray[np.uint64]) -> bool:
    found = np.sort(hashed)
    return bool((found[1:] == found[:-1]).any())
