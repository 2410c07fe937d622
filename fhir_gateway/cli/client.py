"""``client``: backend clients that may read from us, and tokens for trying it out."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import orjson
import typer

from fhir_gateway.cli.context import context
from fhir_gateway.errors import AuthenticationError, ConfigurationError, GatewayError, Location

if TYPE_CHECKING:
    from fhir_gateway.auth.models import Client

app = typer.Typer(help="Backend clients that may read from us.", no_args_is_help=True)


@app.command()
def add(
    command: typer.Context,
    name: Annotated[str, typer.Argument(help="Client id.")],
    scope: Annotated[list[str], typer.Option(help="The most it may be granted, such as system/*.rs.")],
    jwks: Annotated[Path | None, typer.Option(help="File with its public JWK Set.")] = None,
    jwks_url: Annotated[str | None, typer.Option(help="URL of its public JWK Set.")] = None,
    new_key: Annotated[Path | None, typer.Option(help="Make a key pair; write the private JWK to this file.")] = None,
    outside: Annotated[bool, typer.Option("--outside", help="An outside issuer gives it tokens: no keys.")] = False,
    contract: Annotated[list[str] | None, typer.Option(help="Sees this contract, its list and its members.")] = None,
    organization: Annotated[list[str] | None, typer.Option(help="Sees the patients of this practice (TIN).")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Sees this list (id of a Group) and its members.")] = None,
    purpose: Annotated[str | None, typer.Option(help="Why it reads (PurposeOfUse), such as HPAYMT.")] = None,
) -> None:
    """Register a backend client by its public keys.

    Without --contract, --organization and --group it sees everybody's data: that is for the operator's own systems.
    """
    from fhir_gateway.db.audience import grants_of

    here = context(command)
    if [jwks, jwks_url, new_key, outside or None].count(None) != 3:
        raise ConfigurationError("give one of --jwks, --jwks-url, --new-key and --outside")
    grants = grants_of(contract, organization, group)
    keys = _keys(jwks, new_key, f"{name}-1")
    try:
        client = here.gateway.authorization.register_client(
            name, scopes=" ".join(scope), jwks=keys, jwks_url=jwks_url, grants=grants, purpose=purpose
        )
    except GatewayError:
        if new_key is not None:
            new_key.unlink()  # the key of nobody
        raise
    if here.output.json:
        here.output.value({"client_id": client.client_id, "scopes": [str(one) for one in client.scopes]})
    here.output.say(f"{client.client_id} registered")


@app.command("list")
def list_clients(command: typer.Context) -> None:
    """List registered clients."""
    here = context(command)
    rows = [
        {
            "client_id": one.client_id,
            "scopes": " ".join(str(scope) for scope in one.scopes),
            "sees": "everything" if one.audience.labels is None else " ".join(sorted(one.audience.labels)),
            "keys": _where_keys_are(one),
            "state": _state(one),
            "disabled": one.disabled,
        }
        for one in here.gateway.authorization.clients()
    ]
    here.output.table("Clients", ("client_id", "scopes", "sees", "keys", "state"), rows)


@app.command()
def show(command: typer.Context, name: Annotated[str, typer.Argument(help="Client id.")]) -> None:
    """Show one client: what it may, where its keys are, and how it came here."""
    here = context(command)
    one = here.gateway.authorization.client(name)
    rows = {
        "client_id": one.client_id,
        "name": one.name,
        "state": _state(one),
        "scopes": " ".join(map(str, one.scopes)),
        "sees": "everything" if one.audience.labels is None else " ".join(sorted(one.audience.labels)),
        "purpose": one.purpose,
        "keys": _where_keys_are(one),
        "key_ids": " ".join(str(key.get("kid")) for key in (one.jwks or {}).get("keys", ())),
        "registered_by": one.origin or "operator",
        "asked_for": one.requested,
        "contacts": " ".join(one.contacts),
    }
    if here.output.json:
        here.output.value(rows)
    else:
        here.output.table(name, ("what", "is"), [{"what": key, "is": value} for key, value in rows.items() if value])


@app.command()
def approve(
    command: typer.Context,
    name: Annotated[str, typer.Argument(help="Client id.")],
    scope: Annotated[list[str], typer.Option(help="The most it may be granted, such as system/*.rs.")],
    contract: Annotated[list[str] | None, typer.Option(help="Sees this contract, its list and its members.")] = None,
    organization: Annotated[list[str] | None, typer.Option(help="Sees the patients of this practice (TIN).")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Sees this list (id of a Group) and its members.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="Sees everybody's data.")] = False,
    purpose: Annotated[str | None, typer.Option(help="Why it reads (PurposeOfUse), such as HPAYMT.")] = None,
) -> None:
    """Let a client in that registered itself, with these scopes and this data.

    Look at it first (client show), and ask whom it names whether they sent it.
    """
    from fhir_gateway.db.audience import grants_of

    here = context(command)
    grants = grants_of(contract, organization, group)
    if (grants is None) != everything:
        raise ConfigurationError("say whose data it sees: --contract, --organization, --group, or --everything")
    here.gateway.authorization.approve_client(name, scopes=" ".join(scope), grants=grants, purpose=purpose)
    here.output.say(f"{name} is approved")


@app.command()
def rotate(
    command: typer.Context,
    name: Annotated[str, typer.Argument(help="Client id.")],
    jwks: Annotated[Path | None, typer.Option(help="File with its new public JWK Set.")] = None,
    jwks_url: Annotated[str | None, typer.Option(help="URL of its public JWK Set.")] = None,
    new_key: Annotated[Path | None, typer.Option(help="Make a key pair; write the private JWK to this file.")] = None,
) -> None:
    """Put other keys in place of a client's; those of before count no more, its tokens end within a second."""
    here = context(command)
    if [jwks, jwks_url, new_key].count(None) != 2:
        raise ConfigurationError("give one of --jwks, --jwks-url and --new-key")
    here.gateway.authorization.client(name)
    keys = _keys(jwks, new_key, f"{name}-{secrets.token_hex(4)}")
    here.gateway.authorization.replace_keys(name, jwks=keys, jwks_url=jwks_url)
    here.output.say(f"{name} has other keys")


