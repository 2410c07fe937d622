"""A commit: one pull becomes one lake version, wholly or not at all.

Steps: read and check (staging), decide what is new (placing), ask who is who (links), write Parquet and commit each
table, and last publish the manifest. Until the manifest is there nothing has happened: readers stay on the version
before, and the next commit undoes what an interrupted one left in the tables.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.errors import LedgerError, Location
from fhir_gateway.lake.assemble import SCRATCH
from fhir_gateway.lake.columns import belongs_to_patients
from fhir_gateway.lake.deleting import doomed_rows
from fhir_gateway.lake.links import Links, read_links, update_links
from fhir_gateway.lake.memory import give_back
from fhir_gateway.lake.object_tables import open_table
from fhir_gateway.lake.ordering import Seats, seats
from fhir_gateway.lake.persons import PersonAssigner
from fhir_gateway.lake.places import ObjectPath, Place, keep
from fhir_gateway.lake.placing import STORED_COLUMNS, Before, Placement, place
from fhir_gateway.lake.quarantine import QuarantineWriter
from fhir_gateway.lake.replay import Replay
from fhir_gateway.lake.staging import Progress, StagedLines, StagedRows, gathered, patients, stage
from fhir_gateway.lake.tables import FEW_IDS, ResourceTable
from fhir_gateway.lake.texts import Texts
from fhir_gateway.lake.typed import typed_rows
from fhir_gateway.lake.versions import LakeVersion, TableState, VersionLog
from fhir_gateway.lake.writing import Writing
from fhir_gateway.r4 import spec
from fhir_gateway.sources.models import Ledger, StagedPull

_MEMORY_LIMIT = "256MB"  # of what DuckDB holds for a commit; above it spills
_PERSON_ELEMENTS = ("identifier", "name", "birthDate", "gender")


@dataclass
class Commit:
    """The commit of ``pull`` on top of lake version ``base``; ``folder`` is scratch space (on the lake's disk, where it
    has one).

    ``deletions`` are the ids, by resource type, that the source says are gone; with ``replay`` the lines are refused
    ones of before. ``opened`` are tables whose logs are read already; it gains those that the commit opens.
    """

    root: Place
    log: VersionLog
    base: int
    buckets: int
    folder: Path
    pull: StagedPull
    persons: PersonAssigner
    progress: Progress | None = None
    deletions: Mapping[str, Collection[str]] = field(default_factory=dict)
    replay: Replay | None = None
    opened: dict[str, ResourceTable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.version = self.base + 1
        self.before: Mapping[str, TableState] = self.log.tables(self.base)

    def run(self) -> LakeVersion:
        """Do all steps but the last; the returned manifest is for the caller to publish."""
        # in memory, but what is too much goes to the scratch space
        config: dict[str, str | bool | int | float | list[str]]
        config = {"temp_directory": str(self.folder / "duckdb"), "memory_limit": _MEMORY_LIMIT}
        with duckdb.connect(config=config) as self.connection, Texts(self.folder) as texts:
            return self._run(texts)

    def _run(self, texts: Texts) -> LakeVersion:
        quarantine = QuarantineWriter(self.folder / "quarantine.parquet")
        try:
            if self.replay is None:
                lines = stage(self.pull, self.folder, texts, quarantine, self.progress)
            else:
                lines = self.replay.stage(self.folder, texts, quarantine, self.progress)
        finally:
            quarantine.close()
        lines.scanner.rest()
        SCRATCH.rest()
        give_back()
        doomed = {name: rows for name in sorted(self.deletions) if (rows := self._doomed(name, lines)) is not None}
        (self.folder / "accepted").mkdir()
        placements = {name: self._place(name, lines.rows.pop(name)) for name in sorted(lines.rows)}
        ledger = self._ledger(lines, placements, doomed)
        before = self.log.get(self.base) if self.base else None
        known = read_links(self.log.folder / before.links if before and before.links else None)
        links = self._links(lines, placements, known, before.persons if before else None)
        same = links.table is known
        seated, laid = seats(links.table, self.pull.source, links.moved), self._laid(links, same)
        moved, mark = links.moved, links.mark
        del known, links
        SCRATCH.rest()
        give_back()
        tables = self._write_all(lines, placements, doomed, moved, seated)
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
            links=before.links if before and same else self._kept("links", laid) if laid else None,
            replays=self.replay.version if self.replay else None,
            persons=mark,
        )

    def _table(self, resource_type: str) -> ResourceTable:
        return self.opened.setdefault(resource_type, open_table(self.root, resource_type))

    def _place(self, resource_type: str, rows: StagedRows) -> Placement:
        state = self.before.get(resource_type)
        if state is None and rows.all_different():
            return Placement(rows.count, 0, 0, rows)
        arrived = self.replay.version if self.replay else self.version
        before = self._before(resource_type, state.delta_version, rows) if state else None
        placed = place(self.connection, self.pull.source, rows, before, arrived, self.folder / "accepted")
        rows.forget()
        return placed

    def _before(self, resource_type: str, delta_version: int, rows: StagedRows) -> Before:
        """The stored rows that staged ones are compared with."""
        table = self._table(resource_type)
        ids = rows.few_ids()
        if ids is not None and len(ids) > FEW_IDS:
            ids = None
        written = Counter[int]()  # rows by commit
        for file in table.files(delta_version):
            written[file.seq] += file.rows
        size = written.total()
        if ids is not None:  # so many, when a resource was written as often as others
            size = min(size, len(ids) * -(-size // max(written.values(), default=1)))
        return Before(size, lambda: table.scan(delta_version, STORED_COLUMNS, ids))

    def _doomed(self, resource_type: str, lines: StagedLines) -> pa.Table | None:
        """Stored rows that the source says are gone; None for a type without a table."""
        state = self.before.get(resource_type)
        if state is None:
            return None
        staged = lines.rows.get(resource_type)
        return doomed_rows(
            self.connection,
            self._table(resource_type),
            state.delta_version,
            self.pull.source,
            self.deletions[resource_type],
            staged,
        )

    def _ledger(
        self, lines: StagedLines, placements: Mapping[str, Placement], doomed: Mapping[str, pa.Table]
    ) -> Ledger:
        entries = []
        for name in sorted({*lines.read, *lines.manifest, *doomed}, key=lambda name: name or ""):
            placed = placements.get(name) if name else None
            counts = (placed.stored, placed.replaced, placed.unchanged) if placed else (0, 0, 0)
            gone = doomed.get(name) if name else None
            entries.append(lines.entry(name, *counts, 0 if gone is None else gone.num_rows))
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

    def _links(
        self, lines: StagedLines, placements: Mapping[str, Placement], known: pa.Table, mark: str | None
    ) -> Links:
        ids = patients(placed.accepted for name, placed in placements.items() if belongs_to_patients(name))
        nobody = pa.table({"_patient": pa.array([], pa.string()), "_member": pa.array([], pa.string())})
        assigned = [nobody]
        for rows in self._person_elements(lines, placements["Patient"].accepted) if "Patient" in placements else ():
            members = self.persons.assign(self.pull.source, rows)
            assigned.append(pa.table({"_patient": rows["id"], "_member": members}))
        placed = pa.concat_tables(assigned)
        return update_links(known, self.pull.source, ids, placed, self.persons, self.buckets, mark)

    def _person_elements(self, lines: StagedLines, accepted: StagedRows) -> Iterator[pa.Table]:
        """Accepted Patient rows in the layout that the assigner reads, so many at a time."""
        full = spec.column_structure("Patient")
        shape = {name: full[name] for name in _PERSON_ELEMENTS}
        schema = pa.schema([pa.field(n, spec.arrow_type(full[n])) for n in _PERSON_ELEMENTS])
        for rows in gathered(accepted.batches()):
            pieces = typed_rows(self.connection, lines.scanner.grammar, "Patient", lines.texts, rows, shape)
            elements = [piece.columns for piece in pieces]
            people = pa.Table.from_struct_array(pa.chunked_array(elements, pa.struct(schema)))
            people = people.add_column(0, "id", rows["id"])
            yield people.take(pc.sort_indices(people["id"]))

    def _laid(self, links: Links, same: bool) -> Path | None:
        """The file of all links; None when they are as they were, or there are none."""
        if same or not links.table.num_rows:
            return None
        path = self.folder / "links.parquet"
        pq.write_table(links.table, path, compression="zstd")
        return path

    def _write_all(
        self,
        lines: StagedLines,
        placements: Mapping[str, Placement],
        doomed: Mapping[str, pa.Table],
        moved: pa.Table,
        seated: Seats,
    ) -> Mapping[str, TableState]:
        """Write and commit every table that changes; types go side by side, as most of the work is outside Python."""
        names = sorted({*placements, *doomed, *(self.before if moved.num_rows else ())})

        def write(name: str) -> TableState | None:
            with self.connection.cursor() as connection:
                writing = Writing(
                    connection,
                    lines.scanner.beside(),  # rows of patients who moved are scanned here, types side by side
                    lines.texts,
                    self._table(name),
                    self.before.get(name),
                    self.version,
                    self.pull,
                    moved,
                    seated,
                    self.folder / f"parts-{name}",
                )
                return writing.run(placements[name].accepted if name in placements else None, doomed.get(name))

        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            states = dict(zip(names, pool.map(write, names), strict=True))
        return {**self.before, **{name: state for name, state in states.items() if state is not None}}

    def _kept(self, name: str, path: Path) -> str:
        target = self.log.folder / f"{name}-{self.version:08d}.parquet"
        if isinstance(target, ObjectPath):  # another writer may be about to publish the version of that number
            target = self.log.folder / f"{name}-{self.version:08d}-{uuid.uuid4().hex[:12]}.parquet"
        keep(path, target)
        return target.name
