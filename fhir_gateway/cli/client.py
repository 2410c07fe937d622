"""``client``: backend clients that may read from us, and tokens for trying it out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import typer

from fhir_gateway.cli.context import context
from fhir_gateway.errors import AuthenticationError, ConfigurationError, GatewayError, Location

app = typer.Typer(help="Backend clients that may read from us.", no_args_is_help=True)


@app.command()
def add(
    command: typer.Context,
    name: Annotated[str, typer.Argument(help="Client id.")],
    scope: Annotated[list[str], typer.Option(help="The most it may be granted, such as system/*.rs.")],
    jwks: Annotated[Path | None, typer.Option(help="File with its public JWK Set.")] = None,
    jwks_url: Annotated[str | None, typer.Option(help="URL of its public JWK Set.")] = None,
    new_key: Annotated[Path | None, typer.Option(help="Make a key pair; write the private JWK to this file.")] = None,
    contract: Annotated[list[str] | None, typer.Option(help="Sees this contract, its list and its members.")] = None,
    organization: Annotated[list[str] | None, typer.Option(help="Sees the patients of this practice (TIN).")] = None,
    purpose: Annotated[str | None, typer.Option(help="Why it reads (PurposeOfUse), such as HPAYMT.")] = None,
) -> None:
    """Register a backend client by its public keys.

    Without --contract and --organization it sees everybody's data: that is for the operator's own systems.
    """
    from fhir_gateway.auth.assertion import generate_key, public_key_set

    here = context(command)
    if [jwks, jwks_url, new_key].count(None) != 2:
        raise ConfigurationError("give one of --jwks, --jwks-url and --new-key")
    grants = [f"contract:{one}" for one in contract or ()] + [f"organization:{one}" for one in organization or ()]
    keys: dict[str, Any] | None = _read_json(jwks) if jwks else None
    if new_key is not None:
        private = generate_key("ES384", f"{name}-1")
        _write_private(new_key, private)
        keys = public_key_set(private)
    try:
        client = here.gateway.authorization.register_client(
            name, scopes=" ".join(scope), jwks=keys, jwks_url=jwks_url, grants=grants or None, purpose=purpose
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
            "keys": one.jwks_url or "inline",
            "disabled": one.disabled,
        }
        for one in here.gateway.authorization.clients()
    ]
    here.output.table("Clients", ("client_id", "scopes", "sees", "keys", "disabled"), rows)


@app.command()
def disable(command: typer.Context, name: Annotated[str, typer.Argument(help="Client id.")]) -> None:
    """Refuse a client from now on; its tokens end at once."""
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
