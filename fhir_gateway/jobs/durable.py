"""Carrying out jobs so that they survive kill -9: DBOS remembers which steps of a job were done (ADR 0122).

A process that carries out jobs is a :class:`Worker`. It holds a lock as long as it lives, so that others see when it
is gone and go on with its jobs. DBOS allows one worker in a process.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from dbos import DBOS, SetWorkflowID

from fhir_gateway.errors import ConflictError, GatewayError
from fhir_gateway.factory import Gateway
from fhir_gateway.faults import away
from fhir_gateway.jobs import pull, requests
from fhir_gateway.jobs.alert_delivery import AlertWatch
from fhir_gateway.jobs.book import APPLICATION, QUEUE, QUEUES, VERSION, Job, JobBook, JsonValues, open_database
from fhir_gateway.jobs.calculations import CALCULATIONS
from fhir_gateway.jobs.deliveries import Deliveries
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.outlasting import Abandoned, outlast
from fhir_gateway.jobs.schedules import Schedules
from fhir_gateway.sources.outcome import Progress
from fhir_gateway.telemetry import meters

MOST_RECOVERIES = 5
"""A job at which more processes died than this is left alone: it may be what kills them."""

REQUESTS = QUEUES[requests.JOB]

_PATROL_SECONDS = 5.0
_ROUNDS_ALONE = 12
"""Patrols that find a job of ours with nobody at it before it is begun anew: it may just have been taken."""
_SWEEP_SECONDS = 60.0
_REQUESTS_SECONDS = 0.25
"""How often waiting requests are looked for: somebody polls for them."""

T = TypeVar("T")
_log = logging.getLogger("fhir_gateway.jobs")
_working: Worker | None = None


class Interrupted(BaseException):
    """The worker leaves. No ``Exception``: the job has not failed, the next worker goes on with it."""


class Worker:
    """Carries out jobs in this process while a ``with`` block lasts.

    ``background`` takes jobs that wait, and those of processes that died; without it only what :meth:`pull` is asked.
    """

    def __init__(self, gateway: Gateway, *, background: bool = False, progress: Progress | None = None) -> None:
        self.gateway = gateway
        self.book = JobBook(gateway)
        self.executor = f"{'worker' if background else 'prompt'}-{secrets.token_hex(6)}"
        self.progress = progress
        self._background = background
        self._leaving = threading.Event()
        self._busy = 0
        self._under_way: set[str] = set()
        self._rounds_alone: dict[str, int] = {}
        self._idle = threading.Condition()
        self._held = ExitStack()
        self._patrol: threading.Thread | None = None

    def __enter__(self) -> Self:
        global _working
        if _working is not None:
            raise ConflictError("this process carries out jobs already")
        _working = self
        try:
            self._held.enter_context(hold(self.gateway, f"executor-{self.executor}", once=True, fresh=True))
            DBOS(
                config={
                    "name": APPLICATION,
                    "system_database_url": open_database(self.gateway),
                    "application_version": VERSION,
                    "executor_id": self.executor,
                    "serializer": JsonValues(),
                    "log_level": "ERROR",
                    "use_listen_notify": False,
                }
            )
            DBOS.listen_queues([QUEUE, REQUESTS] if self._background else [])
            DBOS.launch()
            if self._background:
                settings = self.gateway.settings
                DBOS.register_queue(QUEUE, worker_concurrency=settings.jobs_at_once)
                DBOS.register_queue(
                    REQUESTS, worker_concurrency=settings.async_at_once, polling_interval_sec=_REQUESTS_SECONDS
                )
                self._held.enter_context(Deliveries(self.gateway))
                self._held.enter_context(AlertWatch(self.gateway))
                self._held.enter_context(Schedules(self.gateway))
                self._patrol = threading.Thread(target=self._go_on, name="jobs-patrol", daemon=True)
                self._patrol.start()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def pull(self, pull_id: str) -> pull.PullReport:
        """Bring a pull to its end and say what it brought; errors are those of :func:`fhir_gateway.jobs.pull.run`.

        ConflictError when a living process is at it.
        """
        job = self.book.find(pull_id)
        if job is None:
            with SetWorkflowID(pull_id):
                DBOS.start_workflow(_pull, pull_id).get_result()
        else:
            if job.state == "running":
                self._adopt(job, None)
            else:
                self.book.again(pull_id, None)
            DBOS.retrieve_workflow(pull_id).get_result()
        return pull.report(self.gateway, pull_id)

    def check(self) -> None:
        """Raise :class:`Interrupted` when the worker is to leave."""
        if self._leaving.is_set():
            raise Interrupted

    def wait(self) -> bool:
        """Whether to wait for another pull of the same source: nobody at the prompt wants to without knowing."""
        self.check()
        return self._background

    def outlasting(self, work: Callable[[], T]) -> T:
        """Do a step, again where the database went away meanwhile; leave when this worker is to."""
        try:
            return outlast(self.gateway, work, self._leaving.wait)
        except Abandoned:
            raise Interrupted from None

    def go_on(self) -> list[str]:
        """Take over the jobs of processes that died; their ids."""
        taken = []
        for job in self.book.jobs(["running"], limit=1000):
            if job.executor == self.executor:
                self._look_after(job)
                continue
            if job.recoveries >= MOST_RECOVERIES:
                if job.kind == requests.JOB:
                    requests.give_up(self.gateway, job.id)
                continue
            try:
                self._adopt(job, QUEUES.get(job.kind, QUEUE))
            except ConflictError:
                continue
            taken.append(job.id)
            _log.info("going on with job %s of %s, which is gone", job.id, job.executor)
        return taken

    def _look_after(self, job: Job) -> None:
        """Begin a job of ours anew that nobody is at: its end could not be written down, the disk was full."""
        alone = 0 if job.id in self._under_way else self._rounds_alone.get(job.id, 0) + 1
        self._rounds_alone[job.id] = alone
        if alone >= _ROUNDS_ALONE:
            del self._rounds_alone[job.id]
            _log.warning("job %s is not under way any more; beginning it again", job.id)
            self.book.count_recovery(job)
            self.book.again(job.id, QUEUES.get(job.kind, QUEUE))

    def _adopt(self, job: Job, queue: str | None) -> None:
        """Queue a job of a process that died; ConflictError when it lives. Its lock keeps out other adopters."""
        refusal = f"job {job.id} is under way in another process"
        with hold(self.gateway, f"executor-{job.executor}", refusal, once=True):
            now = self.book.job(job.id)
            if (now.state, now.executor) == ("running", job.executor):
                self.book.count_recovery(now)
                self.book.again(job.id, queue)

    def _go_on(self) -> None:
        swept = 0.0
        while not self._leaving.is_set():
            try:
                self.go_on()
                if time.monotonic() - swept > _SWEEP_SECONDS:
                    swept = time.monotonic()
                    requests.RequestLog(self.gateway).sweep()
            except Exception as error:  # noqa: BLE001 - a database that is away for a while must not end the patrol
                _log.error("looking for jobs to go on with failed; trying again", exc_info=not away(error))
            self._leaving.wait(_PATROL_SECONDS)

    @contextmanager
    def _at_work(self, kind: str) -> Iterator[None]:
        id = DBOS.workflow_id or ""
        with self._idle:
            self._busy += 1
            self._under_way.add(id)
        try:
            with meters.job(kind):
                yield
        finally:
            with self._idle:
                self._busy -= 1
                self._under_way.discard(id)
                self._idle.notify_all()

    def _leave(self) -> None:
        """Stop what waits for a source, let what writes come to its end, and give up the lock last."""
        global _working
        self._leaving.set()
        if self._patrol is not None:
            self._patrol.join()
        with self._idle:
            self._idle.wait_for(lambda: self._busy == 0)
        DBOS.destroy()
        self.book.close()
        self._held.close()
        _working = None


@DBOS.workflow(name="pull")
def _pull(pull_id: str) -> dict[str, Any]:
    worker = _worker()
    gateway = worker.gateway
    with worker._at_work("pull"), ExitStack() as held:

        def take_place() -> None:
            held.enter_context(pull.held(gateway, gateway.pulls.get(pull_id).source, worker.wait))

        worker.outlasting(take_place)
        pull.bring(gateway, pull_id, progress=worker.progress, step=_step, check=worker.check, holding=True)
        report = worker.outlasting(lambda: pull.report(gateway, pull_id))
    return {"lake_version": report.lake_version, "complete": report.complete}


@DBOS.workflow(name=requests.JOB)
def _request(request_id: str) -> str | None:
    worker = _worker()
    with worker._at_work(requests.JOB):

        def work() -> str | None:
            return requests.carry_out(worker.gateway, request_id, worker.check)

        return DBOS.run_step({"name": requests.JOB}, lambda: worker.outlasting(work))


def _calculation(kind: str) -> None:
    """Let workers know a kind of calculation."""

    @DBOS.workflow(name=kind)
    def carry_out(asked: dict[str, Any]) -> list[str]:
        worker = _worker()
        with worker._at_work(kind):

            def work() -> list[str]:
                return CALCULATIONS[kind](worker.gateway, asked)

            return DBOS.run_step({"name": kind}, lambda: worker.outlasting(work))


for _kind in CALCULATIONS:
    _calculation(_kind)


def _step(name: str, work: Callable[[], None]) -> None:
    worker = _worker()
    DBOS.run_step({"name": name}, lambda: worker.outlasting(work))


def _worker() -> Worker:
    if _working is None:
        raise GatewayError("no worker carries out jobs in this process")
    return _working
