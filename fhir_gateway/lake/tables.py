"""One Delta table per resource type: declared with its full schema, written as Parquet files of our own making.

The files hold only the columns and nested fields that are filled; Delta readers give null for the rest. All files of a
commit become visible in one Delta transaction. A partition is a bucket of members; bucket -1 holds what belongs to no
member.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from fhir_gateway.lake.coded import Coded, coded_rows
from fhir_gateway.lake.columns import OWN_COLUMNS
from fhir_gateway.lake.few import FEW, rows_of_few
from fhir_gateway.lake.founding import found_table
from fhir_gateway.lake.places import ObjectPath, Place, failing_clearly, side_by_side, storage_options
from fhir_gateway.lake.reading import Only, filled, footer, stored_rows

NO_BUCKET = -1
#: How files are named that have rows of other files once more.
COPY = "copy"
#: A file with fewer rows is read whole faster than its codes are looked at first.
FEW_ROWS = 8192
#: Rows that are read at a time where all are.
_SCANNED_ROWS = 1 << 14
FEW_IDS = 1 << 16
"""Ids that are worth looking for row group by row group."""
#: The column that a table is parted by.
BUCKET = pa.field("_bucket", pa.int32())
_CONFIGURATION = {
    "delta.dataSkippingNumIndexedCols": "0",  # readers choose files by bucket; statistics of 600 leaves serve nobody
    "delta.enableExpiredLogCleanup": "false",  # a report names the lake version it came from: versions are kept
}


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A Parquet file of a table."""

    path: Place
    bucket: int
    rows: int = 0  # as far as the table says
    size: int = field(default=0, compare=False)
    written: int = field(default=0, compare=False)  # milliseconds since 1970

    @property
    def copy(self) -> bool:
        """Whether it has rows of other files once more (:mod:`fhir_gateway.lake.compacting`)."""
        return self.path.name.startswith(f"{COPY}-")

    @property
    def seq(self) -> int:
        """The lake version that wrote it."""
        return int(self.path.name.split("-")[1])


