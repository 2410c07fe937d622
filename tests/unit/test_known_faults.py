"""What databases and disks say in many ways is told as one of two errors of ours; anything else is left as it is."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import duckdb
import psycopg
import pytest
import sqlalchemy as sa

from fhir_gateway.config import Settings
from fhir_gateway.errors import ControlPlaneError, GatewayError, StorageFull
from fhir_gateway.factory import Gateway
from fhir_gateway.faults import away, known
from fhir_gateway.jobs.outlasting import MOST, Abandoned, outlast


def caused(error: BaseException) -> RuntimeError:
    """An error that was made of another."""
    try:
        raise RuntimeError("a step failed") from error
    except RuntimeError as found:
        return found


FULL = [
    OSError(errno.ENOSPC, "No space left on device", "/data/lake/x.parquet"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError("Generic LocalFileSystem error: No space left on device (os error 28)"),
    duckdb.IOException('IO Error: Could not write file "spill": No space left on device'),
    psycopg.errors.DiskFull("could not extend file"),
]
AWAY = [
    psycopg.OperationalError("the connection is closed"),
    psycopg.errors.AdminShutdown("terminating connection due to administrator command"),
    psycopg.errors.CannotConnectNow("the database system is starting up"),
    sa.exc.OperationalError("SELECT 1", {}, psycopg.OperationalError("server closed the connection unexpectedly")),
    sa.exc.TimeoutError("QueuePool limit of size 15 overflow 0 reached"),
]
OTHER = [
    ValueError("no space left on device"),
    OSError(errno.ENOENT, "No such file"),
    psycopg.errors.UniqueViolation("duplicate key"),
    sa.exc.IntegrityError("INSERT", {}, sqlite3.IntegrityError("UNIQUE constraint failed")),
    sqlite3.OperationalError("no such table: x"),
]


@pytest.mark.parametrize("error", FULL, ids=repr)
def test_a_full_disk_is_told_as_that(error: Exception) -> None:
    for one in (error, caused(error), ExceptionGroup("two", [ValueError(), error])):
        found = known(one)
        assert isinstance(found, StorageFull)
        assert (found.status, found.exit_code) == (507, 6)
        assert found.location.file == (error.filename if isinstance(error, OSError) else None)


@pytest.mark.parametrize("error", AWAY, ids=repr)
def test_a_database_that_is_away_is_told_as_that(error: Exception) -> None:
    found = away(caused(error))
    assert isinstance(found, ControlPlaneError)
    assert (found.status, found.exit_code) == (503, 6)


@pytest.mark.parametrize("error", OTHER, ids=repr)
def test_anything_else_is_not_known(error: Exception) -> None:
    assert known(caused(error)) is None


def test_a_full_sqlite_is_a_full_disk(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "full.db")
    connection.execute("PRAGMA max_page_count = 2")
    connection.execute("CREATE TABLE t (x)")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    connection.close()
    assert isinstance(known(full.value), StorageFull)


def test_a_step_that_loses_its_database_is_done_again(tmp_path: Path) -> None:
    gateway = Gateway(Settings(data_dir=tmp_path))
    tries: list[int] = []

    def work() -> str:
        tries.append(len(tries))
        if len(tries) < 3:
            raise AWAY[0]
        return "done"

    assert outlast(gateway, work, lambda _: False) == "done"
    assert len(tries) == 3
    with pytest.raises(Abandoned):
        outlast(gateway, lambda: _raise(AWAY[1]), lambda _: True)
    tries.clear()
    with pytest.raises(ControlPlaneError):
        outlast(gateway, lambda: tries.append(0) or _raise(AWAY[1]), lambda _: False)  # type: ignore[func-returns-value]
    assert len(tries) == 1 + MOST
    gateway.engine.dispose()


def test_a_full_disk_that_does_not_say_where_is_looked_for(tmp_path: Path) -> None:
    gateway = Gateway(Settings(data_dir=tmp_path))
    with pytest.raises(StorageFull) as full:
        outlast(gateway, lambda: _raise(FULL[3]), lambda _: False)
    assert full.value.location.file is not None
    with pytest.raises(StorageFull, match=r"/data/lake/x\.parquet: the disk is full"):
        outlast(gateway, lambda: _raise(FULL[0]), lambda _: False)
    with pytest.raises(KeyError):
        outlast(gateway, lambda: _raise(KeyError("x")), lambda _: False)


def _raise(error: Exception) -> None:
    raise error


def test_errors_of_ours_stay_what_they_are() -> None:
    error = GatewayError("x")
    assert known(caused(error)) is error
