"""Commands that bring data in and show what is there: ``pull``, ``quarantine``, ``status``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from fhir_gateway.cli.context import Context, context
from fhir_gateway.errors import ConfigurationError, SourceError
from fhir_gateway.sources.vendors import Mode

quarantine = typer.Typer(help="Lines that were refused, and why.", no_args_is_help=True)

_LEDGER = {
    "type": "resource_type",
    "manifest": "manifest_count",
    "read": "lines_read",
    "stored": "rows_stored",
    "replaced": "rows_replaced",
    "unchanged": "rows_unchanged",
    "quarantined": "rows_quarantined",
}


def pull(
    command: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A registered endpoint.")] = None,
    files: Annotated[list[Path] | None, typer.Option(help="Take in a file or folder; may be repeated.")] = None,
    source: Annotated[str | None, typer.Option(help="Name of the source of --files.")] = None,
    type: Annotated[list[str] | None, typer.Option(help="Resource type; may be repeated. Default: all.")] = None,
    since: Annotated[str | None, typer.Option(help="Changes since this instant, or `last`.")] = None,
    group: Annotated[str | None, typer.Option(help="Members of this Group only.")] = None,
    type_filter: Annotated[list[str] | None, typer.Option(help="Bulk Data _typeFilter; may be repeated.")] = None,
    mode: Annotated[str | None, typer.Option(help="bulk or search; default: what the endpoint offers.")] = None,
    partial: Annotated[bool, typer.Option(help="Commit even when files of the export cannot be had.")] = False,
) -> None:
    """Pull an endpoint (or files) into the lake, and serve who is in it."""
    from fhir_gateway.jobs.pull import PullReport, pull_endpoint, pull_files

    here = context(command)
    if (name is None) == (not files):
        raise ConfigurationError("name an endpoint, or give --files with a file or folder")
    report: PullReport
    with here.output.progress() as progress:
        if files:
            report = pull_files(here.gateway, files, source or "files", progress=progress)
        else:
            report = pull_endpoint(
                here.gateway,
                str(name),
                types=tuple(type or ()),
                since=since,
                group=group,
                type_filters=tuple(type_filter or ()),
                mode=_mode(mode),
                accept_partial=partial,
                progress=progress,
            )
    _show(here, report)
    if not report.complete:
        raise SourceError(f"the pull is committed, but {report.source} did not give everything; see the warnings")


def _show(here: Context, report: Any) -> None:
    rows = [{name: getattr(entry, attribute) for name, attribute in _LEDGER.items()} for entry in report.ledger.entries]
    if here.output.json:
        summary = {
            "pull": report.pull_id,
            "source": report.source,
            "kind": report.kind,
            "lake_version": report.lake_version,
            "transaction_time": report.transaction_time,
            "complete": report.complete,
            "persons": report.persons,
            "seconds": round(report.seconds, 3),
            "ledger": rows,
            "issues": [{"severity": i.severity, "message": i.message, "file": i.file} for i in report.issues],
        }
        here.output.value(summary)
        return
    here.output.table(f"{report.source}: pull {report.pull_id}", tuple(_LEDGER), rows)
    for issue in report.issues:
        if issue.severity != "information":
            count = f" ({issue.count})" if issue.count else ""
            here.output.warn(f"{issue.file + ': ' if issue.file else ''}{issue.message}{count}")
    if report.quarantined:
        here.output.warn(f"{report.quarantined} lines are in quarantine: fhir-gateway quarantine list {report.pull_id}")
    lines = sum(row["read"] or 0 for row in rows)
    here.output.say(
        f"{lines:,} lines in {report.seconds:.1f} s; {report.persons:,} persons; lake version {report.lake_version}"
    )


def _mode(text: str | None) -> Mode | None:
    if text not in (None, "bulk", "search"):
        raise ConfigurationError("mode is bulk or search")
    return cast("Mode | None", text)


@quarantine.command("list")
def quarantine_list(
    command: typer.Context,
    pull_id: Annotated[str | None, typer.Argument(help="Of this pull only.")] = None,
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


@quarantine.command("summary")
def quarantine_summary(
    command: typer.Context, pull_id: Annotated[str | None, typer.Argument(help="Of this pull only.")] = None
) -> None:
    """Count refused lines by type, rule and path."""
    here = context(command)
    counts = Counter((one.resource_type, one.rule, one.path) for one in here.gateway.lake.quarantined(pull_id))
    rows = [
        {"type": kind, "rule": rule, "path": path, "lines": count} for (kind, rule, path), count in counts.most_common()
    ]
    here.output.table("Quarantine", ("type", "rule", "path", "lines"), rows)


def status(command: typer.Context) -> None:
    """Show what the gateway holds: sources, pulls, lake, results, served resources."""
    here = context(command)
    gateway = here.gateway
    lake = gateway.lake
    pulls = [
        {
            "pull": row.id,
            "source": row.source,
            "kind": row.kind,
            "state": row.state,
            "complete": row.complete if row.state == "committed" else None,
            "finished": (row.finished or "")[:19],
        }
        for row in gateway.pulls.recent(10)
    ]
    stored = [{"type": kind, "rows": lake.read(kind).num_rows} for kind in lake.types()]
    served = [{"type": kind, "resources": count} for kind, count in gateway.resources.counts().items()]
    endpoints = [one.name for one in gateway.endpoints.all()]
    runs = gateway.results.runs()
    if here.output.json:
        here.output.value(
            {
                "endpoints": endpoints,
                "lake_version": lake.version,
                "members": len(lake.members()),
                "pulls": pulls,
                "lake": stored,
                "served": served,
                "results": list(runs),
            }
        )
        return
    here.output.say(f"endpoints: {', '.join(endpoints) or 'none'}")
    here.output.say(f"lake: version {lake.version}, {len(lake.members()):,} persons; results: {len(runs)}")
    here.output.table("Pulls", ("pull", "source", "kind", "state", "complete", "finished"), pulls)
    here.output.table("In the lake", ("type", "rows"), stored)
    here.output.table("Served", ("type", "resources"), served)
