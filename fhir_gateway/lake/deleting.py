"""Rows that a source says are no longer there: found, so that a commit can lay a tombstone over each."""

from __future__ import annotations

from collections.abc import Collection

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.lake.staging import StagedRows
from fhir_gateway.lake.tables import ResourceTable

_COLUMNS = ("_source", "id", "_member", "_seq", "_deleted", "_bucket")


def doomed_rows(
    connection: duckdb.DuckDBPyConnection,
    table: ResourceTable,
    version: int,
    source: str,
    ids: Collection[str],
    staged: StagedRows | None,
) -> pa.Table:
    """Where the resources ``ids`` of ``source`` lie now: ``_source``, ``id``, ``old_bucket``, ``old_member``.

    Ids that were never stored or are deleted already have no row. ``staged`` is what the same pull brings: what
    a source sends is there, whatever its list of deletions says.
    """
    asked = pa.array(sorted(set(ids)), pa.string())
    for batch in staged.batches() if staged is not None else ():
        asked = asked.filter(pc.invert(pc.is_in(asked, value_set=batch["id"])))
    connection.register("stored_rows", table.scan(version, _COLUMNS, asked))
    connection.register("asked", pa.table({"id": asked}))
    found: pa.Table = connection.sql(
        """
        select _source, id, _bucket as old_bucket, _member as old_member
        from (
            select * from stored_rows where _source = ? and id in (select id from asked)
            qualify 1 = row_number() over (partition by id order by _seq desc, _deleted)
        ) c
        where not _deleted
        """,
        params=[source],
    ).to_arrow_table()
    for name in ("stored_rows", "asked"):
        connection.unregister(name)
    return found
