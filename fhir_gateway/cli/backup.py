"""``backup``, ``restore``: everything of one moment, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fhir_gateway.cli.context import context, read_settings

if TYPE_CHECKING:
    from fhir_gateway.jobs.backup import Backup

_Folder = Annotated[Path, typer.Argument(help="Folder of the backup.")]


def backup(
    command: typer.Context,
    folder: _Folder,
    key: Annotated[bool, typer.Option(help="Include the key that secrets are encrypted with.")] = True,
) -> None:
    """Copy control plane, lake and results of one moment into a new folder, while everything goes on."""
    from fhir_gateway.jobs import backup as job

    _tell(command, "backed up", job.backup(context(command).gateway, folder, key=key))


def restore(
    command: typer.Context,
    folder: _Folder,
    check: Annotated[bool, typer.Option("--check", help="Only compare every file with what was written.")] = False,
) -> None:
    """Put a backup into the data folder, lake and database of the settings, which must be empty."""
    from fhir_gateway.jobs import backup as job

    if check:
        _tell(command, "whole", job.verify(folder))
    else:
        _tell(command, "restored", job.restore(folder, read_settings(context(command).data_dir)))


def _tell(command: typer.Context, what: str, made: Backup) -> None:
    output = context(command).output
    count, size = len(made.files), sum(size for size, _ in made.files.values())
    if output.json:
        told = {"made_at": made.made_at, "lake_version": made.lake_version, "files": count, "bytes": size}
        output.value(told)
        return
    output.say(
        f"{what}: lake version {made.lake_version}, {count:,} files, {size / 1e6:,.1f} MB,"
        f" of {made.made_at[:19]}Z by {made.engine_version}" + ("" if made.with_key else "; without the key of secrets")
    )
