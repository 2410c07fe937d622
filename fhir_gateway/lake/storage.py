"""What the tables of a lake rest on: files, rows and bytes, as their logs say; no data is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fhir_gateway.lake.tables import StoredFile
from fhir_gateway.lake.versions import TableState


@dataclass(frozen=True, slots=True)
class StoredTable:
    """What a table rests on. ``superseded``: some of its rows are in the place of others that are still stored.

    ``most_files`` are those of the bucket that has the most: each is opened to read it. ``compacted`` is the lake
    version that put files together last.
    """

    resource_type: str
    delta_version: int
    superseded: bool
    files: int
    rows: int
    bytes: int
    buckets: int
    most_files: int
    compacted: int | None = None


def stored_table(resource_type: str, state: TableState, files: Sequence[StoredFile]) -> StoredTable:
    """A table by the files of its version."""
    by_bucket = Counter(file.bucket for file in files)
    rows, size = sum(file.rows for file in files), sum(file.size for file in files)
    most = max(by_bucket.values(), default=0)
    compacted = None if state.written is None else state.written + 1
    return StoredTable(
        resource_type, state.delta_version, state.superseded, len(files), rows, size, len(by_bucket), most, compacted
    )
