"""The book of jobs: what waits, runs, failed; how to cancel a job and how to try it again. Runs nothing itself."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, get_args

import orjson
from dbos import DBOS, DBOSClient, Serializer, WorkflowStatus
from sqlalchemy import make_url

from fhir_gateway import errors
from fhir_gateway.errors import ConflictError, GatewayError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.locks import hold

APPLICATION = "fhir-gateway"
QUEUE = "jobs"
"""Where jobs wait for a worker; a job that runs in the foreground never waits there."""
QUEUES: Mapping[str, str] = {"request": "requests"}
"""Queues of kinds that wait elsewhere: clients' requests and the operator's jobs do not hold each other up."""

VERSION = "1"
"""Jobs of another version are not gone on with. Raise it when the steps of a job change their order or meaning."""

State = Literal["waiting", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
ENDED: frozenset[State] = frozenset({"done", "failed", "cancelled"})

_STATES: Mapping[str, State] = {
    "DELAYED": "waiting",
    "ENQUEUED": "waiting",
    "PENDING": "running",
    "SUCCESS": "done",
    "ERROR": "failed",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
    "CANCELLED": "cancelled",
}


@dataclass(frozen=True, slots=True)
class Job:
    """One job. `executor` is the process that took it last; `recoveries` counts processes that died at it."""

    id: str
    kind: str
    state: State
    executor: str | None
    recoveries: int
    created: str
    updated: str
    error: str | None


@dataclass(frozen=True, slots=True)
class JobStep:
    """A step that came to its end. The step under way is not written down yet."""

    name: str
    finished: str
    seconds: float
    error: str | None


class JobBook:
    """The jobs of a gateway, as any process may see and change them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def close(self) -> None:
        """Let go of the database."""
        if client := self.__dict__.pop("_client", None):
            client.destroy()

    def jobs(self, states: Sequence[State] = (), limit: int = 50, skip: int = 0) -> list[Job]:
        """The newest jobs first, of the states given."""
        wanted = [name for name, state in _STATES.items() if not states or state in states]
        rows = self._client.list_workflows(
            status=wanted, limit=limit, offset=skip or None, sort_desc=True, load_input=False, load_output=False
        )
        return [_job(row) for row in rows]

    def under_way(self) -> Mapping[tuple[str, str], int]:
        """How many jobs wait and run, by kind and state."""
        rows = self._client.list_workflows(
            status=[name for name, state in _STATES.items() if state in ("waiting", "running")],
            load_input=False,
            load_output=False,
        )
        return Counter((row.name, _STATES[row.status]) for row in rows)

    def find(self, id: str) -> Job | None:
        """The job of that id, if there is one."""
        rows = self._client.list_workflows(workflow_ids=[id])
        return _job(rows[0]) if rows else None

    def job(self, id: str) -> Job:
        """The job of that id."""
        found = self.find(id)
        if found is None:
            raise NotFoundError(f"no job {id}")
        return found

    def steps(self, id: str) -> list[JobStep]:
        """The steps of a job that came to their end, in order."""
        self.job(id)
        return [
            JobStep(
                row["function_name"],
                _time(row["completed_at_epoch_ms"]),
                ((row["completed_at_epoch_ms"] or 0) - (row["started_at_epoch_ms"] or 0)) / 1000,
                _text(row["error"]),
            )
            for row in self._client.list_workflow_steps(id)
        ]

    def submit(self, kind: str, id: str, /, **arguments: Any) -> Job:
        """Let a worker do a job of that kind. ConflictError when the job is waiting or under way already."""
        found = self.find(id)
        if found is not None and found.state in ("waiting", "running"):
            raise ConflictError(f"job {id} is {found.state} already")
        if found is not None:
            self.again(id, QUEUES.get(kind, QUEUE))
        else:
            queue = QUEUES.get(kind, QUEUE)
            self._client.enqueue(
                {"workflow_name": kind, "workflow_id": id, "queue_name": queue, "app_version": VERSION}, **arguments
            )
        return self.job(id)

    def once(self, kind: str, id: str, /, **arguments: Any) -> bool:
        """Let a worker do a job of that kind unless there is or was one of that id; whether there was none.

        Of several processes that say so at once, each may hear that there was none: the job is one all the same.
        """
        if self.find(id) is not None:
            return False
        queue = QUEUES.get(kind, QUEUE)
        self._client.enqueue(
            {"workflow_name": kind, "workflow_id": id, "queue_name": queue, "app_version": VERSION}, **arguments
        )
        return True

    def again(self, id: str, queue: str | None) -> None:
        """Begin a job anew that has ended, or whose process has died; steps decide themselves what is left to do."""
        if self.job(id).state in ("done", "failed", "cancelled"):
            self._client.rewind_workflow(id, queue_name=queue)
        else:
            self._client.resume_workflow(id, queue_name=queue)

    def cancel(self, id: str) -> None:
        """Take a job out of the book's hands: it is not begun, and not gone on with. What runs is not stopped here."""
        if self.job(id).state in ("waiting", "running"):
            self._client.cancel_workflow(id)

    def count_recovery(self, job: Job) -> None:
        """Write down that a process died at a job."""
        self._client.update_workflow_attributes(job.id, {"recoveries": job.recoveries + 1})

    @cached_property
    def _client(self) -> DBOSClient:
        url = open_database(self._gateway)
        return DBOSClient(
            system_database_url=url,
            serializer=JsonValues(),
            application_name=APPLICATION,
            retry_connection_errors=False,  # whoever asks is told that the database is away, and does not hang
        )


