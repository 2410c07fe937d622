"""Bulk Data export: what a kick-off asks for, and the jobs that write the files.

Source: Bulk Data Access 3.0.0, with the manifest keys and the GET kick-off that 2.0.0 clients need.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.errors import AuthorizationError, InputError, NotFoundError
from fhir_gateway.r4.spec import patient_element
from fhir_gateway.sandbox.server.folder import UNKNOWN_TIME, ResourceFolder, Rows
from fhir_gateway.sandbox.server.outcome import operation_outcome, too_many
from fhir_gateway.sandbox.server.parameters import Parameters, instant, single, words

Level = Literal["system", "patient", "group"]

_OUTPUT_FORMATS = frozenset({"application/fhir+ndjson", "application/ndjson", "ndjson"})
_PARAMETERS = frozenset({"_type", "_since", "_outputFormat"})
#: Types without a patient that Patient and Group exports hold whole, because the others refer to them.
_SUPPORTING = frozenset({"Organization", "Practitioner", "PractitionerRole", "Location", "Medication"})
_ACTIVE_JOBS_PER_CLIENT = 4

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """A kick-off that was understood and allowed."""

    level: Level
    request: str  # the kick-off URL, for the manifest
    client_id: str
    types: tuple[str, ...]
    since: int | None  # epoch µs, exclusive
    group_row: int | None
    ignored: tuple[str, ...]  # what lenient handling left out, for the error file


def understand(
    folder: ResourceFolder,
    token: AccessToken,
    parameters: Parameters,
    *,
    level: Level,
    request: str,
    group_id: str | None = None,
    lenient: bool = False,
) -> ExportRequest:
    """Check a kick-off against folder and scopes.

    Without ``_type`` the export is of every type that the client may read and search. InputError for what is not
    supported (unless ``lenient``: then it is ignored and said so in an error file), AuthorizationError for scopes
    that are too narrow, NotFoundError for an unknown Group.
    """
    group_row = None
    if group_id is not None:
        token.require("Group", "r")
        group_row = folder.index("Group").row(group_id)
        if group_row is None:
            raise NotFoundError("there is no Group of that id")
    available = [name for name in folder.types if level == "system" or _belongs(name)]
    unsupported = [f"parameter {name}" for name in sorted({name for name, _ in parameters} - _PARAMETERS)]
    wanted = list(dict.fromkeys(words(parameters, "_type")))
    unsupported += [f"_type {name} at this level" for name in wanted if name not in available]
    if unsupported and not lenient:
        raise InputError(f"not supported: {', '.join(unsupported)}")
    output_format = single(parameters, "_outputFormat") or "application/fhir+ndjson"
    if output_format not in _OUTPUT_FORMATS:
        raise InputError("_outputFormat must be application/fhir+ndjson")
    since = single(parameters, "_since")
    types = [name for name in wanted if name in available]
    if not wanted:
        types = [name for name in available if token.allows(name, "r") and token.allows(name, "s")]
        if not types:
            raise AuthorizationError("the token's scopes allow the export of no type")
    for name in types:
        token.require(name, "rs")
    return ExportRequest(
        level,
        request,
        token.client_id,
        tuple(types),
        None if since is None else instant(since, "_since"),
        group_row,
        tuple(unsupported),
    )


def _belongs(resource_type: str) -> bool:
    return (
        resource_type == "Patient"
        or resource_type in _SUPPORTING
        or (patient_element(resource_type) is not None and resource_type != "Group")
    )


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file of an export: its name below the job's URL, the type of its resources, how many."""

    name: str
    resource_type: str
    count: int


@dataclass(slots=True)
class ExportJob:
    """A running or finished export."""

    id: str
    asked: ExportRequest
    folder: Path
    transaction_time: str
    progress: str = "queued"
    output: tuple[OutputFile, ...] = ()
    errors: tuple[OutputFile, ...] = ()
    expires_at: float | None = None  # epoch seconds, set when complete
    cancelled: threading.Event = field(default_factory=threading.Event)
    work: Future[None] | None = None

    @property
    def finished(self) -> bool:
        """True when the work is over, well or badly."""
        return self.work is not None and self.work.done()

    @property
    def expired(self) -> bool:
        """True when the files are gone."""
        return self.expires_at is not None and time.time() >= self.expires_at

    def failure(self) -> BaseException | None:
        """What ended the work, None when it went well."""
        return None if self.work is None else self.work.exception()


