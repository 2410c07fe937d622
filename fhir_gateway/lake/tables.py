"""One Delta table per resource type: declared with its full schema, written as Parquet files of our own making.

The files hold only the columns and nested fields that are filled; Delta readers give null for the rest. All files of a
commit become visible in one Delta transaction. A partition is a bucket of members; bucket -1 holds what belongs to no
member.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from fhir_gateway.lake.coded import Coded, coded_rows
from fhir_gateway.lake.columns import OWN_COLUMNS, table_schema
from fhir_gateway.lake.few import FEW, rows_of_few
from fhir_gateway.lake.founding import found_table
from fhir_gateway.lake.reading import Only, filled, footer, stored_rows

NO_BUCKET = -1
#: A file with fewer rows is read whole faster than its codes are looked at first.
FEW_ROWS = 8192
FEW_IDS = 1 << 16
"""Ids that are worth looking for row group by row group."""
#: Columns whose values are never the same: a dictionary of them would be the column again.
_UNIQUE = ("_raw", "id", "_hash")
_BUCKET_FIELD = pa.field("_bucket", pa.int32())
_CONFIGURATION = {
    "delta.dataSkippingNumIndexedCols": "0",  # readers choose files by bucket; statistics of 600 leaves serve nobody
    "delta.enableExpiredLogCleanup": "false",  # a report names the lake version it came from: versions are kept
}


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A Parquet file of a table."""

    path: Path
    bucket: int
    rows: int = 0  # as far as the table says

    @property
    def seq(self) -> int:
        """The lake version that wrote it."""
        return int(self.path.name.split("-")[1])


class ResourceTable:
    """The Delta table of one resource type."""

    def __init__(self, root: Path, resource_type: str) -> None:
        self.resource_type = resource_type
        self.path = root / resource_type
        self._files: dict[int, tuple[StoredFile, ...]] = {}
        self._delta: DeltaTable | None = None

    def files(self, version: int) -> tuple[StoredFile, ...]:
        """Files of a Delta version, sorted by bucket and name."""
        if version not in self._files:
            table = DeltaTable(str(self.path), version=version)
            self._files[version] = self._listed(table)
            if self._delta is None:
                self._delta = table
        return self._files[version]

    def _listed(self, table: DeltaTable) -> tuple[StoredFile, ...]:
        actions = pa.table(table.get_add_actions(flatten=True))
        columns = (actions[name].to_pylist() for name in ("path", "partition._bucket", "num_records"))
        listed = (StoredFile(self.path / path, int(b), rows or 0) for path, b, rows in zip(*columns, strict=True))
        return _in_order(listed)

    def scan(
        self, version: int, columns: Sequence[str], ids: pa.Array | pa.ChunkedArray | None = None
    ) -> pa.RecordBatchReader:
        """Stream our own columns (and ``_bucket``) of all rows ever written up to a Delta version.

        With few ``ids`` only the rows of resources that have one of them; with many of them others too.
        """
        if ids is not None and len(ids) <= FEW_IDS:
            own = pa.schema([*OWN_COLUMNS, _BUCKET_FIELD])
            schema = pa.schema([own.field(name) for name in columns])
            return pa.RecordBatchReader.from_batches(schema, self._rows_of(version, schema, ids))
        fragments = ds.dataset(
            [str(file.path) for file in self.files(version)],
            schema=pa.schema([*OWN_COLUMNS, _BUCKET_FIELD]),
            format="parquet",
            partition_base_dir=str(self.path),
            partitioning=ds.partitioning(pa.schema([_BUCKET_FIELD]), flavor="hive"),
        )
        return fragments.scanner(columns=list(columns)).to_reader()

    def _rows_of(self, version: int, schema: pa.Schema, ids: pa.Array | pa.ChunkedArray) -> Iterator[pa.RecordBatch]:
        """Rows of some resources; of a row group that has none only the ids are read."""
        values = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        stored = [name for name in schema.names if name not in (_BUCKET_FIELD.name, "id")]
        for listed in self.files(version):
            with footer(listed.path).open(listed.path, ["_source", "_member"]) as file:
                known = file.read(["id"], use_threads=False)["id"]
                places = pc.indices_nonzero(pc.is_in(known, value_set=values)).to_numpy().astype(np.int64)
                if not len(places):
                    continue
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
                if _BUCKET_FIELD.name in schema.names:
                    bucket = pa.repeat(pa.scalar(listed.bucket, pa.int32()), len(places))
                    rows = rows.append_column(_BUCKET_FIELD, bucket)
                yield from rows.select(schema.names).cast(schema).to_batches()

    def read(
        self,
        version: int,
        schema: pa.Schema,
        buckets: Callable[[int], bool],
        only: Only | None = None,
        *,
        coded: Coded | None = None,
        sparse: bool = False,
    ) -> list[pa.Table]:
        """Rows of the chosen buckets with exactly the columns of ``schema``, one table for each file that has any.

        With ``coded`` only rows that have one of these codes, but all of small files.

        ``sparse`` leaves out the columns and parts that none of these files has. A file's rows come in reading order:
        by ``_member`` (nulls last), ``_source``, ``id``.
        """
        chosen = [file for file in self.files(version) if buckets(file.bucket)]
        if only is not None and coded is None and len(only.values) <= FEW:
            return rows_of_few([(file.path, file.bucket) for file in chosen], schema, only, sparse=sparse)
        if sparse:
            schema = filled(schema, [footer(file.path).schema for file in chosen])
        parts = (
            stored_rows(file.path, file.bucket, schema, only)
            if coded is None or footer(file.path).metadata.num_rows < FEW_ROWS
            else coded_rows(file.path, file.bucket, schema, only, coded)
            for file in chosen
        )
        return [part for part in parts if part.num_rows]

    def append(self, files: Iterable[StoredFile]) -> int:
        """Make written files part of the table, creating it when absent; returns the new Delta version."""
        written = list(files)
        adds = [self._added(file) for file in written]
        for file in written:
            _sync(file.path)
        if self._logged() < 0:
            found_table(self.path, self.resource_type, [_BUCKET_FIELD.name], _CONFIGURATION, adds)
            self._files[0] = _in_order(written)
            return 0
        table = self._newest()
        if table is None:
            raise TableNotFoundError(self.resource_type)
        schema = table_schema(self.resource_type)
        actions: list[AddAction | RemoveAction] = [
            AddAction(a["path"], a["size"], a["partitionValues"], a["modificationTime"], True, a["stats"]) for a in adds
        ]
        table.create_write_transaction(actions, "append", schema, ["_bucket"])
        table.update_incremental()
        version = int(table.version())
        self._delta = table
        self._files[version] = self._listed(table)
        _sync(self.path / "_delta_log" / f"{version:020d}.json")
        return version

    def _added(self, file: StoredFile) -> dict[str, Any]:
        """A file as Delta's ``add`` has it."""
        status = file.path.stat()
        return {
            "path": file.path.relative_to(self.path).as_posix(),
            "partitionValues": {_BUCKET_FIELD.name: str(file.bucket)},
            "size": status.st_size,
            "modificationTime": int(status.st_mtime * 1000),
            "stats": json.dumps({"numRecords": file.rows}),
        }

    def _newest(self) -> DeltaTable | None:
        """The table as it is now; None when there is none. Reading its log anew would cost more than a small commit."""
        if self._delta is not None:
            self._delta.update_incremental()
            return self._delta
        try:
            self._delta = DeltaTable(str(self.path))
        except TableNotFoundError:
            return None
        return self._delta

    def roll_back(self, version: int | None) -> bool:
        """Undo what came after ``version`` (None: the table must not exist); says whether there was anything."""
        if version is not None and self._logged() == version:
            return False
        table = self._newest()
        if table is None:
            if version is not None:
                raise TableNotFoundError(self.resource_type)
            shutil.rmtree(self.path, ignore_errors=True)  # files of a commit that never got as far as its table
            return False
        if version is None:
            shutil.rmtree(self.path)
            return True
        if self._listed(table) == self.files(version):
            return False
        table.restore(version)
        return True

    def _logged(self) -> int:
        """Newest version that the table's log has; -1 for none."""
        found = (path.stem for path in (self.path / "_delta_log").glob("*.json"))
        return max((int(name) for name in found if name.isdecimal()), default=-1)


