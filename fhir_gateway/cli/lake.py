"""``lake``: upkeep of the data plane."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fhir_gateway.cli.context import context
from fhir_gateway.cli.jobs import calculate_later

app = typer.Typer(no_args_is_help=True, help="Upkeep of the lake's files.")


@app.command()
def compact(
    command: typer.Context,
    files: Annotated[int, typer.Option(min=2, help="Put together what rests on so many files.")] = 8,
    background: Annotated[bool, typer.Option(help="Leave it to a worker or the server.")] = False,
) -> None:
    """Put files of many commits together, so that reading opens few; what is read does not change."""
    here = context(command)
    if background:
        calculate_later(here, "compact", files=files)
        return
    rows = [
        {"type": one.resource_type, "files_before": one.files_before, "files": one.files}
        for one in here.gateway.lake.compact(files)
    ]
    here.output.table("Put together", ("type", "files_before", "files"), rows)


@app.command()
def rebucket(
    command: typer.Context,
    buckets: Annotated[
        int | None, typer.Option(min=1, help="A multiple of those there are; default: by the members.")
    ] = None,
    background: Annotated[bool, typer.Option(help="Leave it to a worker or the server.")] = False,
) -> None:
    """Part the lake's members into more buckets, where it has outgrown them; what is read does not change."""
    here = context(command)
    if background:
        calculate_later(here, "rebucket", **({} if buckets is None else {"buckets": buckets}))
        return
    lake = here.gateway.lake
    before = lake.buckets
    rows = [
        {"type": one.resource_type, "files_before": one.files_before, "files": one.files}
        for one in lake.rebucket(buckets)
    ]
    here.output.say(f"{before} buckets" + (f" are {lake.buckets} now" if rows else " are enough"))
    here.output.table("Parted", ("type", "files_before", "files"), rows)


@app.command()
def retain(
    command: typer.Context,
    background: Annotated[bool, typer.Option(help="Leave it to a worker or the server.")] = False,
) -> None:
    """Remove what nobody needs: replaced copies, what killed writers left, by `retain_days` results of before."""
    from datetime import UTC, datetime

    here = context(command)
    if background:
        calculate_later(here, "retain")
        return
    from fhir_gateway.jobs.retention import retain as let_go

    columns = ("files", "evaluations", "attributions", "named")
    here.output.table("Removed", columns, [asdict(let_go(here.gateway, datetime.now(UTC)))])
