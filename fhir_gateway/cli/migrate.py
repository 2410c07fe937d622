"""``migrate``: the tables of this release, before anything of it starts."""

from __future__ import annotations

import typer

from fhir_gateway.cli.context import context


def migrate(command: typer.Context) -> None:
    """Bring the control plane to this release; processes of the release before go on meanwhile and afterwards."""
    from fhir_gateway.db.migrate import revision
    from fhir_gateway.jobs.book import open_database

    here = context(command)
    open_database(here.gateway)
    found = revision(here.gateway.engine)
    if here.output.json:
        here.output.value({"migration": found})
        return
    here.output.say(f"the control plane is at migration {found}")
