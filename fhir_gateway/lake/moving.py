"""Rows of patients who turned out to be somebody else: found, and laid down again under the new person."""

from __future__ import annotations

from typing import Any

import duckdb
import orjson
import pyarrow as pa

from fhir_gateway.lake.columns import widen
from fhir_gateway.lake.tables import ResourceTable
from fhir_gateway.r4 import spec

_COLUMNS = ("_source", "id", "_patient", "_member", "_last_updated", "_version", "_seq", "_deleted", "_raw", "_bucket")
_BATCH_ROWS = 500


def moved_rows(
    connection: duckdb.DuckDBPyConnection,
    table: ResourceTable,
    version: int,
    moved: pa.Table,
    source: str,
    replaced: pa.ChunkedArray | pa.Array,
) -> pa.Table:
    """Newest stored rows whose patient is in ``moved`` (pairs ``_source``, ``_patient``).

    Left out are the ids of ``source`` in ``replaced``: the commit writes them anyway. Columns: ``_source``, ``id``,
    ``_patient``, ``_last_updated``, ``_version``, ``_raw``, ``old_bucket``, ``old_member``.
    """
    connection.register("moved", moved)
    connection.register("replaced", pa.table({"id": replaced}))
    connection.register("stored_rows", table.scan(version, ("_source", "id", "_patient")))
    connection.execute(
        "create or replace temp table touched as "
        "select distinct s._source, s.id from stored_rows s join moved using (_source, _patient)"
    )
    connection.register("stored_rows", table.scan(version, _COLUMNS))
    found: pa.Table = connection.sql(
        """
        select _source, id, _patient, _last_updated, _version, _raw, _bucket as old_bucket, _member as old_member
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
    return found


def widen_by(shape: dict[str, Any], resource_type: str, raw: pa.ChunkedArray) -> None:
    """Add the paths that raw resources fill to ``shape``."""
    for start in range(0, len(raw), _BATCH_ROWS):
        resources = [orjson.loads(text) for text in raw.slice(start, _BATCH_ROWS).to_pylist()]
        widen(shape, resources, spec.column_structure(resource_type))
