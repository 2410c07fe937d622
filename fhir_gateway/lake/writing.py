"""Last step of a commit for one table: rows sorted into their buckets, typed, written, made part of the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.lake.assemble import TEXT_COLUMNS
from fhir_gateway.lake.columns import OWN_COLUMNS, belongs_to_patients
from fhir_gateway.lake.moving import MOVED, moved_rows
from fhir_gateway.lake.ordering import Seats, placed
from fhir_gateway.lake.parts import BucketWriter
from fhir_gateway.lake.scan import Scanner
from fhir_gateway.lake.staging import StagedRows
from fhir_gateway.lake.tables import ResourceTable, StoredFile
from fhir_gateway.lake.texts import Texts
from fhir_gateway.lake.typed import PIECE_ROWS, Piece, typed_rows
from fhir_gateway.lake.versions import TableState
from fhir_gateway.sources.models import StagedPull

#: Columns of rows in their order that are stored as they are.
_KEPT = ["_source", "id", "_member", "_patient", "_last_updated", "_version", "_hash"]


@dataclass(frozen=True, slots=True)
class Writing:
    """What ``pull`` adds to ``table``, whose state so far is ``state``, as part of lake version ``version``.

    ``moved`` are the patients who became somebody else, ``scratch`` is a folder to make for parts.
    """

    connection: duckdb.DuckDBPyConnection
    scanner: Scanner
    texts: Texts
    table: ResourceTable
    state: TableState | None
    version: int
    pull: StagedPull
    moved: pa.Table
    seated: Seats
    scratch: Path

    def run(self, accepted: StagedRows | None, doomed: pa.Table | None) -> TableState | None:
        """Write the ``accepted`` rows and those of whoever moved, and tombstones over the ``doomed``.

        None when there is nothing to write.
        """
        self.scratch.mkdir()
        moved = self._moved(accepted, doomed)
        count = (accepted.count if accepted else 0) + (moved.count if moved else 0)
        if not count and not (doomed is not None and doomed.num_rows):
            return None
        left = _Left(self.connection, doomed)
        rows = placed(lambda: self._batches(accepted, moved), count, self.seated, self.scratch / "rows")
        files = self._typed_files(left.seen(rows)) if count else []
        gone = self._tombstone_files(left) if left.count else []
        superseded = left.replacing or bool(gone) or (self.state is not None and self.state.superseded)
        written = self.state.written if self.state is not None else None
        return TableState(self.table.append([*files, *gone]), superseded, written)

    def _batches(self, accepted: StagedRows | None, moved: StagedRows | None) -> Iterator[pa.RecordBatch]:
        """The rows to write; where somebody moved, all say their ``_source``."""
        for batch in accepted.batches() if accepted else ():
            if moved is not None:
                source = pa.repeat(self.pull.source, batch.num_rows)
                batch = pa.record_batch([*batch.columns, source], schema=MOVED)
            yield batch
        if moved is not None:
            yield from moved.batches()

    def _moved(self, accepted: StagedRows | None, doomed: pa.Table | None) -> StagedRows | None:
        """Stored rows that go with a patient who moved; the scanner learns their columns."""
        if self.state is None or not self.moved.num_rows or not belongs_to_patients(self.table.resource_type):
            return None
        return moved_rows(
            self.connection,
            self.scanner,
            self.table,
            self.state.delta_version,
            self.moved,
            self.pull.source,
            accepted,
            doomed,
            self.texts,
            self.scratch,
        )

    def _typed_files(self, parts: Iterable[pa.Table]) -> list[StoredFile]:
        shape = self.scanner.shape(self.table.resource_type)
        writer = BucketWriter(self.table, self.version, self.scratch.with_suffix(".files"))
        for rows in parts:
            for piece in typed_rows(
                self.connection,
                self.scanner.grammar,
                self.table.resource_type,
                self.texts,
                rows.select(TEXT_COLUMNS),
                shape,
            ):
                writer.add(self._stored(rows.slice(piece.start, len(piece.raw)), piece))
                del piece  # its memory is the next one's
                pa.default_memory_pool().release_unused()  # what encoding took is not kept for the next
        return writer.close()

    def _stored(self, rows: pa.Table, piece: Piece) -> pa.Table:
        """Rows as they are stored."""
        count = len(piece.raw)
        own = {
            **{name: rows[name] for name in _KEPT},
            "_seq": pa.repeat(pa.scalar(self.version, pa.int64()), count),
            "_pull": pa.repeat(self.pull.id, count),
            "_deleted": pa.repeat(False, count),
            "_raw": piece.raw,
        }
        arrays = [own[name] for name in OWN_COLUMNS.names] + piece.columns.flatten() + [rows["_bucket"]]
        fields = [*OWN_COLUMNS, *piece.columns.type, pa.field("_bucket", pa.int32())]
        return pa.table(arrays, schema=pa.schema(fields))

    def _tombstone_files(self, left: _Left) -> list[StoredFile]:
        """In the buckets that rows leave, and where the doomed lie, a row that says so."""
        writer = BucketWriter(self.table, self.version, self.scratch.with_suffix(".files"))
        for rows in left.in_order():
            given = {
                **{name: rows[name] for name in rows.schema.names},
                "_seq": pa.repeat(pa.scalar(self.version, pa.int64()), rows.num_rows),
                "_pull": pa.repeat(self.pull.id, rows.num_rows),
                "_deleted": pa.repeat(True, rows.num_rows),
            }
            fields = [*OWN_COLUMNS, pa.field("_bucket", pa.int32())]
            arrays = [given[f.name] if f.name in given else pa.nulls(rows.num_rows, f.type) for f in fields]
            writer.add(pa.table(arrays, schema=pa.schema(fields)))
        return writer.close()


class _Left:
    """Rows that leave their bucket: the doomed, and those that are written into another."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, doomed: pa.Table | None) -> None:
        self.count = 0
        self.replacing = False
        self._connection = connection
        if doomed is not None and doomed.num_rows:
            self._add(doomed)

    def seen(self, parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Look at rows that are written, as they go by."""
        for rows in parts:
            if "old_bucket" in rows.column_names:
                before = rows["old_bucket"]
                self.replacing |= before.null_count < len(before)
                leaving = rows.filter(pc.not_equal(before, rows["_bucket"]))
                if leaving.num_rows:
                    self._add(leaving)
            yield rows

    def _add(self, rows: pa.Table) -> None:
        self._connection.register("leaving", rows.select(["_source", "id", "old_member", "old_bucket"]))
        if not self.count:
            self._connection.execute(
                "create temp table left_behind (_source varchar, id varchar, _member varchar, _bucket integer)"
            )
        self._connection.execute("insert into left_behind from leaving")
        self._connection.unregister("leaving")
        self.count += rows.num_rows

    def in_order(self) -> Iterator[pa.RecordBatch]:
        """All of them as they are stored: by bucket, member, source and id."""
        rows = self._connection.sql("from left_behind order by _bucket, _member, _source, id")
        yield from rows.to_arrow_reader(PIECE_ROWS)
