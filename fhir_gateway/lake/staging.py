"""First half of a commit: read every line of a pull once, check it, and lay the valid ones down by type.

What passed is held back in memory up to a limit for the whole pull and beyond that on disk, so memory does not grow
with the pull.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from fhir_gateway.errors import LedgerError, Location
from fhir_gateway.lake.lines import read_blocks
from fhir_gateway.lake.quarantine import QuarantineWriter
from fhir_gateway.lake.scan import CHECKED, Scanned, Scanner
from fhir_gateway.sources.models import LedgerEntry, StagedPull

#: Called after each block with a resource type and how many of its lines are done.
Progress = Callable[[str, int], None]

#: Bytes of rows that a pull may hold in memory.
_HELD_BYTES = 1 << 26
#: Batches of fewer rows than these are put together, this many at a time: each costs as much as a hundred rows.
_SMALL_ROWS = 64
_SMALL_BATCHES = 512
_HEAD = [name for name in CHECKED.names if name != "_raw"]


class StagedRows:
    """Checked resources of one type: batches of :data:`~fhir_gateway.lake.scan.CHECKED`, in the order of the pull."""

    def __init__(self, resource_type: str, folder: Path) -> None:
        self.resource_type = resource_type
        self._path = folder / f"{resource_type}.arrow"
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._held: list[pa.RecordBatch] = []
        self._seen = 0  # batches held that were looked at already
        self.raw_bytes = 0

    def add(self, batch: pa.RecordBatch) -> int:
        """Take rows that follow those before; returns the memory they take."""
        self._held.append(batch)
        if len(self._held) - self._seen >= _SMALL_BATCHES:
            self._put_together()
        self.raw_bytes += batch["_raw"].nbytes
        return int(batch.nbytes)

    def _put_together(self) -> None:
        """Make one of the last batches where they are small: an export may have thousands of files of one line."""
        last = self._held[self._seen :]
        if sum(batch.num_rows for batch in last) < _SMALL_ROWS * len(last):
            self._held[self._seen :] = pa.Table.from_batches(last).combine_chunks().to_batches()
        self._seen = len(self._held)

    def spill(self) -> None:
        """Move what is held in memory to the disk."""
        if not self._held:
            return
        if self._writer is None:
            self._writer = pa.ipc.new_file(str(self._path), CHECKED)
        for batch in self._held:
            self._writer.write_batch(batch)
        self._held, self._seen = [], 0

    def close(self) -> None:
        """No more rows will come."""
        if self._writer is not None:
            self._writer.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows."""
        yield from self._batches(None)

    def heads(self) -> pa.RecordBatchReader:
        """All rows without their text."""
        schema = pa.schema([CHECKED.field(name) for name in _HEAD])
        fields = [CHECKED.get_field_index(name) for name in _HEAD]
        return pa.RecordBatchReader.from_batches(schema, (b.select(_HEAD) for b in self._batches(fields)))

    def few_ids(self) -> pa.ChunkedArray | None:
        """The ids of all rows, when they are few enough to be held in memory beside the rest."""
        if self._writer is not None:
            return None
        return pa.chunked_array([batch["id"] for batch in self._held], pa.string())

    def _batches(self, fields: list[int] | None) -> Iterator[pa.RecordBatch]:
        if self._writer is not None:
            # not mapped into memory: mapped pages count as ours until somebody else needs the memory
            with pa.OSFile(str(self._path)) as file:
                spilled = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields))
                for number in range(spilled.num_record_batches):
                    yield spilled.get_batch(number)
        yield from self._held


@dataclass
class StagedLines:
    """What reading a pull gave: rows by type, the scanner that knows their columns, and counts by type."""

    folder: Path
    manifest: dict[str | None, int | None]
    scanner: Scanner = field(default_factory=Scanner)
    rows: dict[str, StagedRows] = field(default_factory=dict)
    read: dict[str | None, int] = field(default_factory=dict)
    quarantined: dict[str | None, int] = field(default_factory=dict)
    _held: int = 0

    def add(self, resource_type: str, batch: pa.RecordBatch) -> None:
        """Take checked rows of a type."""
        if resource_type not in self.rows:
            self.rows[resource_type] = StagedRows(resource_type, self.folder)
        self._held += self.rows[resource_type].add(batch)
        if self._held > _HELD_BYTES:
            for rows in self.rows.values():
                rows.spill()
            self._held = 0

    def take(self, scanned: Scanned, quarantine: QuarantineWriter, progress: Progress | None) -> None:
        """Take what a block of lines gave, refused lines included."""
        quarantine.add(scanned.refused)
        for line in scanned.refused:
            self.quarantined[line.resource_type] = self.quarantined.get(line.resource_type, 0) + 1
            self._count(line.resource_type, 1, progress)
        for name, batch in scanned.rows:
            self.add(name, batch)
            self._count(name, batch.num_rows, progress)

    def _count(self, resource_type: str | None, lines: int, progress: Progress | None) -> None:
        self.read[resource_type] = self.read.get(resource_type, 0) + lines
        if progress is not None:
            progress(resource_type or "unknown", self.read[resource_type])

    def close(self) -> None:
        """No more lines will come."""
        for rows in self.rows.values():
            rows.close()

    def entry(self, resource_type: str | None, stored: int, replaced: int, unchanged: int, deleted: int) -> LedgerEntry:
        """Ledger entry of a type, once it is known where its rows went."""
        return LedgerEntry(
            resource_type=resource_type,
            manifest_count=self.manifest.get(resource_type),
            lines_read=self.read.get(resource_type, 0),
            rows_stored=stored,
            rows_replaced=replaced,
            rows_unchanged=unchanged,
            rows_quarantined=self.quarantined.get(resource_type, 0),
            rows_deleted=deleted,
        )


def stage(pull: StagedPull, folder: Path, quarantine: QuarantineWriter, progress: Progress | None) -> StagedLines:
    """Read, check and lay down all lines of ``pull``; InputError or LedgerError when a file is not as promised."""
    staged = StagedLines(folder, _manifest_counts(pull))
    order = 0
    for file in pull.files:
        lines = 0
        for block in read_blocks(file):
            scanned = staged.scanner.scan(block, file.resource_type, file.name, order)
            staged.take(scanned, quarantine, progress)
            order += scanned.places
            lines += scanned.lines
        if file.expected_count not in (None, lines):
            message = f"the sender counted {file.expected_count} resources, the file has {lines}"
            raise LedgerError(message, location=Location(file.name, rule="manifest-count"))
        if lines == 0:
            staged.read.setdefault(file.resource_type, 0)
    staged.close()
    return staged


def _manifest_counts(pull: StagedPull) -> dict[str | None, int | None]:
    """Sum of the sender's counts by promised type; None when it left out the count of any such file."""
    unpromised = any(file.resource_type is None for file in pull.files)
    counts: dict[str | None, int | None] = {}
    for file in pull.files:
        if file.resource_type is None:
            continue
        before = counts.get(file.resource_type, 0)
        known = before is not None and file.expected_count is not None and not unpromised
        counts[file.resource_type] = (before or 0) + (file.expected_count or 0) if known else None
    return counts
