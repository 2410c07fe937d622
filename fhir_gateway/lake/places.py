"""Where the lake's files are: paths of a local folder, or keys of an object storage.

Both are used alike: joined with ``/``, read from any place in them, written whole or not at all. Objects go through one
library (obstore, ADR 0269), made of the same code as what reads and writes the Delta logs, and set up by the same
environment: credentials, region and endpoint come from variables and instance roles, never from the URL, for URLs are
shown.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pyarrow as pa

from fhir_gateway.errors import ConfigurationError, ConflictError, StorageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

#: Kinds of URL that name an object storage.
SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
#: How often a request is tried again, and for how long in all; each pause is longer than the one before.
RETRIES = 10
RETRY_TIME = timedelta(minutes=2)
#: Requests that are under way at once.
_JOURNEYS = 16

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, order=True)
class ObjectPath:
    """A key of an object storage, or a prefix of keys; with the words of :class:`pathlib.Path`."""

    base: str  # scheme and bucket, as in s3://bucket
    key: str = ""

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.base, f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return f"{self.base}/{self.key}" if self.key else self.base

    @property
    def name(self) -> str:
        """What is behind the last slash."""
        return self.key.rpartition("/")[2]

    def relative_to(self, above: ObjectPath) -> PurePosixPath:
        """What is behind a prefix of this key."""
        return PurePosixPath(self.key).relative_to(above.key)


Place = Path | ObjectPath


def place_of(url: str | Path) -> Place:
    """The place that a path or URL names; ConfigurationError for a URL that the lake cannot rest at."""
    text = str(url)
    parts = urlsplit(text)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    if "://" not in text:
        return Path(text)
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ConfigurationError(f"the lake rests in a folder or at one of {known}, not at {parts.scheme}://")
    # abfss://container@account.dfs.core.windows.net names no user
    if parts.password or parts.query or parts.fragment or (parts.username and parts.scheme in ("s3", "s3a", "gs")):
        raise ConfigurationError("the lake's URL holds no credentials or options: they come from the environment")
    if not parts.netloc:
        raise ConfigurationError(f"the lake's URL names no bucket: {parts.scheme}://bucket/prefix")
    return ObjectPath(f"{parts.scheme}://{parts.netloc}", parts.path.strip("/"))


def _endpoint_is_plain() -> bool:
    """Whether the environment leads to a storage without TLS: one's own, and said so."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
    return next((value.startswith("http://") for name in names if (value := os.environ.get(name))), False)


@lru_cache(maxsize=8)
def _store(base: str) -> ObjectStore:
    from obstore.store import from_url

    try:
        return from_url(
            base,
            client_options={"allow_http": _endpoint_is_plain()},
            retry_config={"max_retries": RETRIES, "retry_timeout": RETRY_TIME},
        )
    except Exception as error:  # noqa: BLE001 - the library's words may hold what the environment says
        raise ConfigurationError(f"{base} cannot be opened as object storage ({type(error).__name__})") from None


def storage_options(place: Place) -> dict[str, str] | None:
    """What the Delta library is told of an object storage, beside what it takes from the environment."""
    if isinstance(place, Path):
        return None
    seconds = f"{int(RETRY_TIME.total_seconds())}s"
    return {"allow_http": str(_endpoint_is_plain()).lower(), "max_retries": str(RETRIES), "retry_timeout": seconds}


@contextmanager
def failing_clearly(place: Place) -> Iterator[None]:
    """Whatever the storage's libraries say becomes a StorageError: their own words may hold signed URLs."""
    if isinstance(place, Path):
        yield
        return
    from deltalake.exceptions import DeltaError
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, DeltaError, OSError) as error:
        raise StorageError(f"{place}: the object storage refuses or fails ({type(error).__name__})") from None


@lru_cache(maxsize=1 << 14)
def _size_for_good(path: ObjectPath) -> int:
    """Bytes of a file that never changes: one that is opened again costs no journey."""
    return size(path)


