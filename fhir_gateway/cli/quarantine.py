"""``quarantine``: lines that were refused, and why; how to see one, and how to try them again."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from fhir_gateway.cli.context import context
from fhir_gateway.errors import ConfigurationError, Location, NotFoundError

app = typer.Typer(help="Lines that were refused, and why.", no_args_is_help=True)

_OF = Annotated[str | None, typer.Argument(help="Of this pull only; default: of all.")]


@app.command("list")
def list_lines(
    command: typer.Context,
    pull_id: _OF = None,
    limit: Annotated[int, typer.Option(help="Most lines to show.", min=1)] = 50,
) -> None:
    """Show refused lines: where they are and which rule they break (never their content)."""
    here = context(command)
    found = here.gateway.lake.quarantined(pull_id)
    rows = [
        {
            "file": f"{one.file}:{one.line}",
            "type": one.resource_type,
            "path": one.path,
            "rule": one.rule,
            "message": one.message,
        }
        for one in found[:limit]
    ]
    here.output.table("Quarantine", ("file", "type", "path", "rule", "message"), rows)
    if len(found) > limit:
        here.output.say(f"{len(found) - limit:,} more")


@app.command("summary")
def summary(command: typer.Context, pull_id: _OF = None) -> None:
    """Count refused lines by type, rule and path."""
    here = context(command)
    counts = Counter((one.resource_type, one.rule, one.path) for one in here.gateway.lake.quarantined(pull_id))
    rows = [
        {"type": kind, "rule": rule, "path": path, "lines": count} for (kind, rule, path), count in counts.most_common()
    ]
    here.output.table("Quarantine", ("type", "rule", "path", "lines"), rows)


@app.command("show")
def show(
    command: typer.Context,
    pull_id: Annotated[str, typer.Argument(help="The pull.")],
    place: Annotated[str | None, typer.Argument(help="FILE:LINE as `list` shows it; default: every line.")] = None,
    raw: Annotated[bool, typer.Option(help="Print the lines as they came: they name patients.")] = False,
) -> None:
    """Show the OperationOutcome of refused lines, or with --raw the lines themselves, to be mended."""
    here = context(command)
    found = [one for one in here.gateway.lake.quarantined(pull_id) if place in (None, f"{one.file}:{one.line}")]
    if not found:
        raise NotFoundError(f"pull {pull_id} has no refused line{f' at {place}' if place else 's'}")
    if raw:
        for one in found:
            sys.stdout.buffer.write(one.raw.rstrip(b"\n") + b"\n")
        return
    here.output.value([one.outcome() for one in found])


@app.command("replay")
def replay(
    command: typer.Context,
    pull_id: Annotated[str, typer.Argument(help="The pull.")],
    place: Annotated[list[str] | None, typer.Option(help="FILE:LINE that was set right; may be repeated.")] = None,
    mended: Annotated[list[Path] | None, typer.Option(help="File with the line set right, for each --place.")] = None,
) -> None:
    """Take the refused lines of a pull in again, by the rules of today; those that still break them stay out."""
    from fhir_gateway.cli.ledger import show_report
    from fhir_gateway.jobs.replay import replay as take_in_again

    here = context(command)
    edits = _edits(place or [], mended or [])
    with here.output.progress() as progress:
        report = take_in_again(here.gateway, pull_id, edits, progress=progress)
    show_report(here, report)


def _edits(places: list[str], files: list[Path]) -> dict[tuple[str, int], bytes]:
    if len(places) != len(files):
        raise ConfigurationError("give a --mended file for each --place")
    edits = {}
    for place, file in zip(places, files, strict=True):
        name, _, line = place.rpartition(":")
        if not name or not line.isdigit():
            raise ConfigurationError("a place is FILE:LINE, as `quarantine list` shows it")
        try:
            edits[name, int(line)] = file.read_bytes().strip()
        except OSError as error:
            raise ConfigurationError("cannot be read", location=Location(file=str(file))) from error
    return edits
