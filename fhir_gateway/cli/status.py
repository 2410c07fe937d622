"""``status``: what the gateway holds."""

from __future__ import annotations

import typer

from fhir_gateway.cli.context import context


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
    marks = [
        {"source": row.source, "type": row.resource_type, "until": row.transaction_time, "full": row.full_at[:19]}
        for row in gateway.pulls.watermarks()
    ]
    endpoints = [one.name for one in gateway.endpoints.all()]
    runs = gateway.results.runs()
    if here.output.json:
        here.output.value(
            {
                "endpoints": endpoints,
                "lake_version": lake.version,
                "members": len(lake.members()),
                "pulls": pulls,
                "watermarks": marks,
                "lake": stored,
                "served": served,
                "results": list(runs),
            }
        )
        return
    here.output.say(f"endpoints: {', '.join(endpoints) or 'none'}")
    here.output.say(f"lake: version {lake.version}, {len(lake.members()):,} persons; results: {len(runs)}")
    here.output.table("Pulls", ("pull", "source", "kind", "state", "complete", "finished"), pulls)
    here.output.table("Pulled until", ("source", "type", "until", "full"), marks)
    here.output.table("In the lake", ("type", "rows"), stored)
    here.output.table("Served", ("type", "resources"), served)
