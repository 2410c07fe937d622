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
from typing import Any

from sqlalchemy import Column, Connection, DateTime, Engine, Integer, String, Table, Text, delete, insert
from sqlmodel import SQLModel

from fhir_gateway.db.engine import transaction

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


_COLUMNS = tuple(column.name for column in audit_events.columns if column.name != "id")


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


_Entry = tuple[Access, "asyncio.Future[None]", asyncio.AbstractEventLoop]


class AuditTrail:
    """Writes accesses to the control plane from one thread, many to a commit."""

    def __init__(self, engine: Engine, keep_years: int | None = None) -> None:
        """``keep_years``: entries older than that are deleted, now and then; None keeps all of them."""
        self._engine = engine
        self._keep_years = keep_years
        self._expired_at: datetime | None = None
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    async def record(self, access: Access) -> None:
        """Return when the access is committed; raises what the database raised."""
        self._start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._queue.put((access, done, loop))
        await done

    def close(self) -> None:
        """Write what is waiting and stop the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread:
            self._queue.put(None)
            thread.join()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
                self._thread.start()

    def _write(self) -> None:
        running = True
        while running:
            entry = self._queue.get()
            entries: list[_Entry] = []
            while entry is not None:
                entries.append(entry)
                if len(entries) == 500:
                    break
                try:
                    entry = self._queue.get_nowait()
                except queue.Empty:
                    break
            else:
                running = False
            if entries:
                self._commit(entries)

    def _commit(self, entries: list[_Entry]) -> None:
        failure: BaseException | None = None
        try:
            with transaction(self._engine) as connection:
                connection.execute(insert(audit_events), [access.row() for access, _, _ in entries])
                self._expire(connection, entries[0][0].recorded)
        except Exception as error:  # noqa: BLE001 - handed to every request that waits for this commit
            failure = error
        waiting: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for _, done, loop in entries:
            waiting.setdefault(loop, []).append(done)
        for loop, ended in waiting.items():  # each call wakes its loop up: once is enough
            loop.call_soon_threadsafe(_finish, ended, failure)

    def _expire(self, connection: Connection, now: datetime) -> None:
        """Once a day, delete what the setting says is old; the database refuses what is younger than six years."""
        if self._keep_years is None or (self._expired_at is not None and now - self._expired_at < timedelta(days=1)):
            return
        self._expired_at = now
        oldest = now - timedelta(days=366 * self._keep_years)
        connection.execute(delete(audit_events).where(audit_events.c.recorded < oldest))


def _finish(ended: list[asyncio.Future[None]], failure: BaseException | None) -> None:
    for done in ended:
        if done.cancelled():
            continue
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(failure)