def open_database(gateway: Gateway) -> str:
    """Make or upgrade the tables of jobs, and say where they are.

    Beside the control plane's tables in PostgreSQL (schema ``dbos``), in a file of their own with SQLite.
    """
    if gateway.engine.dialect.name == "postgresql":
        place = make_url(gateway.settings.resolved_database_url).set(drivername="postgresql+psycopg")
        url = place.render_as_string(hide_password=False)
    else:
        file = gateway.data_folder / "jobs.db"
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
        url = f"sqlite:///{file}"
    _quiet()
    # Of several that make them at once in SQLite all but one would fail; in PostgreSQL DBOS waits no longer than 30 s.
    with hold(gateway, "tables-of-jobs", wait=lambda: True, fresh=True):
        DBOS.migrate(url)
    return url


def _quiet() -> None:
    """DBOS logs errors through the gateway's logging, not to a stream of its own choice."""
    logger = logging.getLogger("dbos")
    logger.setLevel(logging.ERROR)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


class JsonValues(Serializer):
    """Inputs, results and errors of jobs as JSON; an error of ours comes back as the class it was."""

    def serialize(self, data: Any) -> str:
        """As JSON; TypeError for what is no JSON value."""
        return orjson.dumps(data, default=_error_out).decode()

    def deserialize(self, serialized_data: str) -> Any:
        """What was serialized; tuples come back as lists."""
        value = orjson.loads(serialized_data)
        return _error_in(value) if isinstance(value, dict) and "error" in value else value

    def name(self) -> str:
        """How DBOS marks values of this form."""
        return "fhir_gateway_json"


def _error_out(value: Any) -> dict[str, str]:
    if isinstance(value, BaseException):
        return {"error": type(value).__name__, "message": str(value)}
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _error_in(value: Mapping[str, str]) -> Exception:
    kind = getattr(errors, value["error"], None)
    if isinstance(kind, type) and issubclass(kind, GatewayError):
        return kind(value["message"])
    return GatewayError(f"{value['error']}: {value['message']}")


def _job(row: WorkflowStatus) -> Job:
    return Job(
        id=row.workflow_id,
        kind=row.name,
        state=_STATES[row.status],
        executor=row.executor_id,
        recoveries=(row.attributes or {}).get("recoveries", 0),
        created=_time(row.created_at),
        updated=_time(row.updated_at),
        error=_text(row.error),
    )


def _text(error: Exception | None) -> str | None:
    return None if error is None else str(error)


def _time(milliseconds: int | None) -> str:
    return datetime.fromtimestamp((milliseconds or 0) / 1000, UTC).isoformat(timespec="seconds")
