"""Locks between processes that end with the process that holds them, however it ends.

With SQLite a lock is a locked file in the data folder; with PostgreSQL it is an advisory lock of a connection that
does nothing else. kill -9 frees both, so a lock that can be had means that nobody is at work.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from fhir_gateway.errors import ConflictError

_PAUSE = 0.2


@contextmanager
def hold(
    engine: sa.Engine,
    folder: Path,
    name: str,
    refusal: str = "it is held elsewhere",
    *,
    wait: Callable[[], bool] | None = None,
    once: bool = False,
) -> Iterator[None]:
    """Hold the lock of that name; ConflictError with `refusal` when somebody else does and `wait` says not to wait.

    ``folder`` is the data folder. ``once`` leaves nothing behind of a lock whose name nobody will ask for again.
    """
    shared = engine.dialect.name == "postgresql"
    path = folder / "locks" / name
    while True:
        with _take_in_database(engine, name) if shared else _take_in_folder(path) as taken:
            if taken:
                try:
                    yield
                finally:
                    if once and not shared:
                        path.unlink(missing_ok=True)
                return
        if wait is None or not wait():
            raise ConflictError(refusal)
        time.sleep(_PAUSE)


@contextmanager
def _take_in_folder(path: Path) -> Iterator[bool]:
    path.parent.mkdir(exist_ok=True, mode=0o700)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _take_in_database(engine: sa.Engine, name: str) -> Iterator[bool]:
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    # detached: when the connection closes, the lock is gone, whatever became of this process
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()
        yield bool(connection.execute(sa.text("SELECT pg_try_advisory_lock(:number)"), {"number": number}).scalar())
