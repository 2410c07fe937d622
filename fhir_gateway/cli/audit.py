"""``audit``: who asked for what, when, why and how it ended; and whose data was answered to whom."""

from __future__ import annotations

from typing import Annotated

import typer

from fhir_gateway.cli.context import context

_COLUMNS = ("recorded", "client_id", "purpose", "interaction", "what", "status", "reason", "address", "persons")


def audit(
    command: typer.Context,
    client: Annotated[str | None, typer.Option(help="Of this client.")] = None,
    patient: Annotated[
        str | None, typer.Option(help="Accounting for one person: what held, or may have held, it.")
    ] = None,
    resource: Annotated[str | None, typer.Option(help="Of this resource, such as Group/aco.")] = None,
    interaction: Annotated[str | None, typer.Option(help="Such as read, search-type, token or $export.")] = None,
    since: Annotated[str | None, typer.Option(help="From this date or time on.")] = None,
    until: Annotated[str | None, typer.Option(help="Up to this date or time.")] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused or failed.")] = False,
    limit: Annotated[int, typer.Option(help="Most entries to show, the newest first.", min=1)] = 50,
) -> None:
    """Search the audit trail. An entry whose persons are * may have held everybody whom the client sees."""
    from fhir_gateway.server.audit_events import entries

    here = context(command)
    given = {
        "altid": client,
        "patient": patient,
        "entity": resource,
        "subtype": interaction,
        "outcome": "4,8" if refused else None,
    }
    criteria = [(name, value) for name, value in given.items() if value is not None]
    criteria += [("date", f"{prefix}{moment}") for prefix, moment in (("ge", since), ("le", until)) if moment]
    rows = entries(here.gateway.engine, criteria, limit)
    for row in rows:
        row["what"] = "/".join(str(one) for one in (row["resource_type"], row["resource_id"]) if one)
        row["persons"] = (row["persons"] or "").strip(",") if here.output.json else _counted(row["persons"])
    here.output.table("Audit trail", _COLUMNS, rows)


def _counted(persons: str | None) -> str:
    """How many persons, for people's eyes; --json has their ids."""
    return persons if persons == "*" else str((persons or ",").count(",") - 1)
