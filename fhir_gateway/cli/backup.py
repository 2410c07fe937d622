"""``backup``, ``restore``: everything of one moment, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fhir_gateway.cli.context import context, read_settings
from fhir_gateway.jobs import backup as backups

_Folder = Annotated[Path, typer.Argument(help="Folder of the backup.")]


def backup(
    command: typer.Context,
    folder: _Folder,
    key: Annotated[bool, typer.Option(help="Include the key that secrets are encrypted with.")] = True,
) -> None:
    """Copy control plane, lake and results of one moment into a new folder, while everything goes on."""
    here = context(command)
    _tell(command, "backed up", backups.backup(here.gateway, folder, key=key))


def restore(
    command: typer.Context,
    folder: _Folder,
    check: Annotated[bool, typer.Option("--check", help="Only compare every file with what was written.")] = False,
) -> None:
    """Put a backup into the data folder, lake and database of the settings, which must be empty."""
    if check:
        _tell(command, "whole", backups.verify(folder))
    else:
        _tell(command, "restored", backups.restore(folder, read_settings(context(command).data_dir)))


def _tell(command: typer.Context, what: str, made: backups.Backup) -> None:
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
