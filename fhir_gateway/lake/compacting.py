"""Few files in the place of many: the rows of a bucket that count, once more, in reading order.

Files that commits wrote stay: they are what history, texts and changes are read from, and what a version is read from
whose copies are gone. A copy has the newest row of each resource, or that it is gone, and is only read for what is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.lake.buckets import bucket_of
from fhir_gateway.lake.columns import table_schema
from fhir_gateway.lake.parts import BucketWriter
from fhir_gateway.lake.places import side_by_side
from fhir_gateway.lake.reading import Only, filled, footer, stored_rows
from fhir_gateway.lake.tables import COPY, ResourceTable, StoredFile

#: Rows that are in memory at once.
_PIECE = 1 << 14
_KEYS = pa.schema(
    [
        ("_source", pa.string()),
        ("id", pa.string()),
        ("_member", pa.string()),
        ("_seq", pa.int64()),
        ("_deleted", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Copied:
    """A bucket's copies, and whether they say of some resource that it is gone."""

    files: Sequence[StoredFile]
    tombstones: bool


def copied(
    table: ResourceTable, files: Sequence[StoredFile], seq: int, scratch: Path, buckets: int | None = None
) -> Copied:
    """Write the newest rows of the ``files`` of one bucket, as part of lake version ``seq``.

    With ``buckets`` into those of so many that it is parted into.
    """
    bucket = files[0].bucket
    keys = pa.concat_tables(side_by_side(lambda file: stored_rows(file.path, bucket, _KEYS), files, table.path))
    kept = _newest(keys)
    del keys
    kept = kept.append_column("_bucket", pa.repeat(pa.scalar(bucket, pa.int32()), kept.num_rows))
    if buckets is not None:
        kept = in_buckets(kept, buckets)
        kept = kept.take(pc.sort_indices(kept["_bucket"]))  # stable: in reading order within each
    full = table_schema(table.resource_type)
    schema = filled(full, [footer(file.path).schema for file in files])
    writer = BucketWriter(table, seq, scratch, COPY)
    for first in range(0, kept.num_rows, _PIECE):
        piece = kept.slice(first, _PIECE)
        rows = _rows(table, files, schema, piece)
        if "_bucket" in rows.column_names:
            rows = rows.drop_columns("_bucket")
        writer.add(rows.append_column("_bucket", piece["_bucket"]))
    return Copied(writer.close(), bool(pc.any(kept["_deleted"]).as_py()))


def in_buckets(rows: pa.Table, buckets: int) -> pa.Table:
    """Rows of members, or links to them, with ``_bucket`` that of so many."""
    members = rows["_member"].combine_chunks().dictionary_encode()
    places = np.array([bucket_of(one, buckets) for one in members.dictionary.to_pylist()], np.int32)
    at = pa.array(places[members.indices.to_numpy()], pa.int32())
    return rows.set_column(rows.column_names.index("_bucket"), "_bucket", at)


def _newest(keys: pa.Table) -> pa.Table:
    """The newest of each resource, in reading order."""
    by = [("_member", "ascending"), ("_source", "ascending"), ("id", "ascending")]
    order = pc.sort_indices(keys, by)  # nulls come last
    keys = keys.take(order)
    ids, sources = (keys[name].combine_chunks().dictionary_encode().indices.to_numpy() for name in ("id", "_source"))
    seqs = keys["_seq"].to_numpy()
    by_seq = np.lexsort((-seqs, sources, ids))
    again = np.zeros(len(seqs), np.bool_)
    again[by_seq[1:]] = (ids[by_seq][1:] == ids[by_seq][:-1]) & (sources[by_seq][1:] == sources[by_seq][:-1])
    return keys.filter(pa.array(~again))


def _rows(table: ResourceTable, files: Sequence[StoredFile], schema: pa.Schema, piece: pa.Table) -> pa.Table:
    """The whole rows that ``piece`` names, in its order."""
    nobody = piece["_member"].null_count
    column = "id" if nobody else "_member"  # null is no value to look for
    only = Only(column, pc.unique(piece[column].combine_chunks()))

    def read(file: StoredFile) -> pa.Table:
        return stored_rows(file.path, file.bucket, schema, only)

    rows = pa.concat_tables(side_by_side(read, files, table.path))
    return rows.take(pc.index_in(_named(piece), value_set=_named(rows)))


def _named(rows: pa.Table) -> pa.Array:
    """Each row by what no other row of its bucket has."""
    seq = rows["_seq"].cast(pa.string())
    named = pc.binary_join_element_wise(rows["_source"].cast(pa.string()), rows["id"], seq, "\n")
    return named.combine_chunks() if isinstance(named, pa.ChunkedArray) else named
