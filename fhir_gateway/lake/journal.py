"""What was written into a table, file by file and row group by row group: memory does not grow with the files.

Files never change, so a row has a place for ever: the lake version that wrote it, the number of the file among those of
that version, and its number in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.lake.reading import Only, footer, groups_with, laid_out, leaves
from fhir_gateway.lake.tables import StoredFile


@dataclass(frozen=True, slots=True)
class Sheet:
    """One file of a table: what a lake version wrote into one bucket, or that rows left it."""

    resource_type: str
    number: int
    file: StoredFile

    @property
    def seq(self) -> int:
        """The lake version that wrote it."""
        return self.file.seq


def sheets(resource_type: str, files: Iterable[StoredFile]) -> list[Sheet]:
    """The files of a table, numbered within their lake version; the newest first."""
    ordered = sorted(files, key=lambda file: (-file.seq, file.bucket, file.path.name))
    found: list[Sheet] = []
    for file in ordered:
        number = found[-1].number + 1 if found and found[-1].seq == file.seq else 0
        found.append(Sheet(resource_type, number, file))
    return found


def row_groups(file: StoredFile, schema: pa.Schema, first: int = 0) -> Iterator[tuple[int, pa.Table]]:
    """Row groups with exactly the columns of ``schema``, from the one with row ``first`` on, and where each begins."""
    for group, begins, size in _bounds(file):
        if begins + size > first:
            yield begins, _read(file, group, size, schema)


def rows_with(
    file: StoredFile, schema: pa.Schema, ids: pa.Array, members: pa.Array | None = None
) -> Iterator[pa.Table]:
    """The rows of resources with these ids, row group by row group; of a group without any only the ids are read.

    With ``members`` (no nulls) only groups that may have rows of theirs are looked at.
    """
    about = footer(file.path)
    groups = None if members is None else set(groups_with(about, Only("_member", members)))
    keys = pa.schema([schema.field("id")])
    for group, _, size in _bounds(file):
        if groups is not None and group not in groups:
            continue
        found = pc.indices_nonzero(pc.is_in(_read(file, group, size, keys)["id"], value_set=ids))
        if len(found):
            yield _read(file, group, size, schema).take(found)


def rows_like(
    files: Iterable[StoredFile], schema: pa.Schema, rows: pa.Table, buckets: Callable[[int], int]
) -> Iterator[pa.Table]:
    """Live rows of files: those of ``rows`` by ``_source``, ``id``, ``_bucket``, ``_seq``, with its other columns.

    Only files that hold some are opened. ``buckets`` is how many there were in a lake version: a row may be in another
    bucket by now than where it was written, but buckets are only ever parted into several.
    """
    seqs, bucket = rows["_seq"].to_numpy(), rows["_bucket"].to_numpy()
    versions, at = np.unique(seqs, return_inverse=True)
    counts = np.array([buckets(int(version)) for version in versions], np.int64)
    stride = 2 * int(counts.max(initial=1))
    places = seqs * stride + np.where(bucket < 0, bucket, bucket % counts[at])  # no bucket is -1
    order = np.argsort(places, kind="stable")
    for file in files:
        place = file.seq * stride + file.bucket
        first, end = np.searchsorted(places, [place, place + 1], sorter=order)
        if first == end:
            continue
        wanted = rows.take(pa.array(order[first:end]))
        for found in rows_with(file, schema, pc.unique(wanted["id"])):
            live = found.filter(pc.invert(found["_deleted"])).drop_columns(["_deleted", "_bucket"])
            yield live.join(wanted, ["_source", "id", "_seq"], join_type="inner")


def _bounds(file: StoredFile) -> Iterator[tuple[int, int, int]]:
    """Number, first row and size of each row group."""
    metadata, begins = footer(file.path).metadata, 0
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).num_rows
        yield group, begins, size
        begins += size


def _read(file: StoredFile, group: int, size: int, schema: pa.Schema) -> pa.Table:
    about = footer(file.path)
    wanted = [about.metadata.schema.column(leaf).path for leaf in leaves(about.schema, schema)]
    with about.open(file.path) as opened:
        return laid_out(opened.read_row_group(group, columns=wanted, use_threads=False), size, file.bucket, schema)
