"""Versions of the lake's tables, as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.errors import InputError
from fhir_gateway.lake.buckets import bucket_of
from fhir_gateway.lake.changes import Changes, changed
from fhir_gateway.lake.coded import Coded
from fhir_gateway.lake.columns import belongs_to_patients, layout, table_schema
from fhir_gateway.lake.few import FEW
from fhir_gateway.lake.journal import Sheet, rows_like, rows_with, sheets
from fhir_gateway.lake.kept import KeptTables
from fhir_gateway.lake.object_tables import open_table
from fhir_gateway.lake.places import Place
from fhir_gateway.lake.quarantine import QuarantinedLine, read_quarantine
from fhir_gateway.lake.reading import Only, stored_rows
from fhir_gateway.lake.storage import StoredTable, stored_table
from fhir_gateway.lake.tables import NO_BUCKET, ResourceTable, StoredFile, in_order
from fhir_gateway.lake.versions import PARTED, LakeVersion, TableState, VersionLog
from fhir_gateway.r4 import spec

#: Columns that every read gives.
KEY_COLUMNS = ("_source", "id", "_member", "_bucket", "_last_updated")
#: Below so many rows DuckDB needs longer to open (17 ms of CPU) than Arrow to sort; above, it uses all cores.
_FEW_TO_SORT = 50_000
#: Members who changed that are kept in memory.
_MOST_CHANGED = 100_000


class Snapshots:
    """What the versions of a lake hold. Its tables know the files of what they read: one object serves one process."""

    def __init__(self, root: Place, buckets: int, log: VersionLog) -> None:
        """``buckets`` is how many the lake was founded with."""
        self.root = root
        self._founded = buckets
        self._log = log
        self._tables: dict[str, ResourceTable] = {}
        self._kept = KeptTables()
        self._changes: dict[tuple[int, int], Changes] = {}  # of versions that were asked for last; they never change

    @property
    def version(self) -> int:
        """Newest version; 0 while empty. Every commit of a pull adds one."""
        return self._log.latest

    @property
    def buckets(self) -> int:
        """Number of member buckets of the newest version."""
        return self.buckets_of(self.version)

    def buckets_of(self, version: int | None) -> int:
        """Number of member buckets of a version (None: the newest)."""
        version = self.version if version is None else version
        return (self._log.get(version).buckets if version else None) or self._founded

    def settled(self) -> int:
        """The newest version, such that whatever is committed later has a later time than that of this call."""
        return self._log.settled()

    def described(self, version: int) -> LakeVersion:
        """One version with its pull and ledger; NotFoundError."""
        return self._log.get(version)

    def stored(self) -> tuple[StoredTable, ...]:
        """What the tables of the newest version rest on; no data is read."""
        tables = sorted(self._log.tables(self.version).items())
        return tuple(stored_table(name, at, self._table(name).files(at.delta_version)) for name, at in tables)

    def versions(self) -> tuple[LakeVersion, ...]:
        """All versions with their pulls and ledgers, oldest first."""
        return self._log.all()

    def _table(self, resource_type: str) -> ResourceTable:
        return self._tables.setdefault(resource_type, open_table(self.root, resource_type))

    def types(self, version: int | None = None) -> tuple[str, ...]:
        """Resource types with a table."""
        return tuple(sorted(self._log.tables(self.version if version is None else version)))

    def read(
        self,
        resource_type: str,
        columns: Sequence[str] | None = None,
        bucket: int | None = None,
        version: int | None = None,
        members: pa.Array | None = None,
        *,
        coded: Coded | None = None,
        sparse: bool = False,
        ordered: bool = True,
    ) -> pa.Table:
        """Newest row of each resource, sorted by ``_member`` (nulls last), ``_source``, ``id``.

        Always there are ``_source``, ``id``, ``_member``, ``_bucket`` and ``_last_updated``; ``columns`` adds elements
        in the layout of :func:`fhir_gateway.r4.spec.column_structure`, and ``_raw``, the exact JSON. What was never
        filled is null. Parts of elements are asked for by path (``code.coding.system``): the column then has only
        these. With ``bucket``, only that bucket's members, and with ``members`` only these; types that belong to no
        patient come whole. ``coded`` names paths to codes (``code.coding.code``) and the codes that are wanted there:
        every resource that has one of them is read, of the others any may be left out. ``sparse`` leaves out columns
        and parts of them that nothing read here fills. Who does not mind the order says so with ``ordered``, and waits
        less.
        """
        if resource_type not in spec.resource_types():
            raise InputError(f"{resource_type} is not an R4 resource type")
        schema = layout(resource_type, tuple(dict.fromkeys([*KEY_COLUMNS, *(columns or ())])))
        version = self.version if version is None else version
        state = self._log.tables(version).get(resource_type)
        own = belongs_to_patients(resource_type)
        if state is None or (own and members is not None and not len(members)):
            return _no_rows(schema, sparse)
        count = self.buckets_of(version)
        asked = (bucket, members, coded, sparse, ordered) if own else (None, None, None, sparse, ordered)

        def rows() -> pa.Table:
            try:
                return self._rows(resource_type, schema, state, count, *asked)
            except FileNotFoundError:  # copies that newer ones took the place of: their rows are in what was written
                if not any(file.copy for file in self._table(resource_type).files(state.delta_version)):
                    raise
                files = self._rest(resource_type, version)
                return self._rows(resource_type, schema, replace(state, superseded=True), count, *asked, files)

        return rows() if own else self._kept.get((resource_type, state, tuple(columns or ()), sparse, ordered), rows)

    def _written(self, resource_type: str, version: int) -> tuple[StoredFile, ...]:
        """The files of all commits up to a version, each row once."""
        state = self._log.tables(version).get(resource_type)
        if state is None:
            return ()
        files = {file for file in self._table(resource_type).files(state.delta_version) if not file.copy}
        if state.written is not None:
            files.update(self._written(resource_type, state.written))
        return in_order(files)

    def _rest(self, resource_type: str, version: int) -> tuple[StoredFile, ...]:
        """Files that a version can be read from without the copies of compactions.

        Those of all commits, or what the lake was parted anew into and the files of commits since: their buckets are
        those of the version.
        """
        parted = max((one for one in self._parted() if one <= version), default=0)
        files = set(self._written(resource_type, version))
        if state := self._log.tables(parted).get(resource_type):
            there = self._table(resource_type).files(state.delta_version)
            since = {file for file in files if file.seq > parted or file.bucket == NO_BUCKET}  # nobody's stay there
            files = since | {file for file in there if file.copy and file.seq == parted}
        return in_order(files)

    def _parted(self) -> list[int]:
        """The versions that parted the lake anew."""
        return [one.version for one in self.versions() if one.kind == PARTED]

    def _rows(
        self,
        resource_type: str,
        schema: pa.Schema,
        state: TableState,
        buckets: int,
        bucket: int | None,
        members: pa.Array | None,
        coded: Coded | None,
        sparse: bool,
        ordered: bool,
        files: Sequence[StoredFile] | None = None,
    ) -> pa.Table:
        """The newest rows of a state of a table, or of ``files``."""
        table = self._table(resource_type)
        chosen = _places(resource_type, bucket, members, buckets)
        only = None if members is None else Only("_member", members)
        if not state.superseded:
            parts = table.read(state.delta_version, schema, chosen, only, coded=coded, sparse=sparse, files=files)
            if len(parts) < 2:
                return parts[0] if parts else _no_rows(schema, sparse)  # a file is in reading order
            rows = pa.concat_tables(parts)
            return rows.take(_in_order(rows)) if ordered else rows
        if only is not None or coded is not None:  # what was a member's or so coded may not be now
            keys = pa.schema([schema.field("id")])
            ids = table.read(state.delta_version, keys, chosen, only, coded=coded, files=files)
            only = Only("id", pc.unique(pa.concat_tables(ids)["id"])) if ids else None
            if only is None:
                return _no_rows(schema, sparse)
        full = table_schema(resource_type)
        hidden = [name for name in ("_seq", "_deleted") if name not in schema.names]
        wide = pa.schema([*schema, *map(full.field, hidden)])
        parts = table.read(state.delta_version, wide, chosen, only, sparse=sparse, files=files)
        if not parts:
            return _no_rows(schema, sparse)
        rows = pa.concat_tables(parts)
        newest = _current(rows)
        if ordered and len(parts) > 1:
            newest = newest.take(_in_order(rows.select(["_member", "_source", "id"]).take(newest)))
        rows = rows.drop_columns(hidden).take(newest)
        return rows if members is None else rows.filter(pc.is_in(rows["_member"], value_set=members))

    def history(
        self,
        resource_type: str,
        ids: pa.Array | None = None,
        columns: Sequence[str] = (),
        version: int | None = None,
        since: int | None = None,
    ) -> pa.Table:
        """Every row of the type that was ever written, superseded ones and tombstones too, in no given order.

        Always there are ``_source``, ``id``, ``_member``, ``_bucket``, ``_last_updated``, ``_seq`` and ``_deleted``.
        Only resources with one of ``ids`` and, with ``since``, only what lake versions after that one wrote. A row of a
        resource that moved to another bucket says in the old one that it left, in the same version.
        """
        schema = self.journal_schema(resource_type, columns)
        version = self.version if version is None else version
        state = self._log.tables(version).get(resource_type)
        if state is None:
            return schema.empty_table()
        table, written = self._table(resource_type), self._written(resource_type, version)
        if since is None and (ids is None or len(ids) <= FEW):  # what is asked for again and again
            only = None if ids is None else Only("id", pc.unique(ids))
            return pa.concat_tables(
                [schema.empty_table(), *table.read(state.delta_version, schema, lambda _: True, only, files=written)]
            )
        files = [file for file in written if since is None or file.seq > since]
        if ids is None:
            parts = [stored_rows(file.path, file.bucket, schema) for file in files]
        else:
            parts = [rows for file in files for rows in rows_with(file, schema, pc.unique(ids))]
        return pa.concat_tables([schema.empty_table(), *parts])

    def journal(self, resource_type: str, version: int | None = None) -> list[Sheet]:
        """The files of the type as they were written, the newest first; to be read with :mod:`lake.journal`."""
        return sheets(resource_type, self._written(resource_type, self.version if version is None else version))

    @staticmethod
    def journal_schema(resource_type: str, columns: Sequence[str] = ()) -> pa.Schema:
        """What is always there of a row that was written, and ``columns``."""
        return layout(resource_type, tuple(dict.fromkeys([*KEY_COLUMNS, "_seq", "_deleted", *columns])))

    def texts(self, resource_type: str, rows: pa.Table, version: int | None = None) -> pa.Table:
        """Some rows that :meth:`read` gave, with ``_seq``, and their ``_raw``; only files that hold some are opened."""
        schema = layout(resource_type, (*KEY_COLUMNS, "_seq", "_raw"))
        found = self.streamed(resource_type, rows.select(["_source", "id", "_bucket", "_seq"]), version)
        return pa.concat_tables([schema.empty_table(), *(one.select(schema.names) for one in found)])

    def streamed(self, resource_type: str, rows: pa.Table, version: int | None = None) -> Iterator[pa.Table]:
        """The same, a row group at a time, with what else ``rows`` has."""
        if rows.num_rows:
            written = self._written(resource_type, self.version if version is None else version)
            schema = self.journal_schema(resource_type, ["_raw"])
            yield from rows_like(written, schema, rows, self.buckets_of)

    def rows(self, version: int | None = None) -> int:
        """How many rows of patients there are of all types, superseded ones too: a measure of what evaluating takes."""
        tables = self._log.tables(self.version if version is None else version)
        return sum(
            file.rows
            for name, state in tables.items()
            if belongs_to_patients(name)
            for file in self._table(name).files(state.delta_version)
        )

    def changes(self, since: int, version: int | None = None) -> Changes:
        """Whose data is other in ``version`` (default: the newest) than it was in the version ``since``."""
        version = self.version if version is None else version
        known = self._changes.get((since, version))
        if known is not None:
            return known
        before = self._log.tables(since)
        other = (name for name, state in self._log.tables(version).items() if state != before.get(name))
        found = changed(((self._table(name), self._written(name, version)) for name in other), since)
        if len(found.members) <= _MOST_CHANGED:  # evaluation, claim lines and attribution of a day ask alike
            self._changes = {(since, version): found, **dict([*self._changes.items()][:3])}
        return found

    def members(self, bucket: int | None = None, version: int | None = None) -> pa.Array:
        """Persons with a Patient row, sorted."""
        found = pc.unique(self.read("Patient", bucket=bucket, version=version)["_member"]).drop_null()
        return found.take(pc.sort_indices(found))

    def quarantined(self, pull_id: str | None = None) -> list[QuarantinedLine]:
        """Refused lines of a pull, or of all pulls, oldest first; without those that a replay has taken in."""
        return [
            line
            for version in self._quarantines(pull_id)
            if version.quarantine is not None
            for line in read_quarantine(self._log.folder / version.quarantine)
        ]

    def _quarantines(self, pull_id: str | None) -> list[LakeVersion]:
        """Versions whose refused lines are those of a pull (or of all), a replay in the place of what it replayed."""
        standing: dict[int, tuple[str, LakeVersion]] = {}
        for version in self.versions():
            pull = version.pull_id
            if version.replays is not None:
                pull, _ = standing.pop(version.replays)
            standing[version.version] = pull, version
        return [version for pull, version in standing.values() if pull_id in (None, pull)]


def _no_rows(schema: pa.Schema, sparse: bool) -> pa.Table:
    """An empty table; a sparse one has only our own columns, since nothing fills the others."""
    kept = [field for field in schema if not sparse or field.name == "id" or field.name.startswith("_")]
    return pa.schema(kept).empty_table()


def _places(resource_type: str, bucket: int | None, members: pa.Array | None, buckets: int) -> Callable[[int], bool]:
    """Which buckets to read."""
    if not belongs_to_patients(resource_type) or (bucket is None and members is None):
        return lambda place: True
    places = set(range(buckets)) if bucket is None else {bucket}
    if members is not None:
        places &= {bucket_of(member, buckets) for member in members.to_pylist()}
    return places.__contains__


def _current(rows: pa.Table) -> pa.Array:
    """Row numbers of the newest row of each resource that is not gone, in the order of ``rows``.

    A resource that moved has a row in its old bucket that says so: the newest of each bucket counts.
    """
    ids = rows["id"].combine_chunks().dictionary_encode().indices.to_numpy()
    kept = np.ones(len(ids), dtype=bool)
    again = np.flatnonzero((np.bincount(ids) > 1)[ids]) if len(ids) else np.empty(0, np.int64)
    if len(again):  # few, as a rule
        sources = rows["_source"].combine_chunks().cast(pa.string()).dictionary_encode().indices.to_numpy()[again]
        buckets, seqs = (rows[name].to_numpy()[again] for name in ("_bucket", "_seq"))
        keys = np.stack([ids[again].astype(np.int64), sources.astype(np.int64), buckets.astype(np.int64)])
        order = np.lexsort((-seqs, *keys))
        older = np.zeros(len(again), dtype=bool)
        older[order[1:]] = (keys[:, order[1:]] == keys[:, order[:-1]]).all(axis=0)
        kept[again] = ~older
    return pc.indices_nonzero(pc.and_not(pa.array(kept), rows["_deleted"].combine_chunks()))


def _in_order(rows: pa.Table) -> pa.Array:
    """Row numbers in reading order."""
    keys = rows.select(["_member", "_source", "id"])
    if rows.num_rows < _FEW_TO_SORT:
        keys = keys.set_column(1, "_source", keys["_source"].cast(pa.string()))
        return pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])  # nulls come last
    keys = keys.append_column("i", pa.array(np.arange(rows.num_rows, dtype=np.int64)))
    with duckdb.connect() as connection:
        connection.register("keys", keys)
        ordered = connection.sql("select i from keys order by _member nulls last, _source, id")
        return ordered.to_arrow_table()["i"].combine_chunks()
