"""Commands about whom to call for what: ``outreach``."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import orjson
import typer

from fhir_gateway.cli.context import context
from fhir_gateway.cli.predict import parse_day
from fhir_gateway.errors import ConfigurationError, Location

app = typer.Typer(help="Whom to call for what, and what came of it.", no_args_is_help=True)

_Contract = Annotated[str | None, typer.Option(help="Only the persons of this contract (its id).")]


@app.command()
def refresh(
    command: typer.Context,
    as_of: Annotated[str | None, typer.Option(help="Day that is asked about; default: today.")] = None,
    months: Annotated[int, typer.Option(help="Months without an office visit after which somebody is called.")] = 12,
) -> None:
    """Find all reasons in the newest data; what the data has closed is done."""
    from fhir_gateway.jobs import outreach as job

    here = context(command)
    report = job.refresh(here.gateway, parse_day(as_of, "--as-of"), months=months)
    rows = [{"reason": reason, "items": count} for reason, count in report.reasons.items()]
    rows += [{"reason": f"not to be called: {why}", "items": count} for why, count in report.excluded.items()]
    rows += [{"reason": f"became {state}", "items": count} for state, count in report.changes.items()]
    here.output.table(f"Outreach, {report.day}", ("reason", "items"), rows)
    here.output.say(f"{report.people:,} persons are to be called")


@app.command("list")
def listed(
    command: typer.Context,
    contract: _Contract = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows that are shown.")] = 50,
) -> None:
    """Show who is to be called, the most pressing first."""
    from fhir_gateway.jobs import outreach as job

    here = context(command)
    rows = job.listed(here.gateway, job.of_contract(contract))[:limit]
    shown = [
        one | {"reasons": [why["text"] for why in one["reasons"]], "items": [why["item"] for why in one["reasons"]]}
        for one in rows
    ]
    here.output.table("Outreach", ("member", "priority", "rank", "phone", "language", "reasons", "items"), shown)


@app.command()
def export(
    command: typer.Context,
    file: Annotated[Path, typer.Argument(help="File to write.")],
    form: Annotated[Literal["csv", "fhir"], typer.Option(help="csv, or fhir (NDJSON).")] = "csv",
    contract: _Contract = None,
) -> None:
    """Write the list to a file: a line per person, or NDJSON of CommunicationRequests and Tasks."""
    from fhir_gateway.jobs import outreach as job
    from fhir_gateway.outreach.forms import as_csv, communication_request, tasks

    here = context(command)
    now = datetime.now(UTC)
    rows = job.listed(here.gateway, job.of_contract(contract))
    if form == "csv":
        text = as_csv(rows)
    else:
        made = [one for row in rows for one in (communication_request(row, now), *tasks(row, now))]
        text = "".join(orjson.dumps(one).decode() + "\n" for one in made)
    file.write_text(text, encoding="utf-8", newline="")
    here.output.say(f"{len(rows):,} persons")


@app.command()
def mark(
    command: typer.Context,
    item: Annotated[str, typer.Argument(help="Id of an item.")],
    state: Annotated[Literal["contacted", "declined", "open"], typer.Argument(help="contacted, declined or open.")],
    note: Annotated[str | None, typer.Option(help="A line about it.")] = None,
) -> None:
    """Say what became of an item; that it is done follows from the next data."""
    here = context(command)
    here.gateway.outreach.mark(item, state, f"prompt:{getpass.getuser()}", datetime.now(UTC), note)
    here.output.say(state)


@app.command()
def history(command: typer.Context, item: Annotated[str, typer.Argument(help="Id of an item.")]) -> None:
    """Show what became of an item, when and by whom."""
    here = context(command)
    here.gateway.outreach.item(item)
    rows = [
        {"at": one.at, "by": one.by, "from": one.former, "state": one.state, "note": one.note}
        for one in here.gateway.outreach.history(item)
    ]
    here.output.table("History", ("at", "by", "from", "state", "note"), rows)


@app.command()
def block(
    command: typer.Context,
    file: Annotated[Path, typer.Argument(help="A person's id per line, or CSV with a column `person`.")],
) -> None:
    """Load persons who are not to be contacted."""
    here = context(command)
    if not file.is_file():
        raise ConfigurationError("no such file", location=Location(file=str(file)))
    from fhir_gateway.jobs.outreach import block_file

    new, unknown = block_file(here.gateway, file.read_text(encoding="utf-8-sig"), f"prompt:{getpass.getuser()}")
    here.output.say(f"{new:,} new; persons nobody here is: {unknown:,}")


@app.command()
def unblock(command: typer.Context, person: Annotated[str, typer.Argument(help="Id of the person.")]) -> None:
    """Let a person be contacted again."""
    here = context(command)
    here.gateway.outreach.unblock(person)
    here.output.say("may be contacted again")