def _in_order(files: Iterable[StoredFile]) -> tuple[StoredFile, ...]:
    return tuple(sorted(files, key=lambda file: (file.bucket, file.path)))


def _sync(path: Path) -> None:
    """Have a file on the disk before a manifest names it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _leaf_paths(schema: pa.Schema) -> Iterator[str]:
    """The names of a file's Parquet columns."""
    for field in schema:
        yield from _paths_below(field.type, field.name)


def _paths_below(stored: pa.DataType, path: str) -> Iterator[str]:
    if pa.types.is_list(stored):
        yield from _paths_below(stored.value_type, f"{path}.list.element")
    elif pa.types.is_struct(stored):
        for field in stored:
            yield from _paths_below(field.type, f"{path}.{field.name}")
    else:
        yield path


class BucketWriter:
    """Writes rows that come sorted by bucket and in reading order into one Parquet file per bucket of a table.

    Each batch becomes a row group at once: gathering larger ones takes twice as long, for no smaller files.
    """

    def __init__(self, table: ResourceTable, seq: int) -> None:
        self._table = table
        self._seq = seq
        self._bucket: int | None = None
        self._rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._codecs: dict[str, str] = {}
        self.files: list[StoredFile] = []

    def add(self, rows: pa.Table) -> None:
        """Take rows with an int32 column ``_bucket``, whose buckets never fall back."""
        if rows.num_rows == 0:
            return
        buckets = rows["_bucket"].combine_chunks().to_numpy()
        starts = [0, *((buckets[1:] != buckets[:-1]).nonzero()[0] + 1).tolist(), len(buckets)]
        rows = rows.drop_columns(["_bucket"])
        for start, end in pairwise(starts):
            self._writer_of(int(buckets[start]), rows.schema).write_table(rows.slice(start, end - start))
            self._rows += end - start

    def _writer_of(self, bucket: int, schema: pa.Schema) -> pq.ParquetWriter:
        if self._writer is not None and bucket == self._bucket:
            return self._writer
        self.close()
        folder = self._table.path / f"_bucket={bucket}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"part-{self._seq:08d}-{uuid.uuid4().hex[:12]}.parquet"
        self._bucket = bucket
        # a text is long; to begin a block of zstd takes longer than to compress a column of few values
        self._codecs = self._codecs or dict.fromkeys(_leaf_paths(schema), "lz4") | {"_raw": "zstd"}
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression=self._codecs,
            compression_level={"_raw": 1},
            use_dictionary=[name for name in schema.names if name not in _UNIQUE],
            write_statistics=["_member"],  # whoever reads one member skips the row groups of others
            write_batch_size=1 << 10,  # how long a page is, is only asked after so many: of texts of 5 kB each 5 MB
        )
        self.files.append(StoredFile(path, bucket))
        return self._writer

    def close(self) -> list[StoredFile]:
        """Finish and return the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self.files[-1] = replace(self.files[-1], rows=self._rows)
            self._rows = 0
        return self.files
