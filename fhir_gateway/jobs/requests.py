"""What clients ask for asynchronously (R4 async.html): accepted, carried out by a worker, kept for a while, forgotten.

A request is a row of the control plane and a folder of files below ``requests`` in the data folder. The work is a
durable job: a worker that dies leaves it to the next one. :data:`KINDS` says what there is to be asked for.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from fhir_gateway.db.audience import EVERYONE, Audience, Grant
from fhir_gateway.db.engine import snapshot, table_of, transaction
from fhir_gateway.errors import ControlPlaneError, GatewayError, NotFoundError, StorageFull, TooManyRequests
from fhir_gateway.factory import Gateway
from fhir_gateway.faults import known
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.tables import JobRequest

KINDS: Mapping[str, str] = {
    "davinci-data-export": "fhir_gateway.jobs.exports.service:export",
    "export": "fhir_gateway.jobs.exports.service:export",
    **dict.fromkeys(
        ("care-gaps", "collect-data", "evaluate", "evaluate-measure"), "fhir_gateway.jobs.measure_answers:carry_out"
    ),
}
"""What does each kind, as ``module:function``; the function is a :data:`Work`. Imported by the worker that does it."""

JOB = "request"
"""Kind of the durable jobs that carry requests out."""

UNFINISHED = ("accepted", "running")
ANSWER = "answer.json"

_LOCK = "job_request"
_HOUR = 3600.0
_OFTEN = 1.0
"""Seconds between two looks at whether a request was cancelled, and between two words about its progress."""
_log = logging.getLogger("fhir_gateway.jobs")


class Cancelled(BaseException):
    """The client deleted the request. No ``Exception``: nothing failed."""


@dataclass(frozen=True, slots=True)
class AnswerFile:
    """A file of NDJSON in the request's folder: resources of a type, and how many. No type (empty): of several."""

    type: str
    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request brought. ``transaction_time`` is an instant: everything changed up to it is in.

    ``more`` are further keys of the manifest.
    """

    transaction_time: str
    output: tuple[AnswerFile, ...] = ()
    error: tuple[AnswerFile, ...] = ()
    deleted: tuple[AnswerFile, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Answer:
        """The answer that was written into a folder."""
        found = orjson.loads((folder / ANSWER).read_bytes())
        lists = {name: tuple(AnswerFile(**one) for one in found[name]) for name in ("output", "error", "deleted")}
        return cls(found["transaction_time"], **lists, more=found["more"])

    def write(self, folder: Path) -> None:
        """Write the answer down."""
        (folder / ANSWER).write_bytes(orjson.dumps(self))


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it stands. ``failure`` has ``status``, ``issue`` (its type), ``message`` and ``path``."""

    id: str
    client_id: str
    kind: str
    url: str
    payload: Mapping[str, Any]
    audience: Audience
    separate_status: bool
    state: str
    progress: str | None
    failure: Mapping[str, Any] | None
    created: float
    expires: float | None

    @property
    def finished(self) -> bool:
        """True when there is an answer, or a failure."""
        return self.state in ("done", "failed")


class Task:
    """A request in the hands of a worker: what is asked, for whom, and where the answer's files go."""

    def __init__(self, gateway: Gateway, asked: Asked, folder: Path, check: Callable[[], None]) -> None:
        self.gateway, self.asked, self.folder = gateway, asked, folder
        self._check = check
        self._log = RequestLog(gateway)
        self._looked = self._told = 0.0

    @property
    def payload(self) -> Mapping[str, Any]:
        """What is asked, as the one who accepted it wrote it down."""
        return self.asked.payload

    @property
    def audience(self) -> Audience:
        """What the client may see; everything that is read must be read as seen by it."""
        return self.asked.audience

    def check(self) -> None:
        """Leave the work when it was cancelled, or when this worker is to stop; call it between pieces of work."""
        self._check()
        if time.monotonic() - self._looked > _OFTEN:
            self._looked = time.monotonic()
            if self._log.state(self.asked.id) != "running":
                raise Cancelled

    def tell(self, progress: str) -> None:
        """Say how far it is, in less than 100 characters and without anything of patients."""
        self.check()
        if time.monotonic() - self._told > _OFTEN:
            self._told = time.monotonic()
            self._log.change(self.asked.id, progress=progress[:99])

    def answer(self, *resources: Mapping[str, Any]) -> Answer:
        """An answer of these resources, written as files; for kinds whose answers are small."""
        by_type: dict[str, list[bytes]] = {}
        for resource in resources:
            by_type.setdefault(resource["resourceType"], []).append(orjson.dumps(resource) + b"\n")
        files = []
        for kind, lines in by_type.items():
            name = f"{kind}.1.ndjson"
            (self.folder / name).write_bytes(b"".join(lines))
            files.append(AnswerFile(kind, name, len(lines)))
        return Answer(_instant(self.asked.created), tuple(files))


