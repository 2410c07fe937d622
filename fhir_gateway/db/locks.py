"""Locks between processes that end with the process that holds them, however it ends.

With SQLite a lock is a locked file in the data folder; with PostgreSQL it is an advisory lock of a connection that
does nothing else (:mod:`fhir_gateway.db.advisory`). kill -9 frees both, so a lock that can be had means that nobody is
at work; after a restart of the server those who held one have a while to take it again.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from fhir_gateway.db import advisory
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
    fresh: bool = False,
) -> Iterator[None]:
    """Hold the lock of that name; ConflictError with `refusal` when somebody else does and `wait` says not to wait.

    ``folder`` is the data folder. ``once`` leaves nothing behind of a lock whose name nobody will ask for again;
    ``fresh`` says that nobody can have held it before, so that there is nobody to be waited for.
    """
    shared = engine.dialect.name == "postgresql"
    path = folder / "locks" / name
    while True:
        with advisory.take(engine, name, fresh=fresh) if shared else _take_in_folder(path) as taken:
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
