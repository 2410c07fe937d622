"""``lake``: upkeep of the data plane."""

from __future__ import annotations

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
def retain(
    command: typer.Context,
    background: Annotated[bool, typer.Option(help="Leave it to a worker or the server.")] = False,
) -> None:
    """Remove files that nobody needs: replaced copies, and what killed writers left a day ago."""
    here = context(command)
    if background:
        calculate_later(here, "retain")
        return
    here.output.table("Removed", ("files",), [{"files": here.gateway.lake.retain()}])
