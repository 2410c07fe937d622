"""The application: global options, groups of commands, and how errors end it."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from fhir_gateway.cli import (
    alerts,
    audit,
    backup,
    claims,
    client,
    contract,
    endpoint,
    equity,
    experience,
    explain,
    guide,
    jobs,
    lake,
    ledger,
    measure,
    migrate,
    outreach,
    persons,
    predict,
    pull,
    quarantine,
    report,
    risk,
    roster,
    serve,
    status,
    terminology,
    user,
    utilization,
    value,
)
from fhir_gateway.cli.context import Context
from fhir_gateway.cli.output import Output
from fhir_gateway.errors import GatewayError
from fhir_gateway.telemetry.export import exporting

app = typer.Typer(
    name="fhir-gateway",
    help="FHIR in, columns inside, FHIR out: attribution, quality measures and settlement over FHIR.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(endpoint.app, name="endpoint")
app.add_typer(client.app, name="client")
app.add_typer(user.app, name="user")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(jobs.app, name="jobs")
app.add_typer(lake.app, name="lake")
app.add_typer(roster.app, name="roster")
app.add_typer(contract.app, name="contract")
app.add_typer(claims.app, name="claims")
app.add_typer(persons.app, name="persons")
app.add_typer(terminology.app, name="terminology")
app.add_typer(measure.app, name="measure")
app.add_typer(guide.app, name="guide")
app.add_typer(equity.app, name="equity")
app.add_typer(report.app, name="report")
app.add_typer(experience.app, name="experience")
app.add_typer(predict.app, name="predict")
app.add_typer(risk.app, name="risk")
app.add_typer(outreach.app, name="outreach")
app.add_typer(alerts.app, name="alerts")
app.add_typer(utilization.app, name="utilization")
app.command("pull")(pull.pull)
app.command("ledger")(ledger.ledger)
app.command("status")(status.status)
app.command("audit")(audit.audit)
app.command("evaluate")(value.evaluate)
app.command("explain")(explain.explain)
app.command("attribute")(value.attribute)
app.command("settle")(value.settle)
app.command("serve")(serve.serve)
app.command("worker")(jobs.worker)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("migrate")(migrate.migrate)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("fhir-gateway"))
        raise typer.Exit


@app.callback()
def options(
    command: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of everything the gateway keeps.")] = None,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """FHIR in, columns inside, FHIR out."""
    command.obj = Context(Output(json), data_dir)


def run() -> None:
    """Run the command of ``sys.argv``; an error of the gateway ends it with that error's exit code.

    What a command writes is for its user alone, whatever the shell's mask: it holds patients.
    """
    os.umask(0o077)
    try:
        with exporting():
            app()
    except GatewayError as error:
        Output("--json" in sys.argv).fail(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from fhir_gateway.faults import known

        found = known(error)
        if found is None:
            raise
        Output("--json" in sys.argv).fail(found)
        sys.exit(found.exit_code)
