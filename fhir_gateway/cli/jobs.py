"""Commands for durable work: ``jobs``, ``worker``."""

from __future__ import annotations

import signal
import threading
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from fhir_gateway.cli.context import Context, context
from fhir_gateway.cli.ledger import show_report
from fhir_gateway.errors import ConfigurationError, SourceError

app = typer.Typer(help="Work that outlives the process: what waits, runs, failed.", no_args_is_help=True)

_STATES = ("waiting", "running", "done", "failed", "cancelled")


@app.command("list")
def list_jobs(
    command: typer.Context,
    state: Annotated[list[str] | None, typer.Option(help=f"{', '.join(_STATES)}; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(help="Most jobs to show.", min=1)] = 50,
) -> None:
    """Show jobs, the newest first."""
    here = context(command)
    unknown = set(state or ()) - set(_STATES)
    if unknown:
        raise ConfigurationError(f"a state is one of {', '.join(_STATES)}")
    with _book(here) as book:
        rows = [asdict(job) for job in book.jobs(state or (), limit)]
    here.output.table("Jobs", ("id", "kind", "state", "created", "updated", "recoveries", "error"), rows)


@app.command("show")
def show(command: typer.Context, id: Annotated[str, typer.Argument(help="Of the job.")]) -> None:
    """Show a job and the steps it has behind it."""
    here = context(command)
    with _book(here) as book:
        job, steps = asdict(book.job(id)), [asdict(step) for step in book.steps(id)]
    if here.output.json:
        here.output.value({**job, "steps": steps})
        return
    for name, value in job.items():
        here.output.say(f"{name}: {'' if value is None else value}")
    here.output.table("Steps that are done", ("name", "finished", "seconds", "error"), steps)


@app.command("cancel")
def cancel_job(command: typer.Context, id: Annotated[str, typer.Argument(help="Of the job.")]) -> None:
    """Stop a pull wherever it runs, and delete its export at the server; keep a calculation from beginning."""
    from fhir_gateway.jobs.cancel import cancel

    here = context(command)
    with _book(here) as book:
        job = book.find(id)
        if job is not None and job.kind != "pull":
            book.cancel(id)
        else:
            for issue in cancel(here.gateway, book, id):
                here.output.warn(f"{issue.message}; `fhir-gateway jobs cancel {id}` tries again")
    here.output.say(f"{id} is cancelled")


@app.command("retry")
def retry(
    command: typer.Context,
    id: Annotated[str, typer.Argument(help="Of the job.")],
    background: Annotated[bool, typer.Option(help="Leave it to a worker or the server.")] = False,
) -> None:
    """Go on with a job that failed or was interrupted; what it has done already is not done again."""
    from fhir_gateway.jobs.book import QUEUE

    here = context(command)
    with _book(here) as book:
        job = book.find(id)
        if job is not None and job.kind != "pull":
            book.again(id, QUEUE)
            _waits(here, id)
            return
    carry_out(here, id, background=background)


def worker(command: typer.Context) -> None:
    """Carry out jobs until stopped, those of processes that died among them; any number may run."""
    from contextlib import ExitStack

    from fhir_gateway.jobs.durable import Worker
    from fhir_gateway.logs import configure
    from fhir_gateway.telemetry.scrape import ScrapePort

    here = context(command)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    configure(here.gateway.settings.log_format, here.gateway.settings.log_level)
    with ExitStack() as beside:
        at_work = beside.enter_context(Worker(here.gateway, background=True))
        here.output.say(f"carrying out jobs as {at_work.executor}")
        settings = here.gateway.settings
        if settings.metrics_port is not None:
            token = settings.metrics_token.get_secret_value() if settings.metrics_token else None
            port = beside.enter_context(ScrapePort(settings.metrics_port, token)).port
            here.output.say(f"metrics at port {port}")
        stopped.wait()


def carry_out(here: Context, pull_id: str, *, background: bool) -> None:
    """Bring a pull to its end here, with progress, or leave it to a worker; show what it brought."""
    if background:
        with _book(here) as book:
            book.submit("pull", pull_id, pull_id=pull_id)
        _waits(here, pull_id)
        return
    from fhir_gateway.jobs.durable import Worker

    with here.output.progress() as progress, Worker(here.gateway, progress=progress) as at_work:
        report = at_work.pull(pull_id)
    show_report(here, report)
    if not report.complete:
        raise SourceError(f"the pull is committed, but {report.source} did not give everything; see the warnings")


def calculate_later(here: Context, kind: str, **asked: Any) -> None:
    """Leave a calculation to a worker; without an instant in what is asked it is made for the present."""
    from fhir_gateway.jobs.calculations import calculation_id

    id = calculation_id(kind)
    now = asked.pop("now", None) or datetime.now(UTC)
    with _book(here) as book:
        book.submit(kind, id, asked={**asked, "now": now.isoformat()})
    _waits(here, id)


def _waits(here: Context, id: str) -> None:
    if here.output.json:
        here.output.value({"id": id, "state": "waiting"})
    here.output.say(f"{id} waits for a worker or the server: fhir-gateway jobs show {id}")


def _book(here: Context) -> Any:
    from contextlib import closing

    from fhir_gateway.jobs.book import JobBook

    return closing(JobBook(here.gateway))