class ExportJobs:
    """The jobs of one sandbox; their state lives as long as the process."""

    def __init__(
        self,
        folder: ResourceFolder,
        directory: Path,
        executor: Executor,
        *,
        rows_per_file: int,
        file_lifetime_seconds: float,
        retry_after: int,
    ) -> None:
        self._folder = folder
        self._directory = directory
        self._executor = executor
        self._rows_per_file = rows_per_file
        self._lifetime = file_lifetime_seconds
        self._retry_after = retry_after
        self._jobs: dict[str, ExportJob] = {}
        self._lock = threading.Lock()

    def start(self, asked: ExportRequest) -> ExportJob:
        """Start a job; 429 when the client has too many running."""
        identifier = secrets.token_urlsafe(18)
        # Nothing in the folder changes, so that the moment of the kick-off is the moment of the data.
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        job = ExportJob(identifier, asked, self._directory / identifier, now)
        with self._lock:
            running = [j for j in self._jobs.values() if j.asked.client_id == asked.client_id and not j.finished]
            if len(running) >= _ACTIVE_JOBS_PER_CLIENT:
                raise too_many("too many exports of this client are running", self._retry_after)
            self._jobs[identifier] = job
            job.work = self._executor.submit(self._run, job)
        return job

    def find(self, job_id: str, client_id: str) -> ExportJob:
        """The client's own job; NotFoundError for any other. The files of an expired one are removed."""
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None or job.asked.client_id != client_id:
            raise NotFoundError("there is no such export")
        if job.expired:
            shutil.rmtree(job.folder, ignore_errors=True)  # what is being downloaded stays readable
        return job

    def delete(self, job: ExportJob) -> None:
        """Cancel or forget a job and remove its files."""
        with self._lock:
            self._jobs.pop(job.id, None)
        job.cancelled.set()
        if job.work is not None and (job.work.cancel() or job.work.done()):
            shutil.rmtree(job.folder, ignore_errors=True)  # else the job itself does, when it notices

    def close(self) -> None:
        """Cancel everything and wait until nothing writes any more."""
        for job in list(self._jobs.values()):
            self.delete(job)
        self._executor.shutdown(wait=True)

    def _run(self, job: ExportJob) -> None:
        try:
            job.folder.mkdir(parents=True)
            output: list[OutputFile] = []
            patients = self._patients(job.asked)
            for number, resource_type in enumerate(job.asked.types):
                job.progress = f"{100 * number // len(job.asked.types)}% {resource_type}"
                rows = self._rows(job.asked, resource_type, patients)
                output += self._write(job, resource_type, rows)
            job.errors = self._write_ignored(job)
            job.output = tuple(output)
            job.expires_at = time.time() + self._lifetime
        except _Cancelled:
            _logger.info("export %s was cancelled", job.id)
        except Exception:
            _logger.exception("export %s failed", job.id)
            raise  # to the poll, through the future
        finally:
            if job.cancelled.is_set():
                shutil.rmtree(job.folder, ignore_errors=True)

    def _patients(self, asked: ExportRequest) -> Rows | None:
        return None if asked.group_row is None else self._folder.members(asked.group_row)

    def _rows(self, asked: ExportRequest, resource_type: str, patients: Rows | None) -> Rows:
        index = self._folder.index(resource_type)
        rows = self._folder.exportable(resource_type)
        if asked.level != "system" and resource_type not in _SUPPORTING:
            rows = rows[index.patient[rows] >= 0]
            if patients is not None:
                rows = rows[np.isin(index.patient[rows], patients)]
        if asked.since is not None:  # what has no time may have changed
            updated = index.updated[rows]
            rows = rows[(updated > asked.since) | (updated == UNKNOWN_TIME)]
        return rows

    def _write(self, job: ExportJob, resource_type: str, rows: Rows) -> list[OutputFile]:
        files = []
        for number, at in enumerate(range(0, len(rows), self._rows_per_file), start=1):
            part = rows[at : at + self._rows_per_file]
            name = f"{resource_type}.{number}.ndjson"
            with (job.folder / name).open("wb") as sink:
                for _ in self._folder.write(resource_type, part, sink):
                    if job.cancelled.is_set():
                        raise _Cancelled
            files.append(OutputFile(name, resource_type, len(part)))
        return files

    def _write_ignored(self, job: ExportJob) -> tuple[OutputFile, ...]:
        if not job.asked.ignored:
            return ()
        outcomes = [operation_outcome("warning", "not-supported", f"ignored: {text}") for text in job.asked.ignored]
        name = "OperationOutcome.1.ndjson"
        (job.folder / name).write_text("".join(json.dumps(outcome) + "\n" for outcome in outcomes), encoding="utf-8")
        return (OutputFile(name, "OperationOutcome", len(outcomes)),)


class _Cancelled(Exception):
    """The client deleted the job while it ran."""


def manifest(job: ExportJob, address: Callable[[str], str]) -> dict[str, Any]:
    """The manifest of a complete job; ``address`` gives a file's URL."""

    def items(files: Collection[OutputFile]) -> list[dict[str, Any]]:
        return [{"type": file.resource_type, "url": address(file.name), "count": file.count} for file in files]

    return {
        "transactionTime": job.transaction_time,
        "request": job.asked.request,
        "requiresAccessToken": True,
        "output": items(job.output),
        "deleted": [],
        "error": items(job.errors),
    }