class _Object:
    """An object as a file that Arrow reads: each read is a request for just these bytes."""

    closed = False
    mode = "rb"

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._at = 0
        self._size = _size_for_good(path)

    def read(self, size: int | None = None) -> Any:
        import obstore

        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        with failing_clearly(self._path):
            found = obstore.get_range(_store(self._path.base), self._path.key, start=self._at, end=end)
        self._at = end
        return memoryview(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def size(self) -> int:
        return self._size

    def close(self) -> None:
        self.closed = True


def opened(place: Place) -> str | pa.NativeFile:
    """What Arrow opens to read a file; FileNotFoundError when there is none."""
    return str(place) if isinstance(place, Path) else pa.PythonFile(_Object(place), mode="r")


@contextmanager
def opened_to_copy(place: Place) -> Iterator[IO[bytes]]:
    """A file to be read from its beginning to its end; FileNotFoundError when there is none."""
    if isinstance(place, Path):
        with place.open("rb") as file:
            yield file
        return
    yield cast(IO[bytes], _Object(place))


def side_by_side(work: Callable[[T], R], items: Sequence[T], place: Place) -> Iterator[R]:
    """What ``work`` gives of each item, in their order; of an object storage several at once, as each is a journey."""
    if isinstance(place, Path) or len(items) < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(_JOURNEYS) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                if len(waiting) >= 2 * _JOURNEYS:  # no more in memory than these
                    yield waiting.popleft().result()
                waiting.append(pool.submit(work, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def content(place: Place) -> bytes:
    """All bytes of a file; FileNotFoundError when there is none."""
    if isinstance(place, Path):
        return place.read_bytes()
    import obstore

    with failing_clearly(place):
        return bytes(obstore.get(_store(place.base), place.key).bytes())


def size(place: Place) -> int:
    """Bytes of a file; FileNotFoundError when there is none."""
    if isinstance(place, Path):
        return place.stat().st_size
    import obstore

    with failing_clearly(place):
        return int(obstore.head(_store(place.base), place.key)["size"])


def exists(place: Place) -> bool:
    """Whether there is such a file."""
    try:
        size(place)
    except FileNotFoundError:
        return False
    return True


def publish(place: Place, text: bytes) -> None:
    """Write a file that is not there yet, completely or not at all; ConflictError when somebody else was first.

    In a folder whoever publishes holds the writer's place; on object storage the storage decides who is first.
    """
    if isinstance(place, Path):
        replace_file(place, text)
        return
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    with failing_clearly(place):
        try:
            obstore.put(_store(place.base), place.key, text, mode="create", use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            if content(place) != text:  # else it was us: the storage had it, and its answer was lost
                raise ConflictError(f"{place.name} was written by somebody else at the same time") from None


def keep(file: Path, place: Place, *, move: bool = True) -> None:
    """Move a local file (in a folder: of the same disk) to where it stays, completely or not at all."""
    if isinstance(place, Path):
        file.replace(place)
        return
    import obstore

    with failing_clearly(place):
        obstore.put(_store(place.base), place.key, file)
    if move:
        file.unlink()


def names(folder: Place, after: str = "") -> list[str]:
    """Names of the files and folders in a folder, sorted; of objects only those that follow ``after``."""
    if isinstance(folder, Path):
        return sorted(name for name in os.listdir(folder) if name > after) if folder.is_dir() else []
    return sorted({name.split("/")[0] for name, _ in below(folder, after)}) if after else _names(folder)


def _names(folder: ObjectPath) -> list[str]:
    import obstore

    prefix = f"{folder.key}/" if folder.key else ""
    with failing_clearly(folder):
        found = obstore.list_with_delimiter(_store(folder.base), prefix or None)
    keys = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
    return sorted(key.removeprefix(prefix).rstrip("/") for key in keys)


def below(folder: Place, after: str = "") -> Iterator[tuple[str, float]]:
    """All files below a folder, with their path in it and the time they were written (seconds)."""
    if isinstance(folder, Path):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield path.relative_to(folder).as_posix(), path.stat().st_mtime
        return
    import obstore

    prefix = f"{folder.key}/" if folder.key else ""
    with failing_clearly(folder):
        for part in obstore.list(_store(folder.base), prefix or None, offset=f"{prefix}{after}" if after else None):
            for one in part:
                yield one["path"].removeprefix(prefix), one["last_modified"].timestamp()


def remove(place: Place) -> None:
    """Remove a file; one that is not there is no error."""
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
        return
    import obstore

    with failing_clearly(place):
        try:
            obstore.delete(_store(place.base), place.key)
        except FileNotFoundError:
            return


def replace_file(path: Path, text: bytes) -> None:
    """Write a local file so that it is there completely or not at all, also after a power cut."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
