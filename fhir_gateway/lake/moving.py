"""Rows of patients who turned out to be somebody else: found, and laid down again under the new person."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

from fhir_gateway.lake.lines import LineBlock
from fhir_gateway.lake.scan import CHECKED, Scanner
from fhir_gateway.lake.tables import ResourceTable
from fhir_gateway.lake.texts import Texts

_COLUMNS = ("_source", "id", "_patient", "_member", "_last_updated", "_version", "_seq", "_deleted", "_raw", "_bucket")
#: What a moved row has beside the columns of a checked one: whose it is, and where it lay.
_BESIDE = pa.schema([("_source", pa.string()), ("old_bucket", pa.int32()), ("old_member", pa.string())])
#: Columns of moved rows that say where each goes and lay.
MOVED = ["_order", "_source", "id", "_patient", "old_bucket", "old_member"]
_BATCH_ROWS = 1000


def moved_rows(
    connection: duckdb.DuckDBPyConnection,
    scanner: Scanner,
    table: ResourceTable,
    version: int,
    moved: pa.Table,
    source: str,
    replaced: pa.ChunkedArray | pa.Array,
    texts: Texts,
) -> pa.Table:
    """Newest stored rows whose patient is in ``moved`` (pairs ``_source``, ``_patient``).

    Left out are the ids of ``source`` in ``replaced``: the commit writes them anyway. The rows are checked rows, whose
    order is below all that is staged, with ``_source``, ``old_bucket`` and ``old_member``; the scanner has learned
    their columns, their text is laid down in ``texts``.
    """
    connection.register("moved", moved)
    connection.register("replaced", pa.table({"id": replaced}))
    connection.register("stored_rows", table.scan(version, ("_source", "id", "_patient")))
    connection.execute(
        "create or replace temp table touched as "
        "select distinct s._source, s.id from stored_rows s join moved using (_source, _patient)"
    )
    connection.register("stored_rows", table.scan(version, _COLUMNS))
    found = connection.sql(
        """
        select _source, id, _bucket as old_bucket, _member as old_member, _raw
        from (
            select s.* from stored_rows s semi join touched using (_source, id)
            qualify 1 = row_number() over (partition by _source, id order by _seq desc, _deleted)
        ) c
        semi join moved using (_source, _patient)
        where not _deleted and not (_source = ? and id in (select id from replaced))
        """,
        params=[source],
    ).to_arrow_table()
    for name in ("moved", "replaced", "stored_rows"):
        connection.unregister(name)
    schema = pa.schema([*CHECKED, *_BESIDE])
    parts = [
        part
        for first in range(0, found.num_rows, _BATCH_ROWS)
        for part in _checked(
            scanner, table.resource_type, found.slice(first, _BATCH_ROWS), first - found.num_rows, texts
        )
    ]
    return pa.Table.from_batches(parts, schema)


def _checked(scanner: Scanner, resource_type: str, rows: pa.Table, order: int, texts: Texts) -> list[pa.RecordBatch]:
    """Stored rows as checked ones."""
    text = b"".join(line.encode() + b"\n" for line in rows["_raw"].to_pylist())
    beside = rows.select(_BESIDE.names).combine_chunks()
    parts = []
    block = LineBlock(text, 1, rows.num_rows)
    for _, batch in scanner.scan(block, resource_type, resource_type, order, texts).rows:
        there = beside.take(batch["_order"].to_numpy() - np.int64(order)).cast(_BESIDE)
        columns = [*batch.columns, *(column.combine_chunks() for column in there.columns)]
        parts.append(pa.record_batch(columns, schema=pa.schema([*CHECKED, *_BESIDE])))
    return parts
