"""What the machine around us refuses, as errors of ours: a database that is away, a disk that is full.

Libraries say the same thing in many ways: an ``errno``, a code of SQLite or PostgreSQL, a sentence from DuckDB or Rust.
Only the edges ask (answers of HTTP, the prompt, jobs); what lies between lets the library's error pass.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator

from fhir_gateway.errors import ControlPlaneError, GatewayError, Location, StorageError, StorageFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
#: What libraries without codes say: the system's words, and DuckDB's of a spill that finds no place.
_FULL_WORDS = ("no space left on device", "disk quota exceeded", "max_temp_directory_size", "os error 28")
#: Of SQLite (https://www.sqlite.org/rescode.html): the disk is full, as it says at a write or at the growth of its
#: shared memory; and another process holds the file for longer than we wait.
_SQLITE_FULL = frozenset({13, 778, 4874})
_SQLITE_BUSY = frozenset({5, 6})
#: Of PostgreSQL (https://www.postgresql.org/docs/current/errcodes-appendix.html), by their beginning: connection
#: exceptions, too many connections, shutdown or start of the server.
_AWAY = ("08", "533", "57P01", "57P02", "57P03", "57P05")
_DISK_FULL = "53100"


def known(error: BaseException) -> GatewayError | None:
    """The error of ours that this one is, or was caused by; None when it is something else."""
    for one in _causes(error):
        if isinstance(one, GatewayError):
            return one
        found = _full(one) or _unanswered(one)
        if found is not None:
            return found
    return None


def away(error: BaseException) -> StorageError | ControlPlaneError | None:
    """The error of ours, if something that we rest on is away or full: it passes, and no trace of ours explains it."""
    found = known(error)
    return found if isinstance(found, StorageError | ControlPlaneError) else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it was made of."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        waiting += [getattr(one, "orig", None), one.__cause__, one.__context__]


def _full(error: BaseException) -> StorageFull | None:
    code = getattr(error, "sqlite_errorcode", None) if isinstance(error, sqlite3.Error) else None
    if (
        (isinstance(error, OSError) and error.errno in _FULL)
        or code in _SQLITE_FULL
        or getattr(error, "sqlstate", None) == _DISK_FULL
        or (_of_a_library(error) and any(words in str(error).lower() for words in _FULL_WORDS))
    ):
        name = getattr(error, "filename", None)
        where = Location(file=str(name)) if isinstance(name, str) else None
        return StorageFull("the disk is full; what was under way has changed nothing", location=where)
    return None


def _of_a_library(error: BaseException) -> bool:
    """Whether its words are those of a library that writes files, and not of somebody's data."""
    module = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or module in ("_duckdb", "duckdb", "pyarrow", "deltalake", "_internal")


def _unanswered(error: BaseException) -> ControlPlaneError | None:
    if isinstance(error, sqlite3.OperationalError):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return ControlPlaneError("the control plane is busy") if code in _SQLITE_BUSY else None
    module, name = type(error).__module__, type(error).__name__
    if module.startswith("psycopg"):
        state = getattr(error, "sqlstate", None)
        operational = any(one.__name__ == "OperationalError" for one in type(error).__mro__)
        if (operational and state is None) or (state or "").startswith(_AWAY):
            return ControlPlaneError("the database of the control plane does not answer")
    elif module.startswith("sqlalchemy"):
        if name == "TimeoutError":  # no connection of the pool became free
            return ControlPlaneError("the control plane is busy")
        if getattr(error, "connection_invalidated", False) or name in ("InvalidatePoolError", "DisconnectionError"):
            return ControlPlaneError("the database of the control plane does not answer")
    return None
