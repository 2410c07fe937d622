"""The lake: pulls go in, versions of typed tables come out."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from fhir_gateway.errors import ConfigurationError, ConflictError, InputError, Location
from fhir_gateway.lake.compacting import copied, in_buckets
from fhir_gateway.lake.lines import read_blocks
from fhir_gateway.lake.links import read_links, update_links
from fhir_gateway.lake.object_tables import open_table
from fhir_gateway.lake.persons import PersonAssigner
from fhir_gateway.lake.places import Place, below, content, keep, names, place_of, publish, remove
from fhir_gateway.lake.quarantine import read_quarantine
from fhir_gateway.lake.snapshots import Snapshots
from fhir_gateway.lake.tables import COPY, NO_BUCKET, StoredFile
from fhir_gateway.lake.versions import LOG_FOLDER, PARTED, Guard, LakeVersion, TableState, VersionLog, no_guard
from fhir_gateway.r4 import spec
from fhir_gateway.sources.models import Ledger, StagedPull

if TYPE_CHECKING:  # and where it is used: the compiler of the walk takes a second and 110 MB, and readers need none
    from fhir_gateway.lake.replay import Edits, Replay
    from fhir_gateway.lake.staging import Progress

#: Member buckets of a new lake at least, where nobody says how many; and of any lake at most.
BUCKETS = 8
MOST_BUCKETS = 4096
#: Members that a bucket is meant for: what is computed bucket by bucket takes some hundred MB for so many.
MEMBERS_OF_A_BUCKET = 12_500
_FORMAT = 1
#: How often a commit begins anew when another writer was first.
_ATTEMPTS = 5
#: Tables of an object storage that are looked at at once.
_AT_ONCE = 16
#: Files of a bucket that are worth being put together.
COMPACTED = 8
#: Seconds after which a file that no version names is taken for that of a writer that was killed.
ORPHANED = 86_400.0


@dataclass(frozen=True, slots=True)
class Compacted:
    """A table that rests on fewer files now."""

    resource_type: str
    files_before: int
    files: int


class Lake(Snapshots):
    """Delta tables, one per resource type, with versions, in a folder or on object storage. Made by :meth:`open`.

    Here is how versions are made; how they are read is in :class:`Snapshots`.
    """

    def __init__(
        self, root: Place, buckets: int, scratch: Path | None = None, guard: Guard = no_guard, *, chosen: bool = False
    ) -> None:
        """``chosen``: the first pull may have more buckets made."""
        super().__init__(root, buckets, VersionLog(root / LOG_FOLDER, guard))
        self._scratch = scratch
        self._chosen = chosen

    @classmethod
    def open(
        cls, url: str | Path, buckets: int | None = None, *, scratch: Path | None = None, guard: Guard = no_guard
    ) -> Lake:
        """Open the lake in a folder (path or ``file://`` URL) or on object storage, creating it when absent.

        A lake on object storage needs a local folder while it writes, ``scratch`` (by default a temporary one), and
        should have a ``guard`` that keeps writers waiting for each other: without, the second begins anew.

        Without ``buckets`` a lake keeps the number that it has; of a new one the first pull decides, by its patients
        (:func:`buckets_for`). ConfigurationError when it exists with another number of buckets than asked for, or rests
        where it cannot.
        """
        root = place_of(url)
        about = root / LOG_FOLDER / "lake.json"
        try:
            stated = json.loads(content(about))
        except FileNotFoundError:
            if isinstance(about, Path):
                about.parent.mkdir(parents=True, exist_ok=True)
            made = BUCKETS if buckets is None else buckets
            open_ = {"chosen": True} if buckets is None else {}  # by the first pull
            publish(about, json.dumps({"format": _FORMAT, "buckets": made} | open_).encode())
            return cls(root, made, scratch, guard, chosen=buckets is None)
        if stated["format"] != _FORMAT:
            raise ConfigurationError(f"the lake has format {stated['format']}, this program reads {_FORMAT}")
        lake = cls(root, stated["buckets"], scratch, guard, chosen=stated.get("chosen", False))
        if buckets not in (None, stated["buckets"]) and buckets != lake.buckets:
            raise ConfigurationError(f"the lake was made with {stated['buckets']} buckets, not {buckets}")
        return lake

    @classmethod
    def existing(cls, url: str) -> Lake:
        """Open a lake that another process made: ConfigurationError when it is not there, and none is made."""
        try:
            content(place_of(url) / LOG_FOLDER / "lake.json")
        except FileNotFoundError:
            raise ConfigurationError(
                "there is no lake here: every machine has to see it under the same path or URL", location=Location(url)
            ) from None
        return cls.open(url)

    @property
    def url(self) -> str:
        """Where the lake is, for another process to open it."""
        return str(self.root.resolve() if isinstance(self.root, Path) else self.root)

    @contextmanager
    def standing_still(self) -> Iterator[int]:
        """The version that stays the newest for as long as this is held: commits wait."""
        with self._log.writing():
            yield self.version

    def commit(
        self,
        pull: StagedPull,
        persons: PersonAssigner,
        progress: Progress | None = None,
        deletions: Mapping[str, Collection[str]] | None = None,
    ) -> Ledger:
        """Take in a pull, all or nothing, and return its ledger; a pull that is already in changes nothing.

        ``deletions`` are ids by resource type that the source says are gone: their rows are no longer read from this
        version on, unless the pull brings them itself. The ledger counts them as ``rows_deleted``.

        Lines that are not valid go to quarantine. InputError when a file cannot be read to its end, LedgerError when
        the counts do not balance; then the lake is as before. ``progress(resource_type, lines_done)`` is called
        while reading.
        """
        with self._log.writing():
            for attempt in range(_ATTEMPTS):
                done = self._log.of_pull(pull.id)
                if done is not None:
                    return done.ledger
                try:
                    return self._commit(pull, persons, progress, deletions=deletions or {})
                except ConflictError:  # another writer, whom no guard kept waiting, was first
                    if attempt + 1 == _ATTEMPTS:
                        raise
            raise AssertionError("unreachable")

    def replay(
        self, pull_id: str, persons: PersonAssigner, edits: Edits | None = None, progress: Progress | None = None
    ) -> Ledger | None:
        """Check the refused lines of a pull again, and take in those that pass now; None when it has none.

        ``edits`` puts other text in the place of lines, by file name and line number. That is a version and a ledger of
        its own: what is refused again stays in quarantine under its file and line. A line is as old as its pull: what
        came or was deleted since is not overwritten, unless ``meta`` says that the line is newer.
        """
        from fhir_gateway.lake.replay import Replay  # local: it brings the compiler

        with self._log.writing():
            version = next(iter(self._quarantines(pull_id)), None)  # one: a pull is one version, a replay stands for it
            if version is None or version.quarantine is None:
                return None
            lines = read_quarantine(self._log.folder / version.quarantine)
            again = StagedPull(f"{pull_id}~{self._log.latest + 1}", version.source, "replay", None, ())
            return self._commit(again, persons, progress, replay=Replay(version.version, lines, edits or {}))

    def _commit(
        self,
        pull: StagedPull,
        persons: PersonAssigner,
        progress: Progress | None,
        *,
        deletions: Mapping[str, Collection[str]] = MappingProxyType({}),
        replay: Replay | None = None,
    ) -> Ledger:
        """Make the next version; the caller holds the writer's place."""
        from fhir_gateway.lake.commit import Commit  # local: it brings the compiler

        base = self._log.latest
        self._roll_back(base)
        buckets = self.buckets_of(base)
        if base == 0 and self._chosen:
            buckets = buckets_for(_patients(pull), buckets)
        with self._scratch_folder() as folder:
            commit = Commit(
                self.root,
                self._log,
                base,
                buckets,
                folder,
                pull,
                persons,
                progress,
                deletions,
                replay,
                self._tables,
            )
            try:
                manifest = replace(commit.run(), buckets=None if buckets == self._founded else buckets)
                self._log.add(manifest)
            except BaseException:
                self._tables = {}  # they know of files that no manifest names
                raise
        return manifest.ledger

    def compact(self, most: int = COMPACTED) -> tuple[Compacted, ...]:
        """Where a bucket of a table rests on ``most`` files or more, lay its rows that count down once more, in order.

        Each table becomes a version of its own, of kind ``compact``: whoever is killed goes on with the next one. What
        is read does not change, of no version; history is read from the files that commits wrote.
        """
        done = []
        with self._log.writing():
            for name in self.types():
                base = self._log.latest
                self._roll_back(base)
                many = _of_buckets(self._table(name).files(self._log.tables(base)[name].delta_version), most)
                if not many:
                    continue
                with self._scratch_folder() as folder, self._forgetting():
                    state, one = self._laid_down(name, many, base, folder)
                    self._log.add(self._upkeep("compact", base, {name: state}))
                done.append(one)
        return tuple(done)

    def rebucket(self, buckets: int | None = None) -> tuple[Compacted, ...]:
        """Part the lake's members into so many buckets (by default :meth:`advised`), a multiple of those there are.

        That is one version, of kind ``rebucket``, of copies as compaction makes them: readers are on theirs until it is
        there, and whoever is killed before has done nothing. What is read does not change, of no version. InputError
        for a number that the buckets cannot be parted into.
        """
        with self._log.writing():
            base = self._log.latest
            before = self.buckets_of(base)
            buckets = self.advised() if buckets is None else buckets
            if buckets == before:
                return ()
            if base == 0:
                raise InputError("the lake is empty: it is parted by its first pull, or by FHIR_GATEWAY_LAKE_BUCKETS")
            if buckets < before or buckets % before or buckets > MOST_BUCKETS:
                raise InputError(f"{before} buckets are parted into a multiple of them, at most {MOST_BUCKETS}")
            self._roll_back(base)
            states, done = {}, []
            with self._scratch_folder() as folder, self._forgetting():
                for name, state in self._log.tables(base).items():
                    of_members = _of_buckets(
                        [one for one in self._table(name).files(state.delta_version) if one.bucket != NO_BUCKET], 1
                    )
                    if of_members:
                        states[name], one = self._laid_down(name, of_members, base, folder, buckets)
                        done.append(one)
                made = self._upkeep(PARTED, base, states)
                links = self._links_in(made, buckets, folder) if made.links else None
                self._log.add(replace(made, buckets=buckets, links=links))
        return tuple(done)

    def advised(self) -> int:
        """How many buckets the lake should have by its members: never fewer than it has."""
        present = self.buckets
        state = self._log.tables(self.version).get("Patient")
        files = self._table("Patient").files(state.delta_version) if state else ()
        if sum(file.rows for file in files) <= present * MEMBERS_OF_A_BUCKET:  # there are not more members than rows
            return present
        return buckets_for(len(self.members()), present)

    def _laid_down(
        self, name: str, many: Sequence[Sequence[StoredFile]], base: int, folder: Path, buckets: int | None = None
    ) -> tuple[TableState, Compacted]:
        """A table whose buckets ``many`` rest on copies of their rows that count, in the version after ``base``."""
        table, state = self._table(name), self._log.tables(base)[name]
        copies = [copied(table, files, base + 1, folder, buckets) for files in many]
        added = [file for one in copies for file in one.files]
        removed = [file for files in many for file in files]
        left = len(table.files(state.delta_version)) > len(removed)
        superseded = state.superseded and (left or any(one.tombstones for one in copies))
        made = TableState(table.change(added, removed), superseded, base)
        return made, Compacted(name, len(removed), len(added))

    def _upkeep(self, kind: str, base: int, states: Mapping[str, TableState]) -> LakeVersion:
        """The version after ``base`` that differs in nothing but what tables rest on."""
        before, pull = self._log.get(base), f"{kind}-{base + 1}"
        return replace(
            before,
            version=base + 1,
            pull_id=pull,
            source="lake",
            kind=kind,
            transaction_time=None,
            tables={**before.tables, **states},
            ledger=Ledger(pull, "lake", ()),
            quarantine=None,
            replays=None,
        )

    def _links_in(self, made: LakeVersion, buckets: int, folder: Path) -> str:
        """The links of a version with the buckets of so many, kept; the name of the file."""
        links = read_links(self._log.folder / str(made.links))
        pq.write_table(in_buckets(links, buckets), folder / "links.parquet", compression="zstd")
        target = self._log.folder / f"links-{made.version:08d}-{uuid.uuid4().hex[:12]}.parquet"
        keep(folder / "links.parquet", target)
        return target.name

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """Tables forget files that no manifest names, when the version that would name them fails."""
        try:
            yield
        except BaseException:
            self._tables = {}
            raise

    def retain(self, age: float = ORPHANED) -> int:
        """Remove files that nobody needs: copies that newer ones took the place of, and what killed writers left.

        The latter when they are ``age`` seconds old. Every version can be read as before, from the files that commits
        wrote. Returns how many files were removed; whoever is killed removes the rest the next time.
        """
        removed = 0
        with self._log.writing():
            latest, now = self._log.latest, time.time()
            for name, state in self._log.tables(latest).items():
                table = self._table(name)
                files = (*table.files(state.delta_version), *self._written(name, latest), *self._parted_files(name))
                needed = {table.path_of(file) for file in files}
                for path, written in below(table.path):
                    if not path.endswith(".parquet") or path in needed:
                        continue
                    if now - written > age or path.rpartition("/")[2].startswith(f"{COPY}-"):
                        remove(table.path / path)
                        removed += 1
        return removed

    def _parted_files(self, name: str) -> Iterator[StoredFile]:
        """What the lake was parted anew into: versions since are read from it where their copies are gone."""
        for version in self._parted():
            if state := self._log.tables(version).get(name):
                yield from self._table(name).files(state.delta_version)

    @contextmanager
    def _scratch_folder(self) -> Iterator[Path]:
        """A folder for what a writer needs while it writes; the caller holds the writer's place."""
        scratch = self._log.folder / "scratch" if isinstance(self._log.folder, Path) else self._scratch
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def reassign(self, persons: PersonAssigner) -> int:
        """Move the rows of patients who became another person since the last commit; returns how many patients.

        That is a version of its own, of kind ``persons``, without lines; when nobody moved there is none.
        """
        base = self._log.latest
        before = self._log.get(base) if base else None
        nobody = pa.table({"_patient": pa.array([], pa.string()), "_member": pa.array([], pa.string())})
        known = read_links(self._log.folder / before.links if before and before.links else None)
        mark = before.persons if before else None
        links = update_links(known, "", pa.array([], pa.string()), nobody, persons, self.buckets, mark)
        moved = int(links.moved.num_rows)
        if moved:
            self.commit(StagedPull(f"persons-{base + 1}", "persons", "persons", None, ()), persons)
        return moved

    def _roll_back(self, base: int) -> None:
        """Undo table commits of an interrupted commit: nothing is in the lake that no manifest names."""
        states = self._log.tables(base)
        if isinstance(self.root, Path):
            for name in names(self.root):
                if name in spec.resource_types():
                    state = states.get(name)
                    if open_table(self.root, name).roll_back(state.delta_version if state else None):
                        self._tables.pop(name, None)
            return
        here = [name for name in names(self.root) if name in spec.resource_types()]

        def look(name: str) -> None:
            state = states.get(name)
            self._table(name).roll_back(state.delta_version if state else None)

        with ThreadPoolExecutor(_AT_ONCE) as pool:  # each takes a journey or two
            list(pool.map(look, here))


def buckets_for(members: int, present: int = BUCKETS) -> int:
    """How many buckets so many members should lie in: ``present``, or that doubled until they fit."""
    buckets = present
    while members > buckets * MEMBERS_OF_A_BUCKET and 2 * buckets <= MOST_BUCKETS:
        buckets *= 2
    return buckets


def _patients(pull: StagedPull) -> int:
    """How many patients a pull brings, as far as its files tell."""
    return sum(
        file.expected_count or sum(block.count for block in read_blocks(file))
        for file in pull.files
        if file.resource_type == "Patient" or (file.resource_type is None and file.name.startswith("Patient"))
    )


def _of_buckets(files: Sequence[StoredFile], most: int) -> list[list[StoredFile]]:
    """The files of each bucket that rests on so many."""
    found: dict[int, list[StoredFile]] = {}
    for file in files:
        found.setdefault(file.bucket, []).append(file)
    return [there for there in found.values() if len(there) >= most]
