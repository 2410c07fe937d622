"""``quarantine``: lines that were refused, and why; how to see one, and how to try them again."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Annotated

import typer

from fhir_gateway.cli.context import context
from fhir_gateway.errors import NotFoundError

app = typer.Typer(help="Lines that were refused, and why.", no_args_is_help=True)

_OF = Annotated[str | None, typer.Argument(help="Of this pull only; default: of all that were not replayed.")]


@app.command("list")
def list_lines(
    command: typer.Context,
    pull_id: _OF = None,
    limit: Annotated[int, typer.Option(help="Most lines to show.", min=1)] = 50,
) -> None:
    """Show refused lines: where they are and which rule they break (never their content)."""
    from fhir_gateway.jobs.replay import refused

    here = context(command)
    found = refused(here.gateway, pull_id)
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
    from fhir_gateway.jobs.replay import refused

    here = context(command)
    counts = Counter((one.resource_type, one.rule, one.path) for one in refused(here.gateway, pull_id))
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
def replay(command: typer.Context, pull_id: Annotated[str, typer.Argument(help="The pull.")]) -> None:
    """Take the refused lines of a pull in again, by the rules of today; those that still break them stay out."""
    from fhir_gateway.cli.jobs import carry_out
    from fhir_gateway.jobs.replay import begin_replay

    here = context(command)
    carry_out(here, begin_replay(here.gateway, pull_id).id, background=False)
