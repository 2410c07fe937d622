"""The audit trail: one row for every request to the FHIR face, written before the answer leaves.

A row says who (client, from which address), why (the purpose it is registered for), what (interaction, type, id,
version, names of the parameters), whose data the answer held (ids of persons), when, and how it ended; of a refused
token request, which check failed. It never holds parameter values, bodies or tokens.

Rows are only ever added: the database itself refuses to change them, and to delete them before six years are over
(docs/adr/0153). Requests that end at the same moment share one commit, so that the trail costs a busy server one write
for many answers; when the trail cannot be written, nothing is served.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from operator import attrgetter
from typing import Any, Protocol

from sqlalchemy import Column, DateTime, Engine, Integer, String, Table, Text, delete
from sqlmodel import SQLModel

from fhir_gateway.db.engine import single_statements, transaction

#: Persons that one row names, as many as a page of a search holds.
MOST_PERSONS = 1000
EVERYONE_IN_REACH = "*"
#: Append-only. Mirrors AuditEvent: recorded, agent (client), type/subtype (interaction), entity, outcome.
audit_events = Table(
    "audit_event",
    SQLModel.metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("recorded", DateTime(timezone=True), nullable=False, index=True),
    Column("request_id", String(64), nullable=False),
    Column("client_id", String(255), index=True),
    Column("interaction", String(64), nullable=False),
    Column("resource_type", String(64)),
    Column("resource_id", String(64)),
    Column("parameters", String(1024), nullable=False),
    Column("status", Integer, nullable=False),
    Column("purpose", String(40)),
    Column("resource_version", Integer),
    Column("persons", Text),
    Column("reason", String(255)),
    Column("address", String(64)),
)


_COLUMNS = tuple(column.name for column in audit_events.columns if column.name != "id")  # recorded is the first
_values = attrgetter(*_COLUMNS)
#: PostgreSQL's names of their types.
_BINARY: dict[type[Any], str] = {DateTime: "timestamptz", Integer: "int4", String: "varchar", Text: "text"}


@dataclass(slots=True)
class Access:
    """What one request did; filled in by the route as it learns it, completed by the middleware."""

    request_id: str
    recorded: datetime = field(default_factory=lambda: datetime.now(UTC))
    client_id: str | None = None
    interaction: str = "unknown"
    resource_type: str | None = None
    resource_id: str | None = None
    parameters: str = ""
    status: int = 0
    purpose: str | None = None
    resource_version: int | None = None
    persons: str | None = None  # ",p1,p2," in order; EVERYONE_IN_REACH beyond what a row may hold
    reason: str | None = None
    address: str | None = None
    limit: Callable[[str], None] | None = None  # told the client once it is known; raises when it asks too often

    def identify(self, client_id: str, purpose: str | None) -> None:
        """Note whose request it is; raises TooManyRequests when this is one too many."""
        if self.limit is not None and self.client_id is None:
            self.client_id, self.purpose = client_id, purpose
            self.limit(client_id)
        self.client_id, self.purpose = client_id, purpose

    def row(self) -> dict[str, Any]:
        """Its columns."""
        return {name: getattr(self, name) for name in _COLUMNS}

    def disclose(self, persons: Iterable[str]) -> None:
        """Note whose data the answer holds, beside those noted before.

        Beyond :data:`MOST_PERSONS` the row says that everybody was concerned whom the client may see.
        """
        before = (self.persons or "").strip(",").split(",")
        found = dict.fromkeys(one for one in (*before, *persons) if one)
        if EVERYONE_IN_REACH in found or len(found) > MOST_PERSONS:
            self.persons = EVERYONE_IN_REACH
        elif found:
            self.persons = f",{','.join(found)},"

    def disclose_everyone(self) -> None:
        """Note that the answer may hold the data of everybody whom the client may see."""
        self.persons = EVERYONE_IN_REACH

    def named(self, names: list[str]) -> None:
        """Note the names of the parameters (values are not noted)."""
        self.parameters = ",".join(sorted(set(names)))[:1024]


class Errand(Protocol):
    """Something that ends in entries of the trail: done in its thread, and told when they are committed."""

    loop: asyncio.AbstractEventLoop

    def work(self) -> list[Access]:
        """What is to be written; nothing is, of this errand, when it raises."""
        ...

    def ended(self, failure: BaseException | None) -> None:
        """Called in the loop when the entries are committed, or with what went wrong."""
        ...


@dataclass(slots=True, eq=False)
class _Recording:
    """The entry of one request, and whoever waits for it."""

    access: Access
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]

    def work(self) -> list[Access]:
        return [self.access]

    def ended(self, failure: BaseException | None) -> None:
        if self.done.cancelled():
            return
        if failure is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(failure)


class AuditTrail:
    """Writes accesses to the control plane from one thread, many to a commit."""

    def __init__(self, engine: Engine, keep_years: int | None = None) -> None:
        """``keep_years``: entries older than that are deleted, now and then; None keeps all of them."""
        self._engine = engine
        self._add = _adder(engine)
        stored = audit_events.c.recorded.type.dialect_impl(engine.dialect).bind_processor(engine.dialect)
        self._stored_time: Callable[[datetime], Any] = stored or (lambda moment: moment)
        self._keep_years = keep_years
        self._expired_at: datetime | None = None
        self._queue: queue.SimpleQueue[Errand | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    async def record(self, access: Access) -> None:
        """Return when the access is committed; raises what the database raised."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self.send(_Recording(access, loop, done))
        await done

    def write(self, access: Access) -> None:
        """Commit an access in the thread that calls: for commands, which have no loop."""
        self._commit([access])

    def send(self, errand: Errand) -> None:
        """Have an errand done; errands that wait at the same moment share a commit."""
        self._start()
        self._queue.put(errand)

    def close(self) -> None:
        """Write what is waiting and stop the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread:
            self._queue.put(None)
            thread.join()

    def _start(self) -> None:
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
                self._thread.start()

    def _write(self) -> None:
        running = True
        while running:
            errand = self._queue.get()
            errands: list[Errand] = []
            while errand is not None:
                errands.append(errand)
                if len(errands) == 500:
                    break
                try:
                    errand = self._queue.get_nowait()
                except queue.Empty:
                    break
            else:
                running = False
            if errands:
                self._carry_out(errands)

    def _carry_out(self, errands: list[Errand]) -> None:
        failures: list[BaseException | None] = []
        entries: list[Access] = []
        for errand in errands:
            try:
                entries += errand.work()
                failures.append(None)
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for this errand
                failures.append(error)
        try:
            if entries:
                self._commit(entries)
        except Exception as error:  # noqa: BLE001 - handed to every request that waits for this commit
            failures = [one or error for one in failures]
        waiting: dict[asyncio.AbstractEventLoop, list[tuple[Errand, BaseException | None]]] = {}
        for errand, failure in zip(errands, failures, strict=True):
            waiting.setdefault(errand.loop, []).append((errand, failure))
        for loop, done in waiting.items():  # each call wakes its loop up: once is enough
            loop.call_soon_threadsafe(_finish, done)

    def _commit(self, entries: list[Access]) -> None:
        self._add([self._row(access) for access in entries])
        self._expire(entries[0].recorded)

    def _row(self, access: Access) -> tuple[Any, ...]:
        recorded, *others = _values(access)
        return self._stored_time(recorded), *others

    def _expire(self, now: datetime) -> None:
        """Once a day, delete what the setting says is old; the database refuses what is younger than six years."""
        if self._keep_years is None or (self._expired_at is not None and now - self._expired_at < timedelta(days=1)):
            return
        self._expired_at = now
        oldest = now - timedelta(days=366 * self._keep_years)
        with transaction(self._engine) as connection:
            connection.execute(delete(audit_events).where(audit_events.c.recorded < oldest))


def _finish(done: list[tuple[Errand, BaseException | None]]) -> None:
    for errand, failure in done:
        errand.ended(failure)


def _adder(engine: Engine) -> Callable[[list[tuple[Any, ...]]], None]:
    """What commits rows in as few statements of the driver as may be: each crosses into it, and is read there, once.

    PostgreSQL takes one, the rows as a copy of them, which is a transaction of its own; SQLite some for 64, 16, 4 and
    one row, in a transaction.
    """
    table = f"{audit_events.name} ({', '.join(_COLUMNS)})"
    if engine.dialect.name == "postgresql":
        copying = f"COPY {table} FROM STDIN (FORMAT BINARY)"
        kinds = [_BINARY[type(audit_events.c[name].type)] for name in _COLUMNS]

        def copy_rows(rows: list[tuple[Any, ...]]) -> None:
            with single_statements(engine) as driver, driver.cursor() as cursor, cursor.copy(copying) as copy:
                copy.set_types(kinds)
                for row in rows:
                    copy.write_row(row)

        return copy_rows
    row = f"({', '.join('?' * len(_COLUMNS))})"
    into = f"INSERT INTO {table} VALUES "  # noqa: S608  # our own names
    statements = [(size, into + ", ".join([row] * size)) for size in (64, 16, 4, 1)]

    def add_rows(rows: list[tuple[Any, ...]]) -> None:
        start = 0
        with transaction(engine) as connection:
            for size, statement in statements:
                while len(rows) - start >= size:
                    connection.exec_driver_sql(statement, tuple(chain.from_iterable(rows[start : start + size])))
                    start += size

    return add_rows
