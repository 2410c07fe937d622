"""Writing a table's files: one per bucket of a commit, here or on its way to an object storage."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fhir_gateway.lake.places import ObjectPath, keep
from fhir_gateway.lake.tables import ResourceTable, StoredFile

#: How the files of commits are named.
PART = "part"
#: Files of a table that are brought to an object storage at once.
_UPLOADS = 4
#: Columns whose values are never the same: a dictionary of them would be the column again.
_UNIQUE = ("_raw", "id", "_hash")


def _leaf_paths(schema: pa.Schema) -> Iterator[str]:
    """The names of a file's Parquet columns."""
    for one in schema:
        yield from _paths_below(one.type, one.name)


def _paths_below(stored: pa.DataType, path: str) -> Iterator[str]:
    if pa.types.is_list(stored):
        yield from _paths_below(stored.value_type, f"{path}.list.element")
    elif pa.types.is_struct(stored):
        for one in stored:
            yield from _paths_below(one.type, f"{path}.{one.name}")
    else:
        yield path


class BucketWriter:
    """Writes rows that come sorted by bucket and in reading order into one Parquet file per bucket of a table.

    Each batch becomes a row group at once: gathering larger ones takes twice as long, for no smaller files.
    """

    def __init__(self, table: ResourceTable, seq: int, scratch: Path, kind: str = PART) -> None:
        """``scratch`` is a folder, made when it is needed, for files that are on their way to an object storage."""
        self._table = table
        self._seq = seq
        self._scratch = scratch
        self._kind = kind
        self._bucket: int | None = None
        self._rows = 0
        self._path: Path | None = None
        self._writer: pq.ParquetWriter | None = None
        self._codecs: dict[str, str] = {}
        self._files: list[StoredFile] = []
        self._uploads: list[Future[None]] = []
        self._pool: ThreadPoolExecutor | None = None

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
        self._end()
        name = f"{self._kind}-{self._seq:08d}-{uuid.uuid4().hex[:12]}.parquet"
        place = self._table.path / f"_bucket={bucket}" / name
        self._path = place if isinstance(place, Path) else self._scratch / name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._bucket = bucket
        # a text is long; to begin a block of zstd takes longer than to compress a column of few values
        self._codecs = self._codecs or dict.fromkeys(_leaf_paths(schema), "lz4") | {"_raw": "zstd"}
        self._writer = pq.ParquetWriter(
            self._path,
            schema,
            compression=self._codecs,
            compression_level={"_raw": 1},
            use_dictionary=[name for name in schema.names if name not in _UNIQUE],
            write_statistics=["_member"],  # whoever reads one member skips the row groups of others
            write_batch_size=1 << 10,  # how long a page is, is only asked after so many: of texts of 5 kB each 5 MB
        )
        self._files.append(StoredFile(place, bucket))
        return self._writer

    def _end(self) -> None:
        """Finish the file under way, and have it brought to the object storage while the next is written."""
        if self._writer is None or self._path is None:
            return
        self._writer.close()
        self._writer = None
        status = self._path.stat()
        file = replace(self._files[-1], rows=self._rows, size=status.st_size, written=int(status.st_mtime * 1000))
        self._files[-1] = file
        self._rows = 0
        if isinstance(file.path, ObjectPath):
            self._pool = self._pool or ThreadPoolExecutor(_UPLOADS)
            self._uploads.append(self._pool.submit(keep, self._path, file.path))

    def close(self) -> list[StoredFile]:
        """Finish and return the files, once they all are where they stay."""
        self._end()
        if self._pool is not None:
            with self._pool:
                for upload in self._uploads:
                    upload.result()
        return self._files
