"""Lake versions: one JSON manifest each, written as the last step of a commit.

A manifest names the Delta version of every table, so readers see either all of a commit or nothing of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fhir_gateway.errors import NotFoundError
from fhir_gateway.lake.places import ObjectPath, Place, content, exists, names, publish
from fhir_gateway.sources.models import Ledger, LedgerEntry

try:
    import fcntl
except ImportError:  # pragma: no cover - only where there is no POSIX
    fcntl = None  # type: ignore[assignment]

LOG_FOLDER = "_lake"
#: Kind of the versions that part the lake into more buckets.
PARTED = "rebucket"
_NAME = re.compile(r"v([0-9]{8,})\.json")
#: Manifests that are fetched from an object storage at once.
_AT_ONCE = 16

#: Holds a lock of the name given, that all processes know of and that ends with its holder.
Guard = Callable[[str], AbstractContextManager[None]]


def no_guard(name: str) -> AbstractContextManager[None]:
    """Nobody waits: of two who write at once, the storage lets one be first and the other begins anew."""
    return nullcontext()


@dataclass(frozen=True, slots=True)
class TableState:
    """A table in a lake version: its Delta version, and whether some row supersedes another.

    ``written`` is the lake version before the last compaction: its files, and those that commits wrote since, are all
    that was ever written.
    """

    delta_version: int
    superseded: bool
    written: int | None = None


@dataclass(frozen=True, slots=True)
class LakeVersion:
    """What one commit made of the lake. ``quarantine`` and ``links`` are file names beside the manifest.

    ``persons`` is the mark of the assigner whose answers the links are.

    ``buckets`` is how many there are since the lake was parted anew; None: as many as it was founded with.

    ``replays`` is the version whose refused lines this one took in again: its quarantine stands in the place of that
    one's.
    """

    version: int
    pull_id: str
    source: str
    kind: str
    transaction_time: str | None
    committed_at: str
    tables: Mapping[str, TableState]
    ledger: Ledger
    quarantine: str | None
    links: str | None
    replays: int | None = None
    persons: str | None = None
    buckets: int | None = None


def manifest_number(path: Path) -> int | None:
    """The version whose manifest a file of the lake is, by its path below the lake's root; None of other files."""
    named = _NAME.fullmatch(path.name) if path.parent == Path(LOG_FOLDER) else None
    return int(named[1]) if named else None


class VersionLog:
    """The manifests of a lake, in its folder ``_lake``.

    In a folder, locked files keep writers one at a time. On object storage ``guard`` does, where there is one, and that
    a manifest is only written where there is none decides between writers whom no guard kept apart.
    """

    def __init__(self, folder: Place, guard: Guard = no_guard) -> None:
        self.folder = folder
        self._guard = guard
        self._known: dict[int, LakeVersion] = {}
        self._newest = 0  # as far as we have seen; manifests stay

    @property
    def latest(self) -> int:
        """Newest version; 0 when the lake is empty."""
        if isinstance(self.folder, Path) or not self._newest:
            found = (named[1] for name in names(self.folder) if (named := _NAME.fullmatch(name)))
            self._newest = max(map(int, found), default=0)
            return self._newest
        newest = self._newest
        while exists(self._manifest(newest + 1)):
            newest += 1
        self._newest = newest
        return newest

    def _manifest(self, version: int) -> Place:
        return self.folder / f"v{version:08d}.json"

    def get(self, version: int) -> LakeVersion:
        """The manifest of a version; NotFoundError when there is none."""
        if version not in self._known:
            try:
                self._known[version] = _decoded(json.loads(content(self._manifest(version))))
            except FileNotFoundError as error:
                raise NotFoundError(f"the lake has no version {version}") from error
        return self._known[version]

    def tables(self, version: int) -> Mapping[str, TableState]:
        """Tables of a version; none in version 0."""
        return self.get(version).tables if version else {}

    def all(self) -> tuple[LakeVersion, ...]:
        """Every version, oldest first."""
        versions = range(1, self.latest + 1)
        unknown = [version for version in versions if version not in self._known]
        if isinstance(self.folder, ObjectPath) and len(unknown) > 1:  # each takes a journey
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(self.get, unknown))
        return tuple(map(self.get, versions))

    def of_pull(self, pull_id: str) -> LakeVersion | None:
        """The version that committed a pull; None when it was never committed."""
        return next((version for version in self.all() if version.pull_id == pull_id), None)

    def add(self, version: LakeVersion) -> None:
        """Publish a version, as committed now; ConflictError when another writer published that version before."""
        with self._locked("publishing"):
            stamped = replace(version, committed_at=datetime.now(UTC).isoformat())
            publish(self._manifest(version.version), json.dumps(_encoded(stamped), indent=1, sort_keys=True).encode())

    def settled(self) -> int:
        """Newest version, once none is being published: one that comes later is committed later than this was asked."""
        with self._locked("publishing"):
            return self.latest

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lake's only writer's place; waits for another writer to finish."""
        with self._locked("lock"):
            yield

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        if isinstance(self.folder, ObjectPath):
            with self._guard(name):
                yield
            return
        with (self.folder / name).open("w") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _encoded(version: LakeVersion) -> dict[str, Any]:
    row = asdict(version)
    if version.buckets is None:  # programs from before lakes were parted anew read the others
        del row["buckets"]
    return row


def _decoded(row: dict[str, Any]) -> LakeVersion:
    ledger = row["ledger"]
    entries = tuple(LedgerEntry(**entry) for entry in ledger["entries"])
    return LakeVersion(
        **{
            **row,
            "tables": {name: TableState(**state) for name, state in row["tables"].items()},
            "ledger": Ledger(ledger["pull_id"], ledger["source"], entries),
        }
    )
