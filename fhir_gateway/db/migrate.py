"""Bring a control plane database to the present schema, and write the migration for a changed one.

``python -m fhir_gateway.db.migrate MESSAGE`` is the authoring command: it compares the tables of ``db.tables`` with
what the migrations make and writes the difference to ``db/migrations/versions``, to be read and committed.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import LockNotAvailable
from sqlalchemy import Column, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError

from fhir_gateway.db.engine import create_engine, snapshot, transaction
from fhir_gateway.db.tables import metadata
from fhir_gateway.errors import ConfigurationError

_FOLDER = Path(__file__).parent / "migrations"
_LOCK_WAIT = "2s"
_PAUSE_SECONDS = 1.0
_ATTEMPTS = 600


def upgrade(engine: Engine) -> None:
    """Create or upgrade all tables; cheap when there is nothing to do, safe from several processes at once.

    Tables of a newer release are left as they are: this one goes on with them while the newer one takes its place.
    ConfigurationError where it could not, because what it needs is not there any more.
    """
    current = revision(engine)
    if current == _head():
        return
    if current is not None and current not in _known():
        if problems := [one for one in differences(engine) if not _bearable(one)]:
            raise ConfigurationError(
                f"the control plane was brought to migration {current} by a newer release, and this one cannot work "
                f"with it ({len(problems)} differences): start the newer one"
            )
        return
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _upgrade(engine)
        except OperationalError as error:
            if not _held_elsewhere(error) or attempt == _ATTEMPTS:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _held_elsewhere(error: OperationalError) -> bool:
    """Whether somebody reads a table of PostgreSQL, or writes, perhaps migrates, a SQLite."""
    busy = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
    return busy or isinstance(error.orig, LockNotAvailable)


def _upgrade(engine: Engine) -> None:
    """One attempt, which leaves everything or nothing.

    Who changes a table of PostgreSQL waits for those who read it, and everybody who comes then waits for him: one long
    reader would keep out all. So nobody is waited for longer than a moment, and readers have their turn before the
    next attempt.
    """
    if engine.dialect.name == "sqlite":
        with _references_unwatched(engine) as connection:
            command.upgrade(_configuration(connection), "head")
        return
    with transaction(engine, lock="migrations") as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'"))
        command.upgrade(_configuration(connection), "head")


@contextmanager
def _references_unwatched(engine: Engine) -> Iterator[Connection]:
    """A transaction of SQLite in which a table may be dropped and made anew while rows of others refer to its rows.

    That is how its columns are changed (https://www.sqlite.org/lang_altertable.html#otheralter): with references
    watched, dropping it is an error or deletes what refers to it. They are looked at once, before the end.
    """
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA foreign_keys=OFF")  # means nothing inside a transaction
        try:
            with connection.begin():
                yield connection
                if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                    raise ConfigurationError("after the migration rows would refer to others that are not there")
        finally:
            driver.execute("PRAGMA foreign_keys=ON")


def revision(engine: Engine) -> str | None:
    """The last migration that a database had; None for an empty one."""
    with snapshot(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


@cache
def _head() -> str | None:
    """The last migration there is; all are read to find it."""
    return ScriptDirectory(str(_FOLDER)).get_current_head()


@cache
def _known() -> frozenset[str]:
    return frozenset(one.revision for one in ScriptDirectory(str(_FOLDER)).walk_revisions())


def _bearable(difference: Any) -> bool:
    """Whether code can work with a database that differs from its tables so: by something more, that may stay empty."""
    kind = difference[0] if isinstance(difference, tuple) else None
    if kind == "remove_column":
        column: Column[Any] = difference[3]
        return bool(column.nullable or column.server_default is not None)
    return kind in ("remove_table", "remove_index", "remove_fk")


def differences(engine: Engine) -> list[object]:
    """Return how the tables in the database differ from those in the code; empty when they agree."""
    with snapshot(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found: list[object] = compare_metadata(context, metadata())
        return found


def revise(message: str) -> None:
    """Write a migration for what has changed in the tables since the last one."""
    engine = create_engine("sqlite://")
    upgrade(engine)
    number = len(list(ScriptDirectory(str(_FOLDER)).walk_revisions())) + 1
    with transaction(engine) as connection:
        command.revision(_configuration(connection), message, autogenerate=True, rev_id=f"{number:04d}")


def _configuration(connection: Connection) -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    configuration.attributes["connection"] = connection
    return configuration


if __name__ == "__main__":
    revise(" ".join(sys.argv[1:]))
