"""Last step of a commit for one table: rows sorted into their buckets, typed, written, made part of the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from fhir_gateway.lake.assemble import TEXT_COLUMNS
from fhir_gateway.lake.columns import OWN_COLUMNS, belongs_to_patients
from fhir_gateway.lake.moving import MOVED, moved_rows
from fhir_gateway.lake.ordering import Seats, first_rows, ordered
from fhir_gateway.lake.parts import BucketWriter
from fhir_gateway.lake.scan import CHECKED, Scanner
from fhir_gateway.lake.staging import StagedRows, gathered
from fhir_gateway.lake.tables import NO_BUCKET, ResourceTable, StoredFile
from fhir_gateway.lake.texts import Texts
from fhir_gateway.lake.typed import Piece, typed_rows
from fhir_gateway.lake.versions import TableState
from fhir_gateway.sources.models import StagedPull

#: Columns of rows in their order that are stored as they are.
_KEPT = ["_source", "id", "_member", "_patient", "_last_updated", "_version", "_hash"]

_NOBODY = "select null::bigint as _order, null::varchar as _source, null::varchar as id, null::varchar as _patient, "
_NOBODY += "null::integer as old_bucket, null::varchar as old_member where false"


@dataclass(frozen=True, slots=True)
class Writing:
    """What ``pull`` adds to ``table``, whose state so far is ``state``, as part of lake version ``version``.

    ``connection`` has the accepted rows and, where there are any or some that leave, the table ``links``; ``moved`` are
    the patients who became somebody else, ``scratch`` is a folder to make for parts.
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

    def first(self, staged: StagedRows) -> TableState:
        """Write all ``staged`` rows, each the only one of its id, into a table that is not there yet."""
        return TableState(self.table.append(self._typed_files(first_rows(staged, self.seated, self.scratch))), False)

    def run(self, staged: StagedRows | None, accepted: str | None, doomed: pa.Table | None) -> TableState | None:
        """Write the ``accepted`` of the ``staged`` rows and whoever moved, and tombstones over the ``doomed``.

        None when there is nothing to write.
        """
        moved = self._moved(accepted, doomed)
        rows, replacing, left = self._rank(accepted, moved)
        if not rows and not (doomed is not None and doomed.num_rows):
            return None
        batches = [] if moved is None else moved.select(CHECKED.names).to_batches()
        files = self._typed_files(self._parts(rows, staged, batches)) if rows else []
        gone = self._tombstone_files(doomed) if left or doomed is not None else []
        superseded = bool(replacing or gone) or (self.state is not None and self.state.superseded)
        written = self.state.written if self.state is not None else None
        return TableState(self.table.append([*files, *gone]), superseded, written)

    def _moved(self, accepted: str | None, doomed: pa.Table | None) -> pa.Table | None:
        """Stored rows that go with a patient who moved; the scanner learns their columns."""
        if self.state is None or not self.moved.num_rows or not belongs_to_patients(self.table.resource_type):
            return None
        replaced = pa.chunked_array([], pa.string()) if doomed is None else doomed["id"]
        if accepted is not None:
            ids = self.connection.sql(f"select id from {accepted}").to_arrow_table()["id"]  # noqa: S608 - our name
            replaced = pa.chunked_array([*replaced.chunks, *ids.chunks], pa.string())
        return moved_rows(
            self.connection,
            self.scanner,
            self.table,
            self.state.delta_version,
            self.moved,
            self.pull.source,
            replaced,
            self.texts,
        )

    def _rank(self, accepted: str | None, moved: pa.Table | None) -> tuple[int, int, int]:
        """Make the table ``ranked``: all rows to write, in their order, with their new place and the one they had.

        Returns how many rows there are, how many replace another, and how many leave a bucket.
        """
        sources = [_NOBODY]
        if accepted is not None:
            sources.append(
                f"select _order, $source as _source, id, _patient, old_bucket, old_member from {accepted}"  # noqa: S608 - our name
            )
        if moved is not None:
            self.connection.register("moved", moved.select(MOVED))
            sources.append("select _order, _source, id, _patient, old_bucket, old_member from moved")
        union = " union all ".join(sources)
        self.connection.execute(
            f"""
            create or replace temp table ranked as select row_number() over () - 1 as rank, * from (
                select r.*, l._member, coalesce(l._bucket, {NO_BUCKET}) as _bucket
                from ({union}) r left join links l on l._source = r._source and l._patient = r._patient
                order by _bucket, _member, r._source, r.id
            )
            """,  # noqa: S608 - made of the constants above
            {"source": self.pull.source} if accepted is not None else {},
        )
        counted = "select count(*), count(old_bucket), count(*) filter (old_bucket <> _bucket) from ranked"
        ((rows, replacing, left),) = self.connection.execute(counted).fetchall()
        return int(rows), int(replacing), int(left)

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

    def _parts(self, count: int, staged: StagedRows | None, moved: list[pa.RecordBatch]) -> Iterator[pa.Table]:
        """The rows to write in their order, a part after the other, with ``_source``, ``_member`` and ``_bucket``."""
        orders = self.connection.sql("select _order from ranked order by rank").fetchnumpy()["_order"]
        ranks = np.argsort(orders)
        orders = orders[ranks]
        first = 0
        for rows in ordered(lambda: _ranked(_chained(staged, moved), orders, ranks), count, self.scratch):
            places = self.connection.sql(
                "select _source, _member, _bucket from ranked where rank >= ? and rank < ? order by rank",
                params=[first, first + rows.num_rows],
            ).to_arrow_table()
            first += rows.num_rows
            for name in places.column_names:
                rows = rows.append_column(name, places[name])
            yield rows

    def _tombstone_files(self, doomed: pa.Table | None) -> list[StoredFile]:
        """In the buckets that rows leave, and where the doomed lie, a row that says so."""
        left = "select _source, id, old_member, old_bucket from ranked where old_bucket <> _bucket"
        if doomed is not None:
            self.connection.register("doomed", doomed)
            left += " union all select _source, id, old_member, old_bucket from doomed"
        rows = self.connection.sql(
            "select _source, id, old_member as _member, old_bucket as _bucket "  # noqa: S608 - made of the constants above
            f"from ({left}) order by _bucket, _member, _source, id"
        ).to_arrow_table()
        given = {
            **{name: rows[name] for name in rows.column_names},
            "_seq": pa.repeat(pa.scalar(self.version, pa.int64()), rows.num_rows),
            "_pull": pa.repeat(self.pull.id, rows.num_rows),
            "_deleted": pa.repeat(True, rows.num_rows),
        }
        fields = [*OWN_COLUMNS, pa.field("_bucket", pa.int32())]
        arrays = [given[f.name] if f.name in given else pa.nulls(rows.num_rows, f.type) for f in fields]
        writer = BucketWriter(self.table, self.version, self.scratch.with_suffix(".files"))
        writer.add(pa.table(arrays, schema=pa.schema(fields)))
        return writer.close()


def _chained(staged: StagedRows | None, moved: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if staged is not None:
        yield from staged.batches()
    yield from moved


def _ranked(batches: Iterator[pa.RecordBatch], orders: np.ndarray, ranks: np.ndarray) -> Iterator[pa.Table]:
    """The rows whose ``_order`` is in ``orders`` (sorted), with their ``rank``."""
    for rows in gathered(batches):
        wanted = rows["_order"].to_numpy()
        at = np.minimum(np.searchsorted(orders, wanted), len(orders) - 1)
        there = orders[at] == wanted
        if not there.all():
            rows = rows.filter(pa.array(there))
            at = at[there]
        if rows.num_rows:
            yield rows.append_column("rank", pa.array(ranks[at].astype(np.int32)))