class ResourceTable(ABC):
    """The Delta table of one resource type. Made by :func:`fhir_gateway.lake.object_tables.open_table`."""

    def __init__(self, root: Place, resource_type: str) -> None:
        self.resource_type = resource_type
        self.path = root / resource_type
        self._files: dict[int, tuple[StoredFile, ...]] = {}
        self._delta: DeltaTable | None = None

    def _opened(self, version: int | None = None) -> DeltaTable:
        """The Delta table at a version, or as it is now."""
        return DeltaTable(str(self.path), version=version, storage_options=storage_options(self.path))

    def files(self, version: int) -> tuple[StoredFile, ...]:
        """Files of a Delta version, sorted by bucket and name."""
        if version not in self._files:
            with failing_clearly(self.path):
                table = self._opened(version)
            self._files[version] = self._listed(table)
            if self._delta is None:
                self._delta = table
        return self._files[version]

    def _listed(self, table: DeltaTable) -> tuple[StoredFile, ...]:
        actions = pa.table(table.get_add_actions(flatten=True))
        columns = (actions[name].to_pylist() for name in ("path", "partition._bucket", "num_records", "size_bytes"))
        listed = (
            StoredFile(self.path / path, int(b), rows or 0, size) for path, b, rows, size in zip(*columns, strict=True)
        )
        return in_order(listed)

    def scan(
        self, version: int, columns: Sequence[str], ids: pa.Array | pa.ChunkedArray | None = None
    ) -> pa.RecordBatchReader:
        """Stream our own columns (and ``_bucket``) of all rows ever written up to a Delta version.

        With few ``ids`` only the rows of resources that have one of them; with many of them others too.
        """
        own = pa.schema([*OWN_COLUMNS, BUCKET])
        schema = pa.schema([own.field(name) for name in columns])
        few = ids is not None and len(ids) <= FEW_IDS
        rows = self._rows_of(version, schema, ids) if few else self._all_rows(version, schema)
        return pa.RecordBatchReader.from_batches(schema, rows)

    def _all_rows(self, version: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Rows of one file after the other; Arrow's own datasets read several at once, and keep what each says."""
        if isinstance(self.path, ObjectPath):

            def all_rows(file: StoredFile) -> pa.Table:
                return stored_rows(file.path, file.bucket, schema)

            for table in side_by_side(all_rows, self.files(version), self.path):
                yield from table.to_batches()
            return
        stored = [name for name in schema.names if name != BUCKET.name]
        for listed in self.files(version):
            with pq.ParquetFile(listed.path) as file:
                for rows in file.iter_batches(_SCANNED_ROWS, columns=stored, use_threads=False):
                    arrays = [
                        pa.repeat(pa.scalar(listed.bucket, pa.int32()), rows.num_rows)
                        if name == BUCKET.name
                        else rows[name].cast(schema.field(name).type)
                        for name in schema.names
                    ]
                    yield pa.record_batch(arrays, schema=schema)

    def _rows_of(self, version: int, schema: pa.Schema, ids: pa.Array | pa.ChunkedArray) -> Iterator[pa.RecordBatch]:
        """Rows of some resources; of a row group that has none only the ids are read."""
        values = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        stored = [name for name in schema.names if name not in (BUCKET.name, "id")]

        def rows_of(listed: StoredFile) -> list[pa.RecordBatch]:
            with footer(listed.path).open(listed.path, ["_source", "_member"]) as file:
                known = file.read(["id"], use_threads=False)["id"]
                places = pc.indices_nonzero(pc.is_in(known, value_set=values)).to_numpy().astype(np.int64)
                if not len(places):
                    return []
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                starts = np.cumsum([0, *sizes])
                groups = np.unique(np.searchsorted(starts, places, "right") - 1)
                # of a row group that has none of them nothing else is read
                rows = file.read_row_groups(groups.tolist(), stored, use_threads=False)
                before = np.cumsum([0, *(sizes[group] for group in groups)])[:-1]
                at = np.searchsorted(groups, np.searchsorted(starts, places, "right") - 1)
                rows = rows.take(pa.array(places - starts[groups][at] + before[at]))
                if "id" in schema.names:
                    rows = rows.append_column("id", known.take(pa.array(places)))
                if BUCKET.name in schema.names:
                    bucket = pa.repeat(pa.scalar(listed.bucket, pa.int32()), len(places))
                    rows = rows.append_column(BUCKET, bucket)
                batches: list[pa.RecordBatch] = rows.select(schema.names).cast(schema).to_batches()
                return batches

        for batches in side_by_side(rows_of, self.files(version), self.path):
            yield from batches

    def read(
        self,
        version: int,
        schema: pa.Schema,
        buckets: Callable[[int], bool],
        only: Only | None = None,
        *,
        coded: Coded | None = None,
        sparse: bool = False,
        files: Sequence[StoredFile] | None = None,
    ) -> list[pa.Table]:
        """Rows of the chosen buckets with exactly the columns of ``schema``, one table for each file that has any.

        With ``coded`` only rows that have one of these codes, but all of small files. ``files`` are read in the place
        of those of the version.

        ``sparse`` leaves out the columns and parts that none of these files has. A file's rows come in reading order:
        by ``_member`` (nulls last), ``_source``, ``id``.
        """
        chosen = [file for file in (self.files(version) if files is None else files) if buckets(file.bucket)]
        if only is not None and coded is None and len(only.values) <= FEW:
            self._fetch_footers(chosen)
            return rows_of_few([(file.path, file.bucket) for file in chosen], schema, only, sparse=sparse)
        if sparse:
            self._fetch_footers(chosen)
            schema = filled(schema, [footer(file.path).schema for file in chosen])

        def rows_of(file: StoredFile) -> pa.Table:
            if coded is None or footer(file.path).metadata.num_rows < FEW_ROWS:
                return stored_rows(file.path, file.bucket, schema, only)
            return coded_rows(file.path, file.bucket, schema, only, coded)

        return [part for part in side_by_side(rows_of, chosen, self.path) if part.num_rows]

    def _fetch_footers(self, files: Sequence[StoredFile]) -> None:
        """Have what files say of themselves at hand, where each would be a journey."""
        if isinstance(self.path, ObjectPath):
            deque(side_by_side(lambda file: footer(file.path), files, self.path), maxlen=0)

    def append(self, files: Iterable[StoredFile]) -> int:
        """Make written files part of the table, creating it when absent; returns the new Delta version."""
        return self.change(files)

    @abstractmethod
    def change(self, added: Iterable[StoredFile], removed: Sequence[StoredFile] = ()) -> int:
        """Make written files part of the table, in the place of others; returns the new Delta version."""

    @abstractmethod
    def roll_back(self, version: int | None) -> bool:
        """Undo what came after ``version`` (None: the table must not exist); says whether there was anything."""

    def _found(self, files: Sequence[StoredFile]) -> None:
        """Write the first entry of the log, with these files."""
        adds = [self._added(file) for file in files]
        found_table(self.path, self.resource_type, [BUCKET.name], _CONFIGURATION, adds)
        self._files[0] = in_order(files)

    def _added(self, file: StoredFile) -> dict[str, Any]:
        """A file as Delta's ``add`` has it."""
        return {
            "path": self.path_of(file),
            "partitionValues": {BUCKET.name: str(file.bucket)},
            "size": file.size,
            "modificationTime": file.written,
            "stats": json.dumps({"numRecords": file.rows}),
        }

    def path_of(self, file: StoredFile) -> str:
        """A file's path in the table."""
        return str(file.path).removeprefix(f"{self.path}/").replace(os.sep, "/")

    def _actions(
        self, files: Iterable[StoredFile], removed: Iterable[StoredFile] = ()
    ) -> list[AddAction | RemoveAction]:
        """What the library writes into the log of files that come and go."""
        adds = (self._added(file) for file in files)
        return [
            *(
                AddAction(a["path"], a["size"], a["partitionValues"], a["modificationTime"], True, a["stats"])
                for a in adds
            ),
            *(
                RemoveAction(
                    self.path_of(file), True, int(time.time() * 1000), file.size, {BUCKET.name: str(file.bucket)}
                )
                for file in removed
            ),
        ]


def in_order(files: Iterable[StoredFile]) -> tuple[StoredFile, ...]:
    """Sorted by bucket and name."""
    return tuple(sorted(files, key=lambda file: (file.bucket, file.path)))
