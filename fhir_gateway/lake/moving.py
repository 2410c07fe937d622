"""Rows of patients who turned out to be somebody else: found, and laid down again under the new person."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from fhir_gateway.lake.lines import LineBlock
from fhir_gateway.lake.placing import ACCEPTED
from fhir_gateway.lake.scan import CHECKED, Scanner
from fhir_gateway.lake.staging import StagedRows
from fhir_gateway.lake.tables import FEW_IDS, ResourceTable
from fhir_gateway.lake.texts import Texts

_KEYS = ("_source", "id", "_patient")
_COLUMNS = ("_source", "id", "_patient", "_member", "_seq", "_deleted", "_bucket")
_TEXTS = ("_source", "id", "_seq", "_deleted", "_raw")
#: What a moved row is: an accepted one, and whose it is.
MOVED = pa.schema([*ACCEPTED, ("_source", pa.string())])
#: What it has beside the columns of a checked one.
_BESIDE = pa.schema([field for field in MOVED if field.name not in CHECKED.names])
_BATCH_ROWS = 1000
#: Bytes of moved rows that are held in memory.
_HELD_BYTES = 1 << 20


def moved_rows(
    connection: duckdb.DuckDBPyConnection,
    scanner: Scanner,
    table: ResourceTable,
    version: int,
    moved: pa.Table,
    source: str,
    accepted: StagedRows | None,
    doomed: pa.Table | None,
    texts: Texts,
    folder: Path,
) -> StagedRows:
    """Newest stored rows whose patient is in ``moved`` (pairs ``_source``, ``_patient``).

    Left out are the ids of ``source`` that are ``accepted``, as the commit writes them anyway, or ``doomed``. The rows
    are of ``MOVED``; the scanner has learned their columns, their text is laid down in ``texts``.
    """
    rows = StagedRows(table.resource_type, folder, MOVED)
    connection.register("moved", moved)
    connection.register("stored_rows", table.scan(version, _KEYS))
    connection.execute(
        "create or replace temp table touched as "
        "select distinct s._source, s.id from stored_rows s join moved using (_source, _patient)"
    )
    for replaced in (accepted, doomed):
        if replaced is not None:
            connection.register("replaced", replaced.ids() if isinstance(replaced, StagedRows) else replaced)
            connection.execute("delete from touched where _source = ? and id in (select id from replaced)", [source])
            connection.unregister("replaced")
    asked = _few(connection)
    connection.register("stored_rows", table.scan(version, _COLUMNS, asked))
    connection.execute(
        """
        create or replace temp table leaving as
        select _source, id, _seq, _bucket as old_bucket, _member as old_member
        from (
            select s.* from stored_rows s semi join touched using (_source, id)
            qualify 1 = row_number() over (partition by _source, id order by _seq desc, _deleted)
        ) c
        semi join moved using (_source, _patient)
        where not _deleted
        """
    )
    # texts go by, and are never all there
    connection.register("stored_rows", table.scan(version, _TEXTS, asked))
    found = connection.sql(
        "select l._source, old_bucket, old_member, s._raw from stored_rows s join leaving l using (_source, id, _seq) "
        "where not s._deleted"
    )
    for batch in found.to_arrow_reader(_BATCH_ROWS):
        for part in _checked(scanner, table.resource_type, batch, rows.count, texts):
            rows.add(part)
        if rows.held > _HELD_BYTES:
            rows.spill()
    rows.close()
    for name in ("moved", "stored_rows"):
        connection.unregister(name)
    for name in ("touched", "leaving"):
        connection.execute(f"drop table {name}")
    return rows


def _few(connection: duckdb.DuckDBPyConnection) -> pa.ChunkedArray | None:
    """The ids of ``touched``, when they are few."""
    ((count,),) = connection.execute("select count(*) from touched").fetchall()
    return connection.sql("select distinct id from touched").to_arrow_table()["id"] if count <= FEW_IDS else None


def _checked(
    scanner: Scanner, resource_type: str, rows: pa.RecordBatch, order: int, texts: Texts
) -> list[pa.RecordBatch]:
    """Stored rows as checked ones."""
    text = b"".join(line.encode() + b"\n" for line in rows["_raw"].to_pylist())
    beside = rows.select(_BESIDE.names)
    parts = []
    block = LineBlock(text, 1, rows.num_rows)
    for _, batch in scanner.scan(block, resource_type, resource_type, order, texts).rows:
        there = beside.take(pa.array(batch["_order"].to_numpy() - np.int64(order))).cast(_BESIDE)
        columns = [*batch.columns, *there.columns]
        parts.append(pa.record_batch(columns, schema=MOVED))
    return parts
