"""First half of a commit: read every line of a pull once, check it, and lay the valid ones down by type.

Text is laid down on the disk as it comes; what is known of each line is held back in memory up to a limit for the whole
pull and beyond that on disk too, so memory does not grow with the pull.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pyarrow as pa

from fhir_gateway.errors import LedgerError, Location
from fhir_gateway.lake.kernel import heads
from fhir_gateway.lake.lines import LineBlock, read_blocks
from fhir_gateway.lake.quarantine import QuarantineWriter
from fhir_gateway.lake.scan import CHECKED, Scanned, Scanner
from fhir_gateway.lake.texts import Texts
from fhir_gateway.sources.models import LedgerEntry, StagedPull

#: Called after each block with a resource type and how many of its lines are done.
Progress = Callable[[str, int], None]

#: Bytes of rows that a pull may hold in memory.
_HELD_BYTES = 1 << 24
#: Batches of fewer rows than these are put together, this many at a time: each costs as much as a hundred rows.
_SMALL_ROWS = 64
_SMALL_BATCHES = 512
#: Rows that are worth a call that prepares a thousand times as much as it does for one.
_GATHERED_ROWS = 1 << 14
_IDS = pa.schema([("id", pa.string())])
#: Ids that are compared at a time, by eight bytes each, and files of them that are open at a time.
_COMPARED = 1 << 18
_MOST_FILES = 256


class StagedRows:
    """Checked resources of one type: batches of :data:`~fhir_gateway.lake.scan.CHECKED`, in the order of the pull.

    Or, with another ``schema``, such rows with more columns.
    """

    def __init__(self, resource_type: str, folder: Path, schema: pa.Schema = CHECKED) -> None:
        self.resource_type = resource_type
        self.schema = schema
        self._path = folder / f"{resource_type}.arrow"
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._held: list[pa.RecordBatch] = []
        self._seen = 0  # batches held that were looked at already
        self.held = 0  # bytes
        self.count = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows that follow those before."""
        self._held.append(batch)
        self.held += batch.nbytes
        if len(self._held) - self._seen >= _SMALL_BATCHES:
            self._put_together()
        self.count += batch.num_rows

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
            self._writer = pa.ipc.new_file(str(self._path), self.schema)
        for batch in self._held:
            self._writer.write_batch(batch)
        self._held, self._seen, self.held = [], 0, 0

    def close(self) -> None:
        """No more rows will come: what is on the disk is there wholly."""
        if self._writer is not None:
            self.spill()
            self._writer.close()

    def ids(self) -> pa.RecordBatchReader:
        """The ids of all rows."""
        return pa.RecordBatchReader.from_batches(_IDS, (batch.select(["id"]) for batch in self.batches()))

    def few_ids(self) -> pa.ChunkedArray | None:
        """The ids of all rows, when they are few enough to be held in memory beside the rest."""
        if self._writer is not None:
            return None
        return pa.chunked_array([batch["id"] for batch in self._held], pa.string())

    def all_different(self) -> bool:
        """Whether no id occurs twice: by hashes of them, through the disk where they are many."""
        hashed = (id_words(rows["id"].combine_chunks())[2] for rows in gathered(self.batches()))
        parts = min(-(-self.count // _COMPARED), _MOST_FILES)
        if parts <= 1:
            return not _repeated(np.concatenate([*hashed, np.empty(0, np.uint64)]))
        with ExitStack() as stack:
            files = [stack.enter_context(TemporaryFile(dir=self._path.parent)) for _ in range(parts)]
            for some in hashed:
                part = some % np.uint64(parts)
                some = some[np.argsort(part)]
                bounds = np.cumsum(np.bincount(part.astype(np.int64), minlength=parts)).tolist()
                for file, (start, end) in zip(files, pairwise([0, *bounds]), strict=True):
                    file.write(some[start:end].data)
            for file in files:
                file.seek(0)
                if _repeated(np.frombuffer(file.read(), np.uint64)):
                    return False
        return True

    def forget(self) -> None:
        """The rows are not needed any more."""
        self._held = []
        if self._writer is not None:
            self._writer = None
            self._path.unlink()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows."""
        if self._writer is not None:
            # not mapped into memory: mapped pages count as ours until somebody else needs the memory
            with pa.OSFile(str(self._path)) as file:
                spilled = pa.ipc.open_file(file)
                for number in range(spilled.num_record_batches):
                    yield spilled.get_batch(number)
        yield from self._held


def gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches put together until they are worth a call."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        if count >= _GATHERED_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting, count = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def patients(types: Iterable[StagedRows]) -> pa.Array:
    """The patient ids in the rows of types, each once."""
    found: list[pa.Array] = []
    size, most = 0, _GATHERED_ROWS
    for rows in (rows for one in types for rows in gathered(one.batches())):
        found.append(rows["_patient"].unique())
        size += len(found[-1])
        if size > most:  # twice what there was: each is looked at a few times only
            found = [pa.chunked_array(found).unique()]
            size = len(found[0])
            most = max(most, 2 * size)
    return pa.chunked_array(found, pa.string()).unique().drop_null()


def _repeated(hashed: np.ndarray) -> bool:
    found = np.sort(hashed)
    return bool((found[1:] == found[:-1]).any())


def id_words(ids: pa.StringArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first and second eight bytes of each as numbers that sort as the ids do, and a hash of the whole."""
    first, second, hashed = (np.empty(len(ids), np.uint64) for _ in range(3))
    if len(ids):
        _, offsets, text = ids.buffers()
        places = np.frombuffer(offsets, np.int32, len(ids) + 1, ids.offset * 4)
        heads.words(_read_only(np.frombuffer(text or b"", np.uint8)), _read_only(places), first, second, hashed)
    return first, second, hashed


def _read_only(array: np.ndarray) -> np.ndarray:
    """Arrow's buffers are and are not writable, and each kind would be compiled for."""
    array.flags.writeable = False
    return array


@dataclass
class StagedLines:
    """What reading a pull gave: rows by type, the scanner that knows their columns, and counts by type."""

    folder: Path
    manifest: dict[str | None, int | None]
    texts: Texts
    scanner: Scanner = field(default_factory=Scanner)
    rows: dict[str, StagedRows] = field(default_factory=dict)
    read: dict[str | None, int] = field(default_factory=dict)
    quarantined: dict[str | None, int] = field(default_factory=dict)
    _held: int = 0

    def add(self, resource_type: str, batch: pa.RecordBatch) -> None:
        """Take checked rows of a type."""
        if resource_type not in self.rows:
            self.rows[resource_type] = StagedRows(resource_type, self.folder)
        before = self.rows[resource_type].held
        self.rows[resource_type].add(batch)
        self._held += self.rows[resource_type].held - before
        if self._held > _HELD_BYTES:
            self._spill()

    def _spill(self) -> None:
        """Move the types with the most rows to the disk, half of all; few rows of a type are worth more in memory."""
        for rows in sorted(self.rows.values(), key=lambda rows: rows.held, reverse=True):
            self._held -= rows.held
            rows.spill()
            if 2 * self._held <= _HELD_BYTES:
                break

    def scan(self, block: LineBlock, promised: str | None, file: str, order: int) -> Scanned:
        """Lay a block's text down and check its lines; what they gave is still to be taken."""
        return self.scanner.scan(block, promised, file, order, self.texts)

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


def stage(
    pull: StagedPull, folder: Path, texts: Texts, quarantine: QuarantineWriter, progress: Progress | None
) -> StagedLines:
    """Read, check and lay down all lines of ``pull``; InputError or LedgerError when a file is not as promised."""
    staged = StagedLines(folder, _manifest_counts(pull), texts)
    order = 0
    for file in pull.files:
        lines = 0
        for block in read_blocks(file):
            scanned = staged.scan(block, file.resource_type, file.name, order)
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
