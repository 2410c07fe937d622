"""``pull``: bring a source into the lake, as a job that goes on where a kill ended it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from fhir_gateway.cli.context import context
from fhir_gateway.cli.jobs import carry_out
from fhir_gateway.errors import ConfigurationError
from fhir_gateway.sources.remote import is_remote
from fhir_gateway.sources.vendors import Mode


def pull(
    command: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A registered endpoint.")] = None,
    files: Annotated[
        list[str] | None, typer.Option(help="Take in a file, folder, archive or s3:// URL; may be repeated.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Name of the source of --files.")] = None,
    type: Annotated[list[str] | None, typer.Option(help="Resource type; may be repeated. Default: all.")] = None,
    since: Annotated[str | None, typer.Option(help="Changes since this instant, or `last`.")] = None,
    group: Annotated[str | None, typer.Option(help="Members of this Group only.")] = None,
    patient: Annotated[list[str] | None, typer.Option(help="This patient id only; may be repeated.")] = None,
    type_filter: Annotated[list[str] | None, typer.Option(help="Bulk Data _typeFilter; may be repeated.")] = None,
    mode: Annotated[str | None, typer.Option(help="bulk or search; default: what the endpoint offers.")] = None,
    partial: Annotated[bool, typer.Option(help="Commit even when files of the export cannot be had.")] = False,
    background: Annotated[bool, typer.Option(help="Leave it to a worker or the server.")] = False,
) -> None:
    """Pull an endpoint (or files) into the lake, and serve who is in it.

    A pull of the same request that was interrupted is gone on with: the same export, no file a second time.
    """
    from fhir_gateway.jobs.pull import begin_endpoint, begin_files

    here = context(command)
    if (name is None) == (not files):
        raise ConfigurationError("name an endpoint, or give --files with a file or folder")
    if files:
        row = begin_files(here.gateway, [one if is_remote(one) else Path(one) for one in files], source or "files")
    else:
        row = begin_endpoint(
            here.gateway,
            str(name),
            types=tuple(type or ()),
            since=since,
            group=group,
            patients=tuple(patient or ()),
            type_filters=tuple(type_filter or ()),
            mode=_mode(mode),
            accept_partial=partial,
        )
    carry_out(here, row.id, background=background)


def _mode(text: str | None) -> Mode | None:
    if text not in (None, "bulk", "search"):
        raise ConfigurationError("mode is bulk or search")
    return cast("Mode | None", text)
