"""``ledger``: where the lines of a pull went, hop by hop and type by type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhir_gateway.cli.context import Context, context

if TYPE_CHECKING:
    from fhir_gateway.jobs.pull import PullReport

_COLUMNS = {
    "type": "resource_type",
    "manifest": "manifest_count",
    "read": "lines_read",
    "stored": "rows_stored",
    "replaced": "rows_replaced",
    "unchanged": "rows_unchanged",
    "quarantined": "rows_quarantined",
    "deleted": "rows_deleted",
}
_ARRIVED = ("files", "bytes", "lines")


def ledger(
    command: typer.Context,
    pull_id: Annotated[str | None, typer.Argument(help="Of this pull; default: totals of the newest.")] = None,
    limit: Annotated[int, typer.Option(help="Most pulls to show.", min=1)] = 20,
) -> None:
    """Show where the lines of pulls went: counted by the sender, on disk, read, and in the lake."""
    here = context(command)
    if pull_id is not None:
        from fhir_gateway.jobs.pull import report

        show_report(here, report(here.gateway, pull_id))
        return
    rows = []
    for row in here.gateway.pulls.recent(limit):
        total = {name: sum(one.get(field) or 0 for one in row.ledger) for name, field in list(_COLUMNS.items())[2:]}
        lines = sum(one["lines"] for one in row.outcome.get("arrived", {}).values())
        rows.append({"pull": row.id, "source": row.source, "state": row.state, "lines": lines, **total})
    here.output.table("Ledger", ("pull", "source", "state", "lines", *list(_COLUMNS)[2:]), rows)


def show_report(here: Context, report: PullReport) -> None:
    """Print what a pull brought: the ledger by hop and type, what the sender reported, what was not asked for."""
    rows = ledger_rows(report)
    if here.output.json:
        here.output.value(_summary(report, rows))
        return
    here.output.table(
        f"{report.source}: pull {report.pull_id}", ("type", "manifest", *_ARRIVED, *list(_COLUMNS)[2:]), rows
    )
    for note in report.notes:
        here.output.say(note)
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


def ledger_rows(report: PullReport) -> list[dict[str, Any]]:
    """A row per resource type: the manifest's count, what arrived, and what the lake made of it.

    Files whose type the sender did not name arrive under no type; their lines are read under their own.
    """
    rows = {
        entry.resource_type or "": {name: getattr(entry, field) for name, field in _COLUMNS.items()}
        for entry in report.ledger.entries
    }
    for kind, one in report.arrived.items():
        rows.setdefault(kind, dict.fromkeys(_COLUMNS) | {"type": kind or None}).update(one)
    return [dict.fromkeys(_ARRIVED) | rows[kind] for kind in sorted(rows)]


def _summary(report: PullReport, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "pull": report.pull_id,
        "source": report.source,
        "kind": report.kind,
        "lake_version": report.lake_version,
        "transaction_time": report.transaction_time,
        "complete": report.complete,
        "persons": report.persons,
        "seconds": round(report.seconds, 3),
        "ledger": rows,
        "notes": list(report.notes),
        "issues": [
            {"severity": i.severity, "message": i.message, "file": i.file, "count": i.count} for i in report.issues
        ],
    }
