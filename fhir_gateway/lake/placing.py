"""Second half of a commit, decisions: which of the staged rows are new, newer, or nothing new.

Precedence is ``meta.lastUpdated``, then a numeric ``meta.versionId``, then the order of arrival; a key that one side
lacks does not decide. Every row written therefore supersedes what was there, and readers need only the latest commit.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, slots=True)
class Placement:
    """Fate of the staged rows of one type.

    ``accepted`` is the name of a table in the connection with the rows to write: ``_order`` of the staged row, ``id``,
    ``_patient``, ``old_bucket`` and ``old_member`` of the row it replaces (null when there is none), and its ``fate``.
    None: they are all staged rows, each the first of its id.
    """

    stored: int
    replaced: int
    unchanged: int
    accepted: str | None


#: Columns of the stored rows that a decision needs.
STORED_COLUMNS = ("_source", "id", "_member", "_last_updated", "_version", "_seq", "_deleted", "_hash", "_bucket")

_FRESH = """
select _order, id, _patient, _last_updated as updated, _version as version, _hash as content from staged
"""
# newest stored rows of the staged ids, tombstones among them
_STORED = """
select id, _bucket as bucket, _member as member, _last_updated as updated, _version as version, _hash as content,
    _seq as seq, _deleted as deleted
from stored_rows where _source = $source and id in (select id from fresh)
"""
_NOTHING = """
select null::varchar as id, null::integer as bucket, null::varchar as member, null::timestamptz as updated,
    null::bigint as version, null::bigint as content, null::bigint as seq, null::boolean as deleted where false
"""
_NEWEST = "qualify 1 = row_number() over (partition by id order by _seq desc, _deleted)"


def place(
    connection: duckdb.DuckDBPyConnection,
    resource_type: str,
    source: str,
    staged: pa.RecordBatchReader | pa.Table,
    old: pa.RecordBatchReader | pa.Table | None,
    arrived: int,
) -> Placement:
    """Compare rows staged from ``source`` with each other and with those stored (None: there are none).

    ``staged`` is a table when there are few. ``old`` has the ``STORED_COLUMNS`` of all sources, as a table where only
    rows of the staged ids are in it; several rows of an id are its history. ``arrived`` is the lake version that the
    staged rows came with: that of the commit, or for replayed lines the earlier one that refused them. What was written
    or deleted since has arrived later.
    """
    connection.register("staged", staged)
    if isinstance(staged, pa.Table):
        connection.execute(f"create or replace temp view fresh as {_FRESH}")
        total, distinct = staged.num_rows, pc.count_distinct(staged["id"]).as_py()
    else:
        connection.execute(f"create or replace temp table many as {_FRESH}")
        connection.execute("create or replace temp view fresh as from many")
        total, distinct = _row(connection, "select count(*), count(distinct id) from fresh")
    best = "fresh"
    repeated = 0
    if distinct < total:
        best = "best"
        connection.execute(
            "create or replace temp table best as select * from fresh qualify 1 = row_number() over "
            "(partition by id order by updated desc nulls last, version desc nulls last, _order desc)"
        )
        # the last of several contents with nothing to order them replaced the others
        (repeated,) = _row(
            connection,
            "select count(*) from fresh f join best b using (id) where f._order <> b._order and f.content <> b.content "
            "and f.updated is not distinct from b.updated and f.version is not distinct from b.version",
        )
    given: dict[str, object] = {"arrived": arrived}
    before = _NOTHING
    if old is not None:
        connection.register("stored_rows", old)
        given["source"] = source
        once = isinstance(old, pa.Table) and pc.count_distinct(old["id"]).as_py() == old.num_rows
        before = _STORED if once else _STORED + _NEWEST
    accepted = f"accepted_{resource_type}"
    connection.execute(
        f"""
        create or replace table {accepted} as
        with old as materialized ({before})
        select * from (
            select b._order, b.id, b._patient,
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
            from {best} b left join old o using (id)
        ) where fate <> 'unchanged'
        """,  # noqa: S608 - constants above, one of two table names, and the name of an R4 type
        given,
    )
    connection.execute("drop view fresh")
    connection.unregister("staged")
    if old is not None:
        connection.unregister("stored_rows")
    stored, replaced = _row(
        connection,
        f"select count(*) filter (fate = 'stored'), count(*) filter (fate = 'replaced') from {accepted}",  # noqa: S608
    )
    replaced += repeated
    return Placement(stored, replaced, total - stored - replaced, accepted)


def clear(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop what placing needed beside the accepted rows."""
    for name in ("many", "best"):
        connection.execute(f"drop table if exists {name}")


def _row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[int, ...]:
    (row,) = connection.execute(query).fetchall()
    return tuple(row)
