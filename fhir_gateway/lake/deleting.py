"""Rows that a source says are no longer there: found, so that a commit can lay a tombstone over each."""

from __future__ import annotations

from collections.abc import Collection

import duckdb
import pyarrow as pa

from fhir_gateway.lake.tables import ResourceTable

_COLUMNS = ("_source", "id", "_member", "_seq", "_deleted", "_bucket")


def doomed_rows(
    connection: duckdb.DuckDBPyConnection,
    table: ResourceTable,
    version: int,
    source: str,
    ids: Collection[str],
    brought: pa.ChunkedArray | pa.Array,
) -> pa.Table:
    """Where the resources ``ids`` of ``source`` lie now: ``_source``, ``id``, ``old_bucket``, ``old_member``.

    Ids that were never stored or are deleted already have no row. ``brought`` are the ids that the same pull brings:
    what a source sends is there, whatever its list of deletions says.
    """
    asked = pa.array(sorted(set(ids)), pa.string())
    connection.register("stored_rows", table.scan(version, _COLUMNS, asked))
    connection.register("asked", pa.table({"id": asked}))
    connection.register("brought", pa.table({"id": brought}))
    found: pa.Table = connection.sql(
        """
        select _source, id, _bucket as old_bucket, _member as old_member
        from (
            select * from stored_rows where _source = ? and id in (select id from asked)
            qualify 1 = row_number() over (partition by id order by _seq desc, _deleted)
        ) c
        where not _deleted and id not in (select id from brought)
        """,
        params=[source],
    ).to_arrow_table()
    for name in ("stored_rows", "asked", "brought"):
        connection.unregister(name)
    return found
