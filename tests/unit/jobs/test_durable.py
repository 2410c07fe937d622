"""Jobs outlive their process, run once, can be cancelled and tried again; quarantine can be replayed."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.config import Settings
from fhir_gateway.errors import ConflictError, LedgerError, NotFoundError, SourceError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import calculations, durable
from fhir_gateway.jobs.book import JobBook, JsonValues
from fhir_gateway.jobs.cancel import cancel
from fhir_gateway.jobs.durable import MOST_RECOVERIES, Worker
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.pull import begin_endpoint, begin_files, pull_endpoint, report, run
from fhir_gateway.jobs.replay import replay
from fhir_gateway.sources.endpoint import Endpoint
from tests.support.databases import KINDS, control_plane
from tests.support.misbehaving import Fault, MisbehavingSource, running
from tests.support.waiting import HANG


@pytest.fixture
def source() -> Iterator[MisbehavingSource]:
    app = MisbehavingSource()
    app.open = True
    with running(app) as root:
        app.base = f"{root}/fhir"
        yield app


@pytest.fixture
def gateway(tmp_path: Path, source: MisbehavingSource) -> Gateway:
    gateway = Gateway(Settings(data_dir=tmp_path / "data"))
    gateway.endpoints.add(Endpoint("ehr", source.base, auth="none"))
    return gateway


@pytest.fixture
def book(gateway: Gateway) -> Iterator[JobBook]:
    with closing(JobBook(gateway)) as book:
        yield book


def ended(book: JobBook, id: str) -> str:
    deadline = time.monotonic() + HANG
    while (job := book.job(id)).state in ("waiting", "running"):
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
    return job.state


def test_a_worker_does_what_was_submitted_and_remembers_the_steps(
    gateway: Gateway, source: MisbehavingSource, book: JobBook
) -> None:
    assert book.jobs() == []
    row = begin_endpoint(gateway, "ehr", mode="bulk")
    assert book.submit("pull", row.id, pull_id=row.id).state == "waiting"
    with pytest.raises(ConflictError, match="waiting already"):
        book.submit("pull", row.id, pull_id=row.id)
    with Worker(gateway, background=True):
        assert ended(book, row.id) == "done"
        with pytest.raises(ConflictError, match="carries out jobs already"), Worker(gateway):
            pass
    assert [step.name for step in book.steps(row.id)] == ["download", "commit", "publish", "close"]
    assert report(gateway, row.id).persons == 5
    assert source.kickoffs == 1
    with pytest.raises(NotFoundError):
        book.job("other")


def test_a_job_that_failed_is_tried_again_with_what_is_here(
    gateway: Gateway, source: MisbehavingSource, book: JobBook
) -> None:
    source.faults["file"] = [Fault(403)]
    row = begin_endpoint(gateway, "ehr", mode="bulk")
    with Worker(gateway) as worker:
        with pytest.raises(SourceError):
            worker.pull(row.id)
        job = book.job(row.id)
        assert job.state == "failed"
        assert job.error is not None
        assert "403" in job.error
        assert begin_endpoint(gateway, "ehr", mode="bulk").id == row.id
        assert worker.pull(row.id).persons == 5
    assert source.kickoffs == 1
    assert len(source.requests("file")) == 3


def test_the_worker_leaves_a_pull_that_waits_and_the_next_goes_on(
    gateway: Gateway, source: MisbehavingSource, book: JobBook
) -> None:
    source.polls_before_done = 10**9
    row = begin_endpoint(gateway, "ehr", mode="bulk")
    book.submit("pull", row.id, pull_id=row.id)
    with Worker(gateway, background=True) as first:
        while not source.requests("poll"):
            time.sleep(0.05)
    job = book.job(row.id)
    assert (job.state, job.executor) == ("running", first.executor)
    source.polls_before_done = 0
    with Worker(gateway, background=True) as second:
        assert ended(book, row.id) == "done"
    job = book.job(row.id)
    assert (job.executor, job.recoveries) == (second.executor, 1)
    assert source.kickoffs == 1


def test_a_job_that_kills_its_processes_is_left_alone(
    gateway: Gateway, source: MisbehavingSource, book: JobBook
) -> None:
    source.polls_before_done = 10**9
    row = begin_endpoint(gateway, "ehr", mode="bulk")
    book.submit("pull", row.id, pull_id=row.id)
    with Worker(gateway, background=True):
        while not source.requests("poll"):
            time.sleep(0.05)
    for _ in range(MOST_RECOVERIES):
        book.count_recovery(book.job(row.id))
    with Worker(gateway) as worker:
        assert worker.go_on() == []


def _pull_in_a_process(folder: str) -> None:
    gateway = Gateway(Settings(data_dir=Path(folder)))
    with Worker(gateway) as worker:
        worker.pull(gateway.pulls.recent()[0].id)


def test_what_a_living_process_does_is_not_done_beside_it(
    gateway: Gateway, source: MisbehavingSource, book: JobBook
) -> None:
    source.polls_before_done = 10**9
    row = begin_endpoint(gateway, "ehr", mode="bulk")
    process = multiprocessing.get_context("spawn").Process(
        target=_pull_in_a_process, args=(str(gateway.data_folder),), daemon=True
    )
    process.start()
    while not source.requests("poll"):
        time.sleep(0.05)
    with Worker(gateway) as worker:
        assert worker.go_on() == []
        with pytest.raises(ConflictError, match="under way in another process"):
            worker.pull(row.id)
        with pytest.raises(ConflictError, match="a pull of ehr is under way"):
            pull_endpoint(gateway, "ehr", mode="bulk", types=("Patient",))
        with pytest.raises(ConflictError, match="a pull of ehr is under way"):
            worker.pull(begin_endpoint(gateway, "ehr", mode="bulk", types=("Patient",)).id)
        process.kill()
        process.join()
        assert worker.go_on() == [row.id]
    assert source.kickoffs == 1
    assert not list((gateway.data_folder / "locks").glob("executor-*"))


def test_a_cancelled_pull_stops_and_its_export_is_deleted(
    gateway: Gateway, source: MisbehavingSource, book: JobBook
) -> None:
    source.polls_before_done = 10**9
    row = begin_endpoint(gateway, "ehr", mode="bulk")
    book.submit("pull", row.id, pull_id=row.id)
    with Worker(gateway, background=True):
        while not source.requests("poll"):
            time.sleep(0.05)
        source.faults["delete"] = [Fault(403)]
        (issue,) = cancel(gateway, book, row.id)
        assert "403" in issue.message
        assert cancel(gateway, book, row.id) == []
        assert ended(book, row.id) == "cancelled"
    assert len(source.requests("delete")) == 2
    assert source.deleted_jobs
    assert gateway.pulls.get(row.id).state == "cancelled"
    assert gateway.pulls.exports(row.id) == {}
    assert not (gateway.staging_folder / row.id).exists()
    with pytest.raises(ConflictError, match="cancelled"):
        run(gateway, row.id)
    source.polls_before_done = 0
    pull_endpoint(gateway, "ehr", mode="bulk")
    with pytest.raises(ConflictError, match="committed"):
        cancel(gateway, book, gateway.pulls.recent()[0].id)


def test_calculations_are_jobs_of_one_step(gateway: Gateway, book: JobBook, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[date, datetime, bool]] = []

    def evaluate(
        gateway: Gateway, packages: list[str], period: tuple[date, date], now: datetime, everybody: bool
    ) -> list[Any]:
        made.append((period[1], now, everybody))
        return []

    monkeypatch.setattr(calculations, "evaluate", evaluate)
    asked = {"packages": [], "period": ["2025-01-01", "2025-12-31"], "now": "2026-01-01T00:00:00+00:00"}
    book.submit("evaluate", calculations.calculation_id("evaluate"), asked=asked)
    book.submit("settle", "settle-1", asked={"contract": "none of these", "now": asked["now"]})
    with Worker(gateway, background=True):
        (job,) = [job for job in book.jobs() if job.kind == "evaluate"]
        assert ended(book, job.id) == "done"
        assert ended(book, "settle-1") == "failed"
    assert made == [(date(2025, 12, 31), datetime(2026, 1, 1, tzinfo=UTC), False)]
    assert [step.name for step in book.steps(job.id)] == ["evaluate"]
    assert "no contract" in (book.job("settle-1").error or "")


def test_refused_lines_are_taken_in_again(gateway: Gateway, tmp_path: Path) -> None:
    lines = [
        {"resourceType": "Patient", "id": "a", "gender": "unknown"},
        {"resourceType": "Patient", "id": "b", "gender": "nobody knows"},
    ]
    (tmp_path / "people.ndjson").write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n")
    first = run(gateway, begin_files(gateway, [tmp_path / "people.ndjson"], "clinic").id)
    assert (first.quarantined, first.persons) == (2, 1)
    mended = json.dumps({**lines[1], "gender": "other"}).encode()
    replayed = replay(gateway, first.pull_id, {("people.ndjson", 2): mended})
    assert (replayed.source, replayed.kind, replayed.quarantined, replayed.persons) == ("clinic", "replay", 1, 2)
    assert gateway.resources.counts()["Patient"] == 2
    assert [(line.file, line.line) for line in gateway.lake.quarantined(first.pull_id)] == [("people.ndjson", 3)]
    with pytest.raises(NotFoundError):
        replay(gateway, "other")


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_is_held_once_and_freed_at_the_end(kind: str, tmp_path: Path) -> None:
    with control_plane(kind, tmp_path) as engine:
        gateway = Gateway(Settings(data_dir=tmp_path / "data"))
        gateway.__dict__["engine"] = engine
        asked: list[bool] = []

        def once() -> bool:
            asked.append(True)
            return len(asked) < 2

        with hold(gateway, "one"), hold(gateway, "two"):
            with pytest.raises(ConflictError, match="held elsewhere"), hold(gateway, "one"):
                pass
            with pytest.raises(ConflictError, match="busy"), hold(gateway, "one", "busy", wait=once):
                pass
        assert len(asked) == 2
        with suppress(LedgerError), hold(gateway, "one"):
            raise LedgerError("an error frees it")
        with hold(gateway, "one", once=True):
            pass
        assert not (gateway.data_folder / "locks" / "one").exists()


@pytest.mark.parametrize("value", [None, 1, "é", [1, "a"], {"args": ["x"], "kwargs": {}}])
def test_values_of_jobs_come_back(value: Any) -> None:
    assert JsonValues().deserialize(JsonValues().serialize(value)) == value


def test_errors_of_jobs_come_back_as_what_they_were() -> None:
    back = JsonValues().deserialize(JsonValues().serialize(SourceError("the server failed")))
    assert isinstance(back, SourceError)
    assert back.message == "the server failed"
    other = JsonValues().deserialize(JsonValues().serialize(OSError("disk full")))
    assert str(other) == "OSError: disk full"
    with pytest.raises(TypeError):
        JsonValues().serialize(object())


def test_no_job_runs_without_a_worker() -> None:
    assert durable._working is None
