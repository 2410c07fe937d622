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
from fhir_gateway.factory import Gateway

_PAUSE = 0.2


@contextmanager
def hold(
    gateway: Gateway,
    name: str,
    refusal: str = "it is held elsewhere",
    *,
    wait: Callable[[], bool] | None = None,
    once: bool = False,
) -> Iterator[None]:
    """Hold the lock of that name; ConflictError with `refusal` when somebody else does and `wait` says not to wait.

    ``once`` leaves nothing behind of a lock whose name nobody will ask for again.
    """
    take = _take_in_database if gateway.engine.dialect.name == "postgresql" else _take_in_folder
    while True:
        with take(gateway, name) as taken:
            if taken:
                try:
                    yield
                finally:
                    if once and take is _take_in_folder:
                        _path(gateway, name).unlink(missing_ok=True)
                return
        if wait is None or not wait():
            raise ConflictError(refusal)
        time.sleep(_PAUSE)


def _path(gateway: Gateway, name: str) -> Path:
    return gateway.data_folder / "locks" / name


@contextmanager
def _take_in_folder(gateway: Gateway, name: str) -> Iterator[bool]:
    path = _path(gateway, name)
    path.parent.mkdir(exist_ok=True, mode=0o700)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _take_in_database(gateway: Gateway, name: str) -> Iterator[bool]:
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    # detached: when the connection closes, the lock is gone, whatever became of this process
    with gateway.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()
        yield bool(connection.execute(sa.text("SELECT pg_try_advisory_lock(:number)"), {"number": number}).scalar())
