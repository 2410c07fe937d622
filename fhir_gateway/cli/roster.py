"""``roster``: correct attribution lists by decisions, look at decisions, and compare lists with the payer's roster."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhir_gateway.cli import roster_evidence
from fhir_gateway.cli.context import context
from fhir_gateway.errors import ConfigurationError, Location

if TYPE_CHECKING:
    from fhir_gateway.jobs.list_parties import Identifier, Named
    from fhir_gateway.jobs.lists import Caller

app = typer.Typer(
    help="Attribution lists: decisions about them, and the payer's roster beside them.", no_args_is_help=True
)

_List = Annotated[str, typer.Argument(help="Id of a list (Group).")]
_Member = Annotated[str | None, typer.Option(help="Member number, `number` or `system|number`.")]
_Patient = Annotated[str | None, typer.Option(help="Id of the Patient, instead of a member number.")]
_Npi = Annotated[str | None, typer.Option(help="NPI of the provider.")]
_Provider = Annotated[str | None, typer.Option(help="Reference of the provider, such as Organization/x.")]
_Why = Annotated[str | None, typer.Option(help="Why; kept with the decision.")]


@app.command("add")
def add(
    command: typer.Context,
    list_id: _List,
    member: _Member = None,
    patient: _Patient = None,
    npi: _Npi = None,
    provider: _Provider = None,
    start: Annotated[str | None, typer.Option(help="First day; default: the contract's period.")] = None,
    end: Annotated[str | None, typer.Option(help="Last day.")] = None,
    why: _Why = None,
) -> None:
    """Put a member on a list."""
    from fhir_gateway.jobs import lists

    here = context(command)
    period = {name: day for name, day in (("start", start), ("end", end)) if day}
    named = _named(member, patient, npi, provider, period)
    done = lists.add(here.gateway, list_id, named, _caller(why))
    here.output.say("added" if done.changed else "is on the list already")


@app.command("remove")
def remove(
    command: typer.Context,
    list_id: _List,
    member: _Member = None,
    patient: _Patient = None,
    npi: _Npi = None,
    provider: _Provider = None,
    why: _Why = None,
) -> None:
    """Take a member off a list."""
    from fhir_gateway.jobs import lists

    here = context(command)
    lists.remove(here.gateway, list_id, _named(member, patient, npi, provider, {}), _caller(why))
    here.output.say("removed")


@app.command("decisions")
def decisions(command: typer.Context, contract: Annotated[str, typer.Argument(help="Id of the contract.")]) -> None:
    """Show what was decided about the lists of a contract, by whom, when and why."""
    here = context(command)
    rows: list[dict[str, Any]] = [
        {
            "decision": one.id,
            "at": one.at.isoformat(timespec="seconds"),
            "by": one.by,
            "act": one.act,
            "list": one.list_id,
            "patient": one.patient,
            "why": one.why,
            "withdrawn": None if one.withdrawn_at is None else one.withdrawn_at.isoformat(timespec="seconds"),
            "withdrawn_by": one.withdrawn_by,
        }
        for one in here.gateway.decisions.all(contract)
    ]
    columns = ("decision", "at", "by", "act", "list", "patient", "why", "withdrawn")
    here.output.table(f"Decisions about {contract}", columns, rows)


@app.command("withdraw")
def withdraw(
    command: typer.Context,
    decision: Annotated[str, typer.Argument(help="Id of the decision.")],
    why: _Why = None,
) -> None:
    """Undo a decision; the contract is attributed anew without it."""
    from fhir_gateway.jobs import lists

    here = context(command)
    taken = lists.withdraw(here.gateway, decision, _user(), why)
    here.output.say(f"withdrawn; the lists of {taken.contract} are as attribution and the other decisions say")


@app.command("reconcile")
def reconcile(
    command: typer.Context,
    list_id: _List,
    csv: Annotated[Path | None, typer.Option(help="The payer's roster as CSV.")] = None,
    source: Annotated[str | None, typer.Option(help="A source that sent the payer's Group.")] = None,
    group: Annotated[str | None, typer.Option(help="Id of the Group at that source.")] = None,
    contract: Annotated[str | None, typer.Option(help="Say why, by the newest attribution of this contract.")] = None,
) -> None:
    """Compare a list with the payer's roster: who is on both, on one, with another provider or period."""
    from fhir_gateway.jobs import rosters

    here = context(command)
    if (csv is None) == (source is None):
        raise ConfigurationError("give either --csv or --source")
    if csv is not None:
        if not csv.is_file():
            raise ConfigurationError("no such file", location=Location(file=str(csv)))
        theirs = rosters.of_csv(here.gateway, csv.read_bytes())
    else:
        theirs = rosters.of_source(here.gateway, str(source), list_id, group)
    found = rosters.compare(here.gateway, list_id, theirs)
    rows = found.differences().to_pylist()
    columns: tuple[str, ...] = (
        *("finding", "named", "member", "their_tin", "our_tin", "their_npi", "our_npi", "their_start", "our_start"),
    )
    if contract is not None:
        from fhir_gateway.jobs.roster_evidence import reasons

        rows = reasons(here.gateway, contract, found).to_pylist()
        columns = ("finding", "named", "member", "reason", "detail", "near_miss", "own_amount", "lead_amount")
    if here.output.json:
        here.output.value({"list": list_id, "counts": found.counts, "differences": rows})
        return
    here.output.table(f"{list_id} and the payer's roster", columns, rows)
    here.output.say(", ".join(f"{name}: {count:,}" for name, count in found.counts.items()))


roster_evidence.register(app)


def _user() -> str:
    return f"prompt:{getpass.getuser()}"


def _caller(why: str | None) -> Caller:
    from fhir_gateway.db.audience import EVERYONE
    from fhir_gateway.jobs.lists import Caller

    return Caller(_user(), EVERYONE, why)


def _named(
    member: str | None, patient: str | None, npi: str | None, provider: str | None, period: dict[str, str]
) -> Named:
    from fhir_gateway.jobs.list_parties import Identifier, Named

    if (member is None) == (patient is None):
        raise ConfigurationError("give either --member or --patient")
    if npi is not None and provider is not None:
        raise ConfigurationError("give either --npi or --provider")
    return Named(
        member_id=None if member is None else _number(member),
        patient=None if patient is None else f"Patient/{patient.removeprefix('Patient/')}",
        provider_npi=None if npi is None else Identifier(npi),
        provider=provider,
        period=period or None,
    )


def _number(text: str) -> Identifier:
    from fhir_gateway.jobs.list_parties import Identifier

    system, bar, value = text.rpartition("|")
    return Identifier(value, system) if bar else Identifier(text)
