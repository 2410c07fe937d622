"""Open the control plane: SQLite by default, PostgreSQL by URL.

SQLite runs in WAL mode with foreign keys on. Transactions are begun explicitly: the driver's own lazy ``BEGIN`` lets a
transaction read first and then fail with "database is locked" when it wants to write, so a writer takes the write lock
at once (``BEGIN IMMEDIATE``, https://www.sqlite.org/lang_transaction.html) and waits for it up to ``BUSY_SECONDS``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError
from sqlalchemy.pool import QueuePool
from sqlmodel import Session, SQLModel

from fhir_gateway.errors import ConfigurationError

#: How long a SQLite writer waits for another one; bulk writes of a large pull take seconds.
BUSY_SECONDS = 60
#: Memory for pages of a SQLite connection. The default, 2 MiB, holds too little of the indexes that a bulk write fills.
CACHE_KIB = 64 * 1024
#: Errors of a statement show its parameters, and those are patients' data, unless told not to.
_PRIVATE: dict[str, Any] = {"hide_parameters": True}

#: Connections are kept, those used last first: opening one costs more than most statements, and threads come and go.
_POOL: dict[str, Any] = {"pool_size": 15, "max_overflow": 0, "pool_use_lifo": True}

#: A connection to PostgreSQL that rested longer is asked whether it is there still, which takes as long as a statement.
IDLE_SECONDS = 1.0
#: How long a server may take to answer a new connection, unless the URL says otherwise (``connect_timeout``): one whose
#: machine is gone never answers.
CONNECT_SECONDS = 10
_USED = "fhir_gateway.used"


def create_engine(url: str) -> Engine:
    """Return an engine for ``url`` (``sqlite:///path``, ``sqlite://`` for memory, or ``postgresql://...``).

    A SQLite file and its folder are created when absent, readable by their owner only (modes 600 and 700).
    Raises ConfigurationError for an URL of any other kind; the message never contains the URL (it may hold a password).
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("database_url is not a database URL") from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _sqlite(parsed)
    if backend == "postgresql":
        return _postgresql(parsed)
    raise ConfigurationError("database_url must begin with sqlite:// or postgresql://")


def _postgresql(url: URL) -> Engine:
    arguments: dict[str, Any] = _PRIVATE | _POOL
    if "connect_timeout" not in url.query:
        arguments |= {"connect_args": {"connect_timeout": CONNECT_SECONDS}}
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), **arguments)
    dialect: Any = engine.dialect

    @event.listens_for(engine, "checkin")
    def _used(_driver: Any, record: Any) -> None:
        record.info[_USED] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _still_there(driver: Any, record: Any, _proxy: Any) -> None:
        used = record.info.get(_USED)  # a new connection was not used before
        if used is None or time.monotonic() - used < IDLE_SECONDS:
            return
        try:
            dialect.do_ping(driver)
        except dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error  # those beside it as well; the pool opens new ones

    return engine


def _sqlite(url: URL) -> Engine:
    arguments = _PRIVATE | {"connect_args": {"timeout": BUSY_SECONDS, "check_same_thread": False}}
    in_memory = url.database in (None, "", ":memory:")
    if in_memory:
        # One connection, used by one thread at a time: each new one would be another, empty database.
        arguments |= {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0, "pool_timeout": BUSY_SECONDS}
    else:
        arguments |= _POOL
        _create_private_file(Path(str(url.database)))
    engine = sa.create_engine(url, **arguments)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        cursor = connection.cursor()
        if not in_memory:
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def _create_private_file(path: Path) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, mode=0o700)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        path.chmod(0o600)


@contextmanager
def transaction(engine: Engine, lock: str | None = None) -> Iterator[Connection]:
    """Open a connection for writing; commits at the end, rolls back on an error.

    ``lock`` names a rule that needs one writer at a time. SQLite has only one writer anyway; PostgreSQL takes an
    advisory lock of that name until the transaction ends.
    """
    with engine.begin() as connection:
        if lock is not None and engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": lock})
        yield connection


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """Open a connection for reading only: it sees one state and never waits for a writer."""
    options: dict[str, Any] = {"reading": True}
    if engine.dialect.name == "postgresql":
        options["isolation_level"] = "REPEATABLE READ"
    with engine.connect().execution_options(**options) as connection:
        yield connection


@contextmanager
def single_statements(engine: Engine) -> Iterator[Any]:
    """A connection of the driver itself (sqlite3, psycopg) on which each statement is a transaction of its own."""
    opened = engine.raw_connection()
    driver: Any = opened.driver_connection
    begins = engine.dialect.name == "postgresql"  # psycopg begins a transaction unless told not to
    try:
        if begins:
            driver.autocommit = True
        yield driver
    finally:
        if begins and driver.closed:  # the server is gone: the pool opens another one
            opened.invalidate()
        elif begins:
            driver.autocommit = False
        opened.close()


class Lookup:
    """A SELECT that is asked for again and again, in a tenth of the time that :func:`snapshot` needs.

    One statement sees one state by itself, so there is no transaction around it, and it is put into SQL once. Values
    come as the driver has them: integers, texts and bytes; a Boolean may be 0 or 1.
    """

    def __init__(self, engine: Engine, statement: sa.Select[Any]) -> None:
        """Over a statement whose parameters are ``sa.bindparam(name, any value)``, beside what it says itself."""
        compiled: Any = statement.compile(dialect=engine.dialect, compile_kwargs={"render_postcompile": True})
        self._engine = engine
        self._text = str(compiled)
        #: Values of its parameters that it says itself.
        self.said: dict[str, Any] = compiled.params
        self._places: list[str] | None = compiled.positiontup
        # bodies as bytes, not as twice as many hexadecimal digits: half the time that a batch of reads takes here
        self._form = {"binary": True} if engine.dialect.name == "postgresql" else {}

    def first(self, **values: Any) -> tuple[Any, ...] | None:
        """The first row for these values of the parameters, None when there is none."""
        return next(iter(self.all(values)), None)

    def all(self, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """All rows for these values of the parameters."""
        named = {**self.said, **values}
        given = named if self._places is None else tuple(named[name] for name in self._places)
        with single_statements(self._engine) as driver:
            rows: list[tuple[Any, ...]] = driver.execute(self._text, given, **self._form).fetchall()
            return rows


@contextmanager
def session(engine: Engine) -> Iterator[Session]:
    """Open an ORM session for reading and writing; commits at the end, rolls back on an error.

    Objects stay readable after the commit.
    """
    with Session(engine, expire_on_commit=False) as opened, opened.begin():
        yield opened


def table_of(model: type[SQLModel]) -> sa.Table:
    """Return the table of a SQLModel class, for bulk statements."""
    return SQLModel.metadata.tables[str(model.__tablename__)]
