"""Locks of PostgreSQL that outlast its restart.

An advisory lock ends with its connection: when the process dies, and also when the server restarts under a process that
lives on. Therefore whoever holds one asks for its connection every second and takes the lock again on a new one; and
after a start of the server nobody else gets a lock before those who live have had the time for that.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa

PING_SECONDS = 1.0
#: How long after a start of the server nobody gets a lock that somebody else may have held before it.
GRACE_SECONDS = 20.0

_AGE = sa.text("SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())")
_TRY = sa.text("SELECT pg_try_advisory_lock(:number)")
_log = logging.getLogger("fhir_gateway.db")


@contextmanager
def take(engine: sa.Engine, name: str, *, fresh: bool = False) -> Iterator[bool]:
    """Whether the lock of that name could be had; it is held until the end of the ``with`` block.

    ``fresh``: nobody can have held it before. Otherwise this waits out what is left of the time after a start.
    """
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    lock = _Lock(engine, name, number)
    if not lock.take(0.0 if fresh else GRACE_SECONDS):
        yield False
        return
    _KEEPER.add(lock)
    try:
        yield True
    finally:
        _KEEPER.remove(lock)
        lock.release()


class _Lock:
    """A lock, and the connection that it is of: detached, so that nothing else happens on it."""

    def __init__(self, engine: sa.Engine, name: str, number: int) -> None:
        self._engine, self.name, self._number = engine, name, number
        self._connection: sa.Connection | None = None
        self._mutex = threading.Lock()
        self._over = False

    def take(self, grace: float = 0.0) -> bool:
        """Take it from a server that started so many seconds ago; False when somebody else has it."""
        while True:
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            try:
                connection.detach()
                # asked of the very server that gives the lock: a connection never leads to the next one
                age = float(connection.execute(_AGE).scalar() or 0.0) if grace else grace
                taken = age >= grace and bool(connection.execute(_TRY, {"number": self._number}).scalar())
            except BaseException:
                connection.close()
                raise
            if taken:
                break
            connection.close()
            if age >= grace:
                return False
            time.sleep(min(grace, grace - age))
        with self._mutex:
            self._connection = connection
        return True

    def keep(self) -> None:
        """Take it again if its connection is gone."""
        with self._mutex:
            if self._over:
                return
            if self._connection is not None:
                try:
                    self._connection.execute(sa.text("SELECT 1"))
                except sa.exc.DBAPIError:
                    _log.warning("the connection of lock %s is gone; taking it again", self.name)
                    self._drop()
                else:
                    return
        with suppress(sa.exc.DBAPIError):  # the server is away still: the next round tries again
            if self.take():
                _log.warning("lock %s is held again", self.name)
            else:
                _log.error("lock %s is held by another process", self.name)
        with self._mutex:
            if self._over:
                self._drop()

    def release(self) -> None:
        """Let go of it."""
        with self._mutex:
            self._over = True
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sa.exc.DBAPIError):
                connection.close()


class _Keeper:
    """The thread that looks after the locks of this process, as long as there are any."""

    def __init__(self) -> None:
        self._locks: set[_Lock] = set()
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, lock: _Lock) -> None:
        """Look after a lock."""
        with self._mutex:
            self._locks.add(lock)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._keep, name="locks", daemon=True)
                self._thread.start()

    def remove(self, lock: _Lock) -> None:
        """Look after it no more."""
        with self._mutex:
            self._locks.discard(lock)

    def _keep(self) -> None:
        while True:
            time.sleep(PING_SECONDS)
            with self._mutex:
                locks = list(self._locks)
                if not locks:
                    self._thread = None
                    return
            for lock in locks:
                try:
                    lock.keep()
                except Exception:  # noqa: BLE001 - the others are looked after, and this one in the next round
                    _log.exception("looking after lock %s failed", lock.name)


_KEEPER = _Keeper()