Work = Callable[[Task], Answer]
"""Does what a request asks. GatewayErrors are told to the client; the same task may come again after a kill."""


class RequestLog:
    """The requests of a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._table = table_of(JobRequest)

    def folder(self, id: str) -> Path:
        """Where the files of a request are, whether or not it has any."""
        return self.folders / id

    @cached_property
    def folders(self) -> Path:
        """Where the folders of all requests are."""
        return self._gateway.data_folder / "requests"

    def accept(
        self,
        client_id: str,
        kind: str,
        payload: Mapping[str, Any],
        url: str,
        audience: Audience = EVERYONE,
        *,
        separate_status: bool = False,
    ) -> Asked:
        """Write a request down, to be submitted then; TooManyRequests when the client has enough of them."""
        settings, table = self._gateway.settings, self._table
        now = time.time()
        row = {
            "id": secrets.token_urlsafe(24),
            "client_id": client_id,
            "kind": kind,
            "url": url,
            "payload": orjson.dumps(payload),
            "audience": _audience_out(audience),
            "separate_status": separate_status,
            "state": "accepted",
            "progress": "waiting",
            "created": now,
        }
        theirs = sa.select(table.c.state, table.c.expires).where(
            table.c.client_id == client_id, table.c.state != "cancelled"
        )
        with transaction(self._gateway.engine, lock=_LOCK) as connection:
            rows = connection.execute(theirs.where(sa.or_(table.c.expires.is_(None), table.c.expires > now))).all()
            if sum(row.state in UNFINISHED for row in rows) >= settings.async_per_client:
                raise TooManyRequests("this client has enough requests under way: wait for one, or delete it", 10)
            if len(rows) >= settings.async_kept_per_client:
                soonest = min((one.expires for one in rows if one.expires is not None), default=now)
                wait = max(1, int(soonest - now))
                raise TooManyRequests("this client has enough answers kept: delete those it has read", wait)
            connection.execute(sa.insert(table), [row])
        return self.get(str(row["id"]))

    def get(self, id: str) -> Asked:
        """A request; NotFoundError when there is none, it was deleted, or its time is over."""
        with snapshot(self._gateway.engine) as connection:
            row = connection.execute(sa.select(self._table).where(self._table.c.id == id)).first()
        if row is None or row.state == "cancelled" or (row.expires is not None and row.expires <= time.time()):
            raise NotFoundError("there is no such request")
        failure = None if row.failure is None else orjson.loads(row.failure)
        return Asked(
            row.id,
            row.client_id,
            row.kind,
            row.url,
            orjson.loads(row.payload),
            _audience_in(row.audience),
            row.separate_status,
            row.state,
            row.progress,
            failure,
            row.created,
            row.expires,
        )

    def state(self, id: str) -> str | None:
        """The state of a request, whatever it is."""
        with snapshot(self._gateway.engine) as connection:
            state: str | None = connection.scalar(sa.select(self._table.c.state).where(self._table.c.id == id))
        return state

    def change(self, id: str, *, only: Sequence[str] = UNFINISHED, **values: Any) -> bool:
        """Write values of a request whose state is one of ``only``; False when it is in another by now."""
        where = (self._table.c.id == id, self._table.c.state.in_(only))
        with transaction(self._gateway.engine) as connection:
            return connection.execute(sa.update(self._table).where(*where).values(values)).rowcount > 0

    def end(self, id: str, state: str, failure: Mapping[str, Any] | None = None) -> bool:
        """Say how a request ended, and begin the time that its answer is kept."""
        expires = time.time() + self._gateway.settings.async_keep_hours * _HOUR
        told = None if failure is None else orjson.dumps(failure).decode()
        return self.change(id, state=state, expires=expires, failure=told, progress=None)

    def delete(self, id: str, book: JobBook) -> None:
        """Forget a request: what is under way stops by itself, and its files are gone."""
        if self.change(id, only=(*UNFINISHED, "done", "failed"), state="cancelled", expires=time.time() + _HOUR):
            job = book.find(id)
            if job is not None and job.state == "waiting":
                book.cancel(id)
        shutil.rmtree(self.folder(id), ignore_errors=True)

    def sweep(self) -> int:
        """Forget what has expired, and files that belong to nothing; how many requests were forgotten."""
        table, now = self._table, time.time()
        # looked at before the rows: a folder that is made meanwhile is of a request that is kept
        folders = list(self.folders.iterdir()) if self.folders.is_dir() else []
        with transaction(self._gateway.engine, lock=_LOCK) as connection:
            gone = list(connection.scalars(sa.select(table.c.id).where(table.c.expires <= now)))
            if gone:
                connection.execute(sa.delete(table).where(table.c.expires <= now))
            kept = set(connection.scalars(sa.select(table.c.id).where(table.c.state != "cancelled")))
        for folder in folders:
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        return len(gone)


def submit(book: JobBook, id: str) -> None:
    """Have a worker carry a request out; nothing happens when it is submitted already."""
    if book.find(id) is None:
        book.submit(JOB, id, request_id=id)


def carry_out(gateway: Gateway, id: str, check: Callable[[], None]) -> str | None:
    """Do what a request asks and write the answer down; the state it is in then."""
    log = RequestLog(gateway)
    try:
        asked = log.get(id)
    except NotFoundError:
        return None
    if not log.change(id, state="running", progress="running"):
        return log.state(id)
    folder = log.folder(id)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        answer = work_of(asked.kind)(Task(gateway, asked, folder, check))
        answer.write(folder)
        kept = log.end(id, "done")
    except Cancelled:
        kept = False
    except Exception as error:
        found = known(error) or error
        if isinstance(found, ControlPlaneError):
            raise  # whoever carries it out waits for the database
        kept = log.end(id, "failed", _failure(found))
        if kept and not isinstance(found, GatewayError):
            _log.exception("request %s of kind %s failed", id, asked.kind)
        if kept:
            raise
    if not kept:  # deleted while it ran
        shutil.rmtree(folder, ignore_errors=True)
    return log.state(id)


def revive(gateway: Gateway, book: JobBook, id: str) -> None:
    """Look after a request that has waited long: its acceptor may have died, or the operator ended its job."""
    job = book.find(id)
    if job is None:
        submit(book, id)
    elif job.state in ("failed", "cancelled"):
        give_up(gateway, id)


def give_up(gateway: Gateway, id: str) -> None:
    """Tell the client of a request that nobody will carry out, or at which workers die, that it failed."""
    failure = {"status": 500, "issue": "exception", "message": "the work was ended before it was done"}
    RequestLog(gateway).end(id, "failed", failure | {"path": None})


def work_of(kind: str) -> Work:
    """What does a kind."""
    module, _, name = KINDS[kind].partition(":")
    found: Work = getattr(import_module(module), name)
    return found


def _failure(error: Exception) -> dict[str, Any]:
    """What the client may know of an error: nothing of the inside."""
    if isinstance(error, GatewayError) and error.status != GatewayError.status:
        path = error.location.path
        said = error.message if isinstance(error, StorageFull) else str(error)  # not where our files lie
        return {"status": error.status, "issue": error.issue_type, "message": said, "path": path}
    return {"status": 500, "issue": "exception", "message": "internal error", "path": None}


def _audience_out(audience: Audience) -> bytes:
    labels = None if audience.labels is None else sorted(audience.labels)
    grants = [(one.resource_type, one.interactions, one.criteria) for one in audience.grants]
    return orjson.dumps([labels, grants, audience.reading, audience.viewer])


def _audience_in(text: bytes) -> Audience:
    labels, grants, reading, viewer = orjson.loads(text)
    found = tuple(Grant(kind, letters, tuple((name, value) for name, value in met)) for kind, letters, met in grants)
    return Audience(None if labels is None else frozenset(labels), found, reading, viewer)


def _instant(epoch: float) -> str:
    milliseconds = int(epoch * 1000)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{moment}.{milliseconds % 1000:03d}Z"
