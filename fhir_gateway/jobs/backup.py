"""A backup: the control plane and the lake of one moment, with every file that they speak of.

The moment is one in which nobody commits to the lake. The control plane is copied first, in one snapshot; it speaks
of no lake version and of no run whose files are not there yet. Files are never changed in place, so what is copied
afterwards has at least what the snapshot knows; manifests of later lake versions are left out, and what belongs to them
is to the restored lake what a commit leaves that was killed before its last step.

``backup.json`` is written last: a folder without it is no backup. It has the SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect
from sqlalchemy.engine import make_url

from fhir_gateway.config import Settings
from fhir_gateway.db.engine import create_engine
from fhir_gateway.errors import ConfigurationError, Location
from fhir_gateway.lake.places import Place, below, keep, names, opened_to_copy, place_of, replace_file
from fhir_gateway.lake.versions import manifest_number

if TYPE_CHECKING:
    from fhir_gateway.factory import Gateway

MANIFEST = "backup.json"
_FORMAT = 1
#: With SQLite, in the order in which they are copied: what jobs have done is in the control plane before they say so. A
#: copy of the file alone may be half of a transaction.
_DATABASES = ("jobs.db", "control.db")
_DUMP = "database.dump"
_DATA, _LAKE = "data", "lake"
_KEY = "encryption.key"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds. ``files`` is by path below the folder: bytes and SHA-256."""

    format: int
    engine_version: str
    made_at: str
    database: str
    lake_version: int
    with_key: bool
    files: dict[str, tuple[int, str]]


def backup(gateway: Gateway, folder: Path, *, key: bool = True) -> Backup:
    """Copy everything into a folder that is not there yet, or empty.

    Without ``key`` the key that secrets are encrypted with is left out: who restores must have it.
    ConfigurationError when the folder holds something, or ``pg_dump`` is missing or fails.
    """
    _empty(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _ = gateway.engine  # a control plane of an older release is brought to this one first
    with gateway.lake.standing_still() as lake_version:
        kind = _save_database(gateway, folder)
    lake_root = gateway.lake.root
    files: dict[str, tuple[int, str]] = {}
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        path.chmod(0o600)
        files[path.relative_to(folder).as_posix()] = _digested(path)
    apart = (lake_root, folder) if isinstance(lake_root, Path) else (folder,)
    for path in _files(gateway.data_folder, apart):
        name = path.relative_to(gateway.data_folder)
        if name.name in {*_DATABASES, *(f"{one}{end}" for one in _DATABASES for end in ("-wal", "-shm", "-journal"))}:
            continue
        if name.parts[0] == "locks" or (not key and name.as_posix() == _KEY):
            continue
        _copy(path, folder, f"{_DATA}/{name.as_posix()}", files)
    for below_root, _ in below(lake_root):
        if (manifest_number(Path(below_root)) or 0) <= lake_version:
            _copy(lake_root / below_root, folder, f"{_LAKE}/{below_root}", files)
    now = datetime.now(UTC).isoformat()
    made = Backup(_FORMAT, installed("fhir-gateway"), now, kind, lake_version, key, dict(sorted(files.items())))
    replace_file(folder / MANIFEST, json.dumps(asdict(made), indent=1).encode())
    (folder / MANIFEST).chmod(0o600)
    return made


def read_backup(folder: Path) -> Backup:
    """What the folder says that it holds; ConfigurationError when it is no whole backup."""
    try:
        stated: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise _wrong(folder, f"no backup, or one that was not finished: there is no {MANIFEST}") from None
    except ValueError:
        raise _wrong(folder / MANIFEST, "is not what a backup wrote") from None
    if stated.get("format") != _FORMAT:
        raise _wrong(folder / MANIFEST, f"has format {stated.get('format')}, this program reads {_FORMAT}")
    return Backup(**{**stated, "files": {name: (size, digest) for name, (size, digest) in stated["files"].items()}})


def verify(folder: Path) -> Backup:
    """Compare every file with its SHA-256; ConfigurationError names those that are missing or changed."""
    found = read_backup(folder)
    wrong = []
    for name, stated in found.files.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif _digested(path) != stated:
            wrong.append(f"{name} has changed")
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise _wrong(folder, f"the backup is damaged: {'; '.join(wrong[:10])}{more}")
    return found


def restore(folder: Path, settings: Settings) -> Backup:
    """Put a backup into the data folder, lake and database that the settings name; all must be empty.

    ConfigurationError for a damaged backup, one of another kind of database, and places that hold something: nothing
    is written then.
    """
    found = verify(folder)
    data, lake = settings.data_dir.resolve(), place_of(settings.resolved_lake_url)
    kind = make_url(settings.resolved_database_url).get_backend_name()
    if kind != found.database:
        raise ConfigurationError(f"the backup is of a control plane on {found.database}, the settings name {kind}")
    _empty(data)
    if isinstance(lake, Path):
        _empty(lake)
    elif names(lake):
        raise ConfigurationError(f"{lake} holds something; name a prefix that is empty")
    if kind == "postgresql":
        engine = create_engine(settings.resolved_database_url)
        try:
            if inspect(engine).get_table_names():
                raise ConfigurationError("the database of the settings is not empty")
        finally:
            engine.dispose()
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in found.files:
        part, _, rest = name.partition("/")
        if part == _LAKE and not isinstance(lake, Path):
            keep(folder / name, lake / rest, move=False)
        elif part in (_DATA, _LAKE):
            target = (data if part == _DATA else Path(str(lake))) / rest
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(folder / name, target)
            target.chmod(0o600)
    if kind == "postgresql":
        whole = ("--no-owner", "--exit-on-error", "--single-transaction")
        _postgresql(settings, "pg_restore", *whole, "-d", "{}", str(folder / _DUMP))
    return found


def _save_database(gateway: Gateway, folder: Path) -> str:
    kind = gateway.engine.dialect.name
    if kind == "postgresql":
        _postgresql(gateway.settings, "pg_dump", "--format=custom", "--no-owner", "-f", str(folder / _DUMP), "-d", "{}")
        return kind
    control = Path(str(gateway.engine.url.database))
    (folder / _DATA).mkdir(mode=0o700)
    for name in _DATABASES:
        path = control if name == "control.db" else gateway.data_folder / name
        if path.exists():
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(folder / _DATA / name)) as target:
                source.backup(target)
    return kind