@app.command()
def invite(
    command: typer.Context,
    name: Annotated[str, typer.Argument(help="A name for the invitation; registrations say it.")],
    uses: Annotated[int, typer.Option(help="How many clients may register by it.")] = 1,
    days: Annotated[int, typer.Option(help="Days after which it ends.")] = 7,
) -> None:
    """Print an initial access token by which clients may register themselves (RFC 7591); it is not kept."""
    here = context(command)
    made = here.gateway.authorization.invite(name, uses=uses, days=days)
    if here.output.json:
        here.output.value({"name": name, "initial_access_token": made})
    else:
        typer.echo(made)


@app.command()
def disable(command: typer.Context, name: Annotated[str, typer.Argument(help="Client id.")]) -> None:
    """Refuse a client from now on; its tokens end within a second."""
    here = context(command)
    here.gateway.authorization.disable_client(name)
    here.output.say(f"{name} is disabled")


@app.command()
def token(
    command: typer.Context,
    name: Annotated[str, typer.Argument(help="Client id.")],
    key: Annotated[Path, typer.Option(help="File with the private JWK.")],
    scope: Annotated[str, typer.Option(help="Scopes to ask for.")] = "system/*.rs",
    url: Annotated[str | None, typer.Option(help="Token endpoint; default: this gateway's.")] = None,
) -> None:
    """Print an access token, as a backend client would get it."""
    from fhir_gateway.auth.assertion import client_assertion

    here = context(command)
    endpoint = url or f"{here.gateway.settings.public_url.rstrip('/')}/auth/token"
    private = _read_json(key)
    algorithm = "RS384" if private.get("kty") == "RSA" else "ES384"
    form = {
        "grant_type": "client_credentials",
        "scope": scope,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": client_assertion(name, endpoint, private, algorithm),
    }
    try:
        response = httpx.post(endpoint, data=form, timeout=30)
        body = response.json()
    except (httpx.TransportError, ValueError):
        raise ConfigurationError(
            f"{endpoint} does not answer as a token endpoint does; is the gateway served?"
        ) from None
    if response.status_code != 200:
        raise AuthenticationError(f"{body.get('error')}: {body.get('error_description', 'no description')}")
    if here.output.json:
        here.output.value(body)
    else:
        typer.echo(body["access_token"])


def _keys(jwks: Path | None, new_key: Path | None, kid: str) -> dict[str, Any] | None:
    """The public keys of a file, or of a pair that is made now."""
    from fhir_gateway.auth.assertion import generate_key, public_key_set

    if new_key is None:
        return _read_json(jwks) if jwks else None
    private = generate_key("ES384", kid)
    _write_private(new_key, private)
    return public_key_set(private)


def _where_keys_are(client: Client) -> str:
    return client.jwks_url or ("inline" if client.jwks is not None else "outside issuer")


def _state(client: Client) -> str:
    return "disabled" if client.disabled else "waits for approval" if client.pending else "active"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        body = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        raise ConfigurationError("cannot be read as JSON", location=Location(file=str(path))) from None
    if not isinstance(body, dict):
        raise ConfigurationError("is no JSON object", location=Location(file=str(path)))
    return body


def _write_private(path: Path, key: dict[str, Any]) -> None:
    """A new file that only its owner can read."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError("exists already", location=Location(file=str(path))) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"cannot be written ({reason})", location=Location(file=str(path))) from None
    with os.fdopen(descriptor, "wb") as out:
        out.write(orjson.dumps(key))
