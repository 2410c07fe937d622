"""A commit: one pull becomes one lake version, wholly or not at all.

Steps: read and check (staging), decide what is new (placing), ask who is who (links), write Parquet and commit each
table, and last publish the manifest. Until the manifest is there nothing has happened: readers stay on the version
before, and the next commit undoes what an interrupted one left in the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from fhir_gateway.errors import LedgerError, Location
from fhir_gateway.lake.columns import OWN_COLUMNS, belongs_to_patients, transform_structure
from fhir_gateway.lake.links import Links, read_links, update_links
from fhir_gateway.lake.moving import moved_rows, widen_by
from fhir_gateway.lake.persons import PersonAssigner
from fhir_gateway.lake.placing import Placement, place
from fhir_gateway.lake.quarantine import QuarantineWriter
from fhir_gateway.lake.staging import Progress, StagedLines, stage
from fhir_gateway.lake.tables import NO_BUCKET, BucketWriter, ResourceTable, StoredFile
from fhir_gateway.lake.versions import LakeVersion, TableState, VersionLog
from fhir_gateway.r4 import spec
from fhir_gateway.sources.models import Ledger, StagedPull

#: Rows that go through sorting, typing and writing together; more is slower (cache), fewer is overhead.
_STREAM_ROWS = 5_000
_MEMORY_LIMIT = "4GB"
_PERSON_ELEMENTS = ("identifier", "name", "birthDate", "gender")


@dataclass
class Commit:
    """The commit of ``pull`` on top of lake version ``base``; ``folder`` is scratch space on the lake's disk."""

    root: Path
    log: VersionLog
    base: int
    buckets: int
    folder: Path
    pull: StagedPull
    persons: PersonAssigner
    progress: Progress | None = None

    def __post_init__(self) -> None:
        self.version = self.base + 1
        self.before: Mapping[str, TableState] = self.log.tables(self.base)
        self.connection = duckdb.connect(
            config={"temp_directory": str(self.folder / "duckdb"), "memory_limit": _MEMORY_LIMIT}
        )

    def run(self) -> LakeVersion:
        """Do all steps but the last; the returned manifest is for the caller to publish."""
        quarantine = QuarantineWriter(self.folder / "quarantine.parquet")
        try:
            lines = stage(self.pull, self.folder, quarantine, self.progress)
        finally:
            quarantine.close()
        placements = {name: self._place(name, lines) for name in sorted(lines.rows)}
        ledger = self._ledger(lines, placements)
        known = self.log.get(self.base).links if self.base else None
        links = self._links(lines, placements, read_links(self.log.folder / known if known else None))
        tables = dict(self.before)
        for name in sorted({*placements, *(self.before if links.changed else ())}):
            state = self._write(name, lines, placements.get(name), links)
            if state is not None:
                tables[name] = state
        return LakeVersion(
            version=self.version,
            pull_id=self.pull.id,
            source=self.pull.source,
            kind=self.pull.kind,
            transaction_time=self.pull.transaction_time,
            committed_at=datetime.now(UTC).isoformat(),
            tables=tables,
            ledger=ledger,
            quarantine=self._kept("quarantine", quarantine.path) if quarantine.count else None,
            links=self._kept_links(links),
        )

    def _table(self, resource_type: str) -> ResourceTable:
        return ResourceTable(self.root, resource_type)

    def _place(self, resource_type: str, lines: StagedLines) -> Placement:
        state = self.before.get(resource_type)
        old = None
        if state is not None:
            columns = ("id", "_member", "_last_updated", "_version", "_seq", "_deleted", "_raw", "_bucket")
            same_source = ds.field("_source") == self.pull.source
            old = self._table(resource_type).scan(state.delta_version, columns, same_source)
        return place(self.connection, lines.rows[resource_type].table(), old)

    def _ledger(self, lines: StagedLines, placements: Mapping[str, Placement]) -> Ledger:
        entries = []
        for name in sorted({*lines.read, *lines.manifest}, key=lambda name: name or ""):
            placed = placements.get(name) if name else None
            counts = (placed.stored, placed.replaced, placed.unchanged) if placed else (0, 0, 0)
            entries.append(lines.entry(name, *counts))
        ledger = Ledger(self.pull.id, self.pull.source, tuple(entries))
        for entry in ledger.entries:
            if not entry.balanced:
                message = (
                    f"{entry.resource_type or 'lines of unknown type'}: {entry.lines_read} lines read, "
                    f"{entry.rows_stored} stored, {entry.rows_replaced} replaced, {entry.rows_unchanged} unchanged, "
                    f"{entry.rows_quarantined} quarantined, {entry.manifest_count} counted by the sender"
                )
                raise LedgerError(message, location=Location(rule="ledger"))
        return ledger

    def _links(self, lines: StagedLines, placements: Mapping[str, Placement], known: pa.Table) -> Links:
        patients = [p.accepted["_patient"].combine_chunks() for p in placements.values()]
        ids = pc.unique(pa.concat_arrays(patients)).drop_null() if patients else pa.array([], pa.string())
        assigned = pa.table({"_patient": pa.array([], pa.string()), "_member": pa.array([], pa.string())})
        placed = placements.get("Patient")
        if placed is not None and placed.accepted.num_rows:
            rows = self._person_elements(lines, placed)
            members = self.persons.assign(self.pull.source, rows)
            assigned = pa.table({"_patient": rows["id"], "_member": members})
        return update_links(known, self.pull.source, ids, assigned, self.persons, self.buckets)

    def _person_elements(self, lines: StagedLines, placed: Placement) -> pa.Table:
        """Accepted Patient rows in the layout that the assigner reads."""
        full = spec.column_structure("Patient")
        structure = transform_structure({name: full[name] for name in _PERSON_ELEMENTS})
        self.connection.register("staged", lines.rows["Patient"].table())
        self.connection.register("accepted", placed.accepted)
        rows: pa.Table = self.connection.sql(
            "select id, unnest(json_transform(_raw, ?)) from staged semi join accepted using (_order) order by id",
            params=[structure],
        ).to_arrow_table()
        self.connection.unregister("staged")
        self.connection.unregister("accepted")
        fields = [pa.field("id", pa.string()), *(pa.field(n, spec.arrow_type(full[n])) for n in _PERSON_ELEMENTS)]
        return rows.select([field.name for field in fields]).cast(pa.schema(fields))

    def _write(
        self, resource_type: str, lines: StagedLines, placed: Placement | None, links: Links
    ) -> TableState | None:
        """Write and commit the rows of one type; None when there are none to write."""
        table = self._table(resource_type)
        state = self.before.get(resource_type)
        staged = lines.rows.get(resource_type)
        shape = lines.shapes.of.setdefault(resource_type, {})
        accepted = placed.accepted if placed else None
        moved = None
        if state is not None and links.changed and belongs_to_patients(resource_type):
            ids = accepted["id"] if accepted is not None else pa.array([], pa.string())
            moved = moved_rows(
                self.connection,
                table,
                state.delta_version,
                links.moved,
                self.pull.source,
                ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids,
            )
            widen_by(shape, resource_type, moved["_raw"])
        count = (accepted.num_rows if accepted is not None else 0) + (moved.num_rows if moved is not None else 0)
        if not count:
            return None
        self._gather(staged.table() if staged else None, accepted, moved, links)
        files = self._typed_files(table, transform_structure(shape))
        gone = self._tombstone_files(table)
        superseded = (
            (state is not None and state.superseded)
            or bool(gone)
            or bool(
                self.connection.execute("select count(*) from gathered where old_bucket is not null").fetchall()[0][0]
            )
        )
        return TableState(table.append([*files, *gone]), superseded)

    def _gather(self, staged: pa.Table | None, accepted: pa.Table | None, moved: pa.Table | None, links: Links) -> None:
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
        self.connection.register("links", links.table)
        union = " union all ".join(parts)
        self.connection.execute(
            "create or replace temp view gathered as "  # noqa: S608
            f"select r.*, l._member, coalesce(l._bucket, {NO_BUCKET}) as _bucket from ({union}) r "
            "left join links l on l._source = r._source and l._patient = r._patient"
        )

    def _typed_files(self, table: ResourceTable, structure: str) -> list[StoredFile]:
        elements = "" if structure == "{}" else ", unnest(json_transform(_raw, $structure))"
        parameters: dict[str, object] = {"seq": self.version, "pull": self.pull.id}
        if elements:
            parameters["structure"] = structure
        rows = self.connection.sql(
            "select _source, id, _member, _patient, _last_updated, _version, $seq::bigint as _seq, "  # noqa: S608
            f"$pull as _pull, false as _deleted, _raw, _bucket{elements} "
            "from (select * from gathered order by _bucket, _member, _source, id)",
            params=parameters,
        )
        writer = BucketWriter(table, self.version)
        for batch in rows.to_arrow_reader(_STREAM_ROWS):
            writer.add(_own_types(pa.Table.from_batches([batch])))
        return writer.close()

    def _tombstone_files(self, table: ResourceTable) -> list[StoredFile]:
        """In the buckets that rows leave, a row that says so."""
        rows = self.connection.sql(
            "select _source, id, old_member as _member, null::varchar as _patient, null::timestamptz as _last_updated, "
            "null::bigint as _version, $seq::bigint as _seq, $pull as _pull, true as _deleted, null::varchar as _raw, "
            "old_bucket as _bucket from gathered where old_bucket <> _bucket order by _bucket, _member, _source, id",
            params={"seq": self.version, "pull": self.pull.id},
        ).to_arrow_table()
        writer = BucketWriter(table, self.version)
        writer.add(_own_types(rows))
        return writer.close()

    def _kept(self, name: str, path: Path) -> str:
        target = self.log.folder / f"{name}-{self.version:08d}.parquet"
        path.replace(target)
        return target.name

    def _kept_links(self, links: Links) -> str | None:
        if not links.table.num_rows:
            return None
        path = self.folder / "links.parquet"
        pq.write_table(links.table, path, compression="zstd")
        return self._kept("links", path)


def _own_types(rows: pa.Table) -> pa.Table:
    """Give our own columns exactly their declared types."""
    for field in [*OWN_COLUMNS, pa.field("_bucket", pa.int32())]:
        at = rows.schema.get_field_index(field.name)
        if rows.schema.field(at).type != field.type:
            rows = rows.set_column(at, field, rows.column(at).cast(field.type))
    return rows