def _postgresql(settings: Settings, program: str, *arguments: str) -> None:
    """Run a client program of PostgreSQL; the password goes by the environment, never into the list of processes."""
    url = make_url(settings.resolved_database_url)
    place = url.set(drivername="postgresql", password=None).render_as_string()
    environment = {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}
    try:
        done = subprocess.run(  # noqa: S603 - fixed programs, arguments of ours
            [program, *(place if one == "{}" else one for one in arguments)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigurationError(
            f"{program} is not installed; it comes with the client programs of PostgreSQL"
        ) from None
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if line.strip()), "no reason given")
        raise ConfigurationError(f"{program} failed: {first.split('DETAIL')[0][:300]}")


def _files(root: Path, without: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Files below a folder, in order; not those of other folders that lie in it."""
    apart = {one.resolve() for one in without}
    for top, folders, inside in os.walk(root):
        here = Path(top)
        folders[:] = sorted(name for name in folders if (here / name).resolve() not in apart)
        yield from (here / name for name in sorted(inside))


def _copy(path: Place, folder: Path, name: str, files: dict[str, tuple[int, str]]) -> None:
    """Copy one file and note its digest; one that was deleted meanwhile was not of the moment's state for long."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest, size = hashlib.sha256(), 0
    try:
        with opened_to_copy(path) as source, target.open("wb") as copy:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                size += copy.write(chunk)
    except FileNotFoundError:
        return
    target.chmod(0o600)
    files[name] = (size, digest.hexdigest())


def _digested(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _wrong(folder, "holds something; name a folder that is empty or not there")


def _wrong(path: Path, message: str) -> ConfigurationError:
    return ConfigurationError(message, location=Location(file=str(path)))
