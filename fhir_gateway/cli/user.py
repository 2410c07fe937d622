"""``user``: people who may sign in at the console."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fhir_gateway.cli.context import Context, context

if TYPE_CHECKING:
    from fhir_gateway.console.accounts import Accounts

app = typer.Typer(help="People who may sign in at the console.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="Name to sign in with.")]


@app.command()
def add(
    command: typer.Context,
    name: _Name,
    role: Annotated[list[str], typer.Option(help="admin, it, quality, contracts or viewer; may be repeated.")],
    contract: Annotated[list[str] | None, typer.Option(help="Sees this contract, its list and its members.")] = None,
    organization: Annotated[list[str] | None, typer.Option(help="Sees the patients of this practice (TIN).")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Sees this list (id of a Group) and its members.")] = None,
    no_code: Annotated[bool, typer.Option("--no-code", help="No one-time codes: for readers only.")] = False,
) -> None:
    """Let somebody in. The password is asked for, or read from standard input; the secret of codes is shown once."""
    from fhir_gateway.console.accounts import code_uri

    here = context(command)
    named = {"contract": contract, "organization": organization, "group": group}
    labels = [f"{kind}:{one}" for kind, values in named.items() for one in values or ()] or None
    secret = _accounts(here).add(name, _password(), role, labels, code=not no_code)
    uri = code_uri(name, secret) if secret else None
    if here.output.json:
        here.output.value({"name": name, "code_secret": secret, "code_uri": uri})
        return
    here.output.say(f"{name} may sign in")
    if uri:
        here.output.say(f"for their authenticator app, shown once: {uri}")


@app.command("list")
def list_users(command: typer.Context) -> None:
    """List who may sign in."""
    here = context(command)
    rows = [
        {
            "name": one.name,
            "roles": " ".join(one.roles),
            "sees": "everything" if one.labels is None else " ".join(one.labels),
            "codes": one.has_code,
            "state": "disabled" if one.disabled else "locked" if one.locked else "active",
        }
        for one in _accounts(here).all()
    ]
    here.output.table("Users", ("name", "roles", "sees", "codes", "state"), rows)


@app.command()
def disable(command: typer.Context, name: _Name) -> None:
    """Let somebody in no more; their sessions end at once."""
    here = context(command)
    _accounts(here).disable(name)
    here.output.say(f"{name} may not sign in any more")


@app.command()
def enable(command: typer.Context, name: _Name) -> None:
    """Let somebody in again who was disabled or is locked."""
    here = context(command)
    _accounts(here).disable(name, disabled=False)
    here.output.say(f"{name} may sign in")


@app.command()
def password(command: typer.Context, name: _Name) -> None:
    """Give somebody another password, asked for or read from standard input; their sessions end."""
    here = context(command)
    _accounts(here).set_password(name, _password())
    here.output.say(f"{name} has another password")


@app.command()
def code(command: typer.Context, name: _Name) -> None:
    """Give somebody another secret of one-time codes, in the place of a lost one; their sessions end."""
    from fhir_gateway.console.accounts import code_uri

    here = context(command)
    secret = _accounts(here).new_code(name)
    if here.output.json:
        here.output.value({"name": name, "code_secret": secret, "code_uri": code_uri(name, secret)})
    else:
        here.output.say(f"for their authenticator app, shown once: {code_uri(name, secret)}")


def _accounts(here: Context) -> Accounts:
    from fhir_gateway.console.accounts import Accounts

    return Accounts(here.gateway.engine, here.gateway.secrets)


def _password() -> str:
    """Never an argument: those are seen by everybody on the machine."""
    return getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
