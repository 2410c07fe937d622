"""Last step of a commit for one table: rows sorted into their buckets, typed, written, made part of the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.lake.columns import OWN_COLUMNS, belongs_to_patients, transform_structure
from fhir_gateway.lake.links import Links
from fhir_gateway.lake.moving import moved_rows, widen_by
from fhir_gateway.lake.tables import NO_BUCKET, BucketWriter, ResourceTable, StoredFile
from fhir_gateway.lake.versions import TableState
from fhir_gateway.sources.models import StagedPull

#: Rows that are typed and written together, and a row group of a file at most; more is slower (cache).
_STREAM_ROWS = 16_384
#: JSON text that is sorted at a time. Sorting it whole spills, but fails at about twice DuckDB's memory limit; beyond
#: this size the rows are first parted by bucket.
_SORT_BYTES = 1 << 29


_NOTHING = (
    "select null::varchar as _source, null::varchar as id, null::varchar as _patient, null::timestamptz as "
    "_last_updated, null::bigint as _version, null::varchar as _raw, null::integer as old_bucket, "
    "null::varchar as old_member where false"
)


@dataclass(frozen=True, slots=True)
class Writing:
    """What ``pull`` adds to ``table``, whose state so far is ``state``, as part of lake version ``version``.

    ``scratch`` is an empty folder, ``buckets`` how many the lake has.
    """

    connection: duckdb.DuckDBPyConnection
    table: ResourceTable
    state: TableState | None
    version: int
    pull: StagedPull
    links: Links
    buckets: int
    scratch: Path

    def run(
        self, staged: pa.Table | None, accepted: pa.Table | None, shape: dict[str, Any], doomed: pa.Table | None
    ) -> TableState | None:
        """Write the ``accepted`` of the ``staged`` rows and whoever moved, and tombstones over the ``doomed``.

        None when there is nothing to write.
        """
        moved = self._moved(accepted, doomed, shape)
        if not any(rows is not None and rows.num_rows for rows in (accepted, moved, doomed)):
            return None
        self._gather(staged, accepted, moved)
        size = sum(rows.nbytes for rows in (staged, moved) if rows is not None)
        files = self._typed_files(self._parts(size), shape)
        gone = self._tombstone_files(doomed)
        ((replacing,),) = self.connection.execute(
            "select count(*) from gathered where old_bucket is not null"
        ).fetchall()
        superseded = bool(replacing or gone) or (self.state is not None and self.state.superseded)
        return TableState(self.table.append([*files, *gone]), superseded)

    def _moved(self, accepted: pa.Table | None, doomed: pa.Table | None, shape: dict[str, Any]) -> pa.Table | None:
        """Stored rows that go with a patient who moved; ``shape`` learns their columns."""
        if self.state is None or not self.links.changed or not belongs_to_patients(self.table.resource_type):
            return None
        replaced = pa.chunked_array(
            [chunk for rows in (accepted, doomed) if rows is not None for chunk in rows["id"].chunks], pa.string()
        )
        moved = moved_rows(
            self.connection, self.table, self.state.delta_version, self.links.moved, self.pull.source, replaced
        )
        widen_by(shape, self.table.resource_type, moved["_raw"])
        return moved

    def _gather(self, staged: pa.Table | None, accepted: pa.Table | None, moved: pa.Table | None) -> None:
        """Make the view ``gathered``: all rows to write with their new place, and the place they had."""
        parts = []
        if staged is not None and accepted is not None:
            self.connection.register("staged", staged)
            source = pa.repeat(pa.scalar(self.pull.source), accepted.num_rows)
            self.connection.register("accepted", accepted.append_column("_source", source))
            parts.append(
                "select a._source, s.id, s._patient, s._last_updated, s._version, s._raw, "
                "a.old_bucket, a.old_member from staged s join accepted a using (_order)"
            )
        if moved is not None:
            self.connection.register("moved", moved)
            parts.append("select * from moved")
        if not parts:
            parts.append(_NOTHING)
        self.connection.register("links", self.links.table)
        union = " union all ".join(parts)
        self.connection.execute(
            "create or replace temp view gathered as "  # noqa: S608 - made of the constants above
            f"select r.*, l._member, coalesce(l._bucket, {NO_BUCKET}) as _bucket from ({union}) r "
            "left join links l on l._source = r._source and l._patient = r._patient"
        )

    def _parts(self, size: int) -> Iterator[str]:
        """Names of the relations that together are ``gathered``, by ascending buckets, each small enough to sort."""
        count = min(-(-size // _SORT_BYTES), self.buckets + 1)
        if count <= 1:
            yield "gathered"
            return
        self.scratch.mkdir()
        writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
        split = f"select *, ((_bucket + 1) * {count}) // {self.buckets + 1} as part from gathered"  # noqa: S608
        for batch in self.connection.sql(split).to_arrow_reader(_STREAM_ROWS):
            parts = batch["part"]
            for part in pc.unique(parts).to_pylist():
                if part not in writers:
                    writers[part] = pa.ipc.new_file(str(self.scratch / f"{part}.arrow"), batch.schema)
                writers[part].write_batch(batch.filter(pc.equal(parts, part)))
        for part, writer in sorted(writers.items()):
            writer.close()
            path = self.scratch / f"{part}.arrow"
            self.connection.register("part", pa.ipc.open_file(pa.memory_map(str(path))).read_all())
            yield "part"
            self.connection.unregister("part")
            path.unlink()

    def _typed_files(self, parts: Iterable[str], shape: Mapping[str, Any]) -> list[StoredFile]:
        structure = transform_structure(shape)
        parameters: dict[str, object] = {"seq": self.version, "pull": self.pull.id}
        elements = ""
        if structure != "{}":
            elements = ", unnest(json_transform(_raw, $structure))"
            parameters["structure"] = structure
        writer = BucketWriter(self.table, self.version)
        for part in parts:
            rows = self.connection.sql(
                "select _source, id, _member, _patient, _last_updated, _version, $seq::bigint as _seq, "  # noqa: S608
                f"$pull as _pull, false as _deleted, _raw, _bucket{elements} "
                f"from (select * from {part} order by _bucket, _member, _source, id)",
                params=parameters,
            )
            for batch in rows.to_arrow_reader(_STREAM_ROWS):
                writer.add(_own_types(pa.Table.from_batches([batch])))
        return writer.close()

    def _tombstone_files(self, doomed: pa.Table | None) -> list[StoredFile]:
        """In the buckets that rows leave, and where the doomed lie, a row that says so."""
        left = "select _source, id, old_member, old_bucket from gathered where old_bucket <> _bucket"
        if doomed is not None:
            self.connection.register("doomed", doomed)
            left += " union all select _source, id, old_member, old_bucket from doomed"
        rows = self.connection.sql(
            "select _source, id, old_member as _member, null::varchar as _patient, null::timestamptz as _last_updated, "  # noqa: S608 - made of the constants above
            "null::bigint as _version, $seq::bigint as _seq, $pull as _pull, true as _deleted, null::varchar as _raw, "
            f"old_bucket as _bucket from ({left}) order by _bucket, _member, _source, id",
            params={"seq": self.version, "pull": self.pull.id},
        ).to_arrow_table()
        writer = BucketWriter(self.table, self.version)
        writer.add(_own_types(rows))
        return writer.close()


def _own_types(rows: pa.Table) -> pa.Table:
    """Give our own columns exactly their declared types."""
    for field in [*OWN_COLUMNS, pa.field("_bucket", pa.int32())]:
        at = rows.schema.get_field_index(field.name)
        if rows.schema.field(at).type != field.type:
            rows = rows.set_column(at, field, rows.column(at).cast(field.type))
    return rows
