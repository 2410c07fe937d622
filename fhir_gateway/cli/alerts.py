"""Commands about what somebody wants to know at once: ``alerts``."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fhir_gateway.cli.context import context

if TYPE_CHECKING:
    from fhir_gateway.alerts.models import Alert

app = typer.Typer(help="Admissions, visits, gaps, thresholds, failures: told at once.", no_args_is_help=True)


@app.command()
def find(command: typer.Context) -> None:
    """Look for what happened since the last look; the first look tells nothing. Servers and workers do it, too."""
    from fhir_gateway.jobs import alerts as job

    here = context(command)
    _show(command, [(one.id, one) for one in job.find(here.gateway)])


@app.command("list")
def listed(
    command: typer.Context,
    kind: Annotated[str | None, typer.Option(help="Only those of a kind.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 50,
) -> None:
    """Show the newest alerts."""
    _show(command, context(command).gateway.alerts.recent(limit, kind))


@app.command()
def add(
    command: typer.Context,
    medium: Annotated[Literal["webhook", "mail"], typer.Argument(help="webhook or mail.")],
    target: Annotated[str, typer.Argument(help="URL of the webhook, or address.")],
    kind: Annotated[list[str] | None, typer.Option(help="A kind of alerts, repeatable; default: all.")] = None,
    contract: Annotated[str | None, typer.Option(help="Only persons of this contract (its id).")] = None,
) -> None:
    """Tell a webhook or a mailbox; a webhook's secret is shown this once."""
    from fhir_gateway.jobs.alert_channels import add_channel

    here = context(command)
    by = f"prompt:{getpass.getuser()}"
    channel, secret = add_channel(here.gateway, medium, target, kind or [], contract, by)
    if here.output.json:
        here.output.value({"channel": channel.id, "secret": secret})
        return
    here.output.say(channel.id)
    if secret is not None:
        here.output.say(f"secret: {secret}")


@app.command()
def channels(command: typer.Context) -> None:
    """Show who is told of what, and how it goes."""
    here = context(command)
    rows = [
        {"channel": one.id, "medium": one.medium, "kinds": list(one.kinds) or "all", "contract": one.contract,
         "state": one.state, "failures": one.failures, "error": one.error}
        for one in here.gateway.alerts.channels()
    ]  # fmt: skip
    columns = ("channel", "medium", "kinds", "contract", "state", "failures", "error")
    here.output.table("Channels", columns, rows)


@app.command()
def remove(command: typer.Context, channel: Annotated[str, typer.Argument(help="Id of a channel.")]) -> None:
    """Tell a channel nothing more."""
    here = context(command)
    here.gateway.alerts.remove_channel(channel)
    here.output.say("removed")


def _show(command: typer.Context, alerts: Sequence[tuple[str, Alert]]) -> None:
    rows = [
        {"alert": identity, "kind": one.kind, "day": one.day, "member": one.member, "text": one.text}
        for identity, one in alerts
    ]
    context(command).output.table("Alerts", ("alert", "kind", "day", "member", "text"), rows)
