"""``endpoint``: register, list and check the EHR and payer endpoints we pull from; rotate our keys."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, cast

import typer

from fhir_gateway.cli.context import context
from fhir_gateway.errors import ConfigurationError, Location, SourceAuthError, SourceError
from fhir_gateway.sources.endpoint import Algorithm, Endpoint

app = typer.Typer(help="EHR and payer endpoints we pull from.", no_args_is_help=True)


@app.command()
def add(
    command: typer.Context,
    name: Annotated[str, typer.Argument(help="Short name: a-z, 0-9 and '-'.")],
    url: Annotated[str, typer.Argument(help="FHIR base URL.")],
    client_id: Annotated[str | None, typer.Option(help="Client id the endpoint gave us.")] = None,
    alg: Annotated[str, typer.Option(help="Signing algorithm: ES384 or RS384.")] = "ES384",
    key: Annotated[Path | None, typer.Option(help="Private key (PEM) to use instead of a new one.")] = None,
    vendor: Annotated[str, typer.Option(help="Vendor profile: limits and habits.")] = "generic",
    scope: Annotated[str | None, typer.Option(help="Scopes to ask for; default: chosen by discovery.")] = None,
    token_endpoint: Annotated[str | None, typer.Option(help="Token endpoint; default: discovered.")] = None,
    trust_origin: Annotated[list[str] | None, typer.Option(help="Further origin that may see our token.")] = None,
    no_auth: Annotated[bool, typer.Option(help="The endpoint wants no authorization.")] = False,
) -> None:
    """Register an endpoint and make the key we prove ourselves with."""
    here = context(command)
    endpoint = Endpoint(
        name,
        url,
        auth="none" if no_auth else "smart-backend",
        client_id=client_id,
        token_endpoint=token_endpoint,
        scopes=scope,
        vendor=vendor,
        trusted_origins=tuple(trust_origin or ()),
    )
    pem = _read_key(key) if key else None
    added = here.gateway.endpoints.add(endpoint, cast("Algorithm", alg), pem)
    if here.output.json:
        here.output.value({"name": added.name, "url": added.base_url, "jwks": here.gateway.endpoints.public_jwks(name)})
        return
    here.output.say(f"{added.name} registered: {added.base_url}")
    if added.auth == "smart-backend":
        kid = here.gateway.endpoints.signing_key(name).kid
        jwks = f"{here.gateway.settings.public_url.rstrip('/')}/.well-known/jwks.json"
        here.output.say(f"register there: client id {client_id}, JWKS {jwks} (key {kid})")
        here.output.say(f"or the keys themselves: fhir-gateway endpoint jwks {name}")


def _read_key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"the key cannot be read ({reason})", location=Location(file=str(path))) from None


@app.command("list")
def list_endpoints(command: typer.Context) -> None:
    """List registered endpoints."""
    here = context(command)
    store = here.gateway.endpoints
    rows = [
        {
            "name": one.name,
            "url": one.base_url,
            "auth": one.auth,
            "client_id": one.client_id,
            "vendor": one.vendor,
            "keys": [f"{key.kid} ({key.state})" for key in store.keys(one.name)],
        }
        for one in store.all()
    ]
    here.output.table("Endpoints", ("name", "url", "auth", "client_id", "vendor", "keys"), rows)


@app.command()
def check(command: typer.Context, name: Annotated[str, typer.Argument(help="A registered endpoint.")]) -> None:
    """Check discovery, key, clock, token and export of an endpoint, and say which check fails."""
    from fhir_gateway.sources.check import check_endpoint

    here = context(command)
    store = here.gateway.endpoints
    endpoint = store.get(name)
    key = store.signing_key(name) if endpoint.auth == "smart-backend" else None
    lines = asyncio.run(check_endpoint(endpoint, key, here.gateway.settings.public_url))
    rows = [{"check": one.name, "result": one.result, "detail": one.detail} for one in lines]
    here.output.table(f"{name}: {endpoint.base_url}", ("check", "result", "detail"), rows)
    failed = [one for one in lines if one.result == "failed"]
    if failed:
        kind = SourceAuthError if failed[0].name in ("key", "token") else SourceError
        raise kind(f"{name}: {failed[0].name} failed")


@app.command()
def jwks(
    command: typer.Context, name: Annotated[str | None, typer.Argument(help="Of this endpoint only.")] = None
) -> None:
    """Print the public JWK Set to register at an endpoint."""
    here = context(command)
    if name is not None:
        here.gateway.endpoints.get(name)
    here.output.value(here.gateway.endpoints.public_jwks(name))


@app.command()
def rotate(
    command: typer.Context,
    name: Annotated[str, typer.Argument(help="A registered endpoint.")],
    activate: Annotated[str | None, typer.Option(help="Sign with this key from now on.")] = None,
    remove: Annotated[str | None, typer.Option(help="Publish this key no longer.")] = None,
    alg: Annotated[str, typer.Option(help="Algorithm of a new key.")] = "ES384",
) -> None:
    """Rotate our key in three steps: publish a new one, `--activate` it when caches have it, `--remove` the old one."""
    here = context(command)
    store = here.gateway.endpoints
    if activate is not None:
        store.activate_key(name, activate)
    if remove is not None:
        store.remove_key(name, remove)
    if activate is None and remove is None:
        store.prepare_key(name, cast("Algorithm", alg))
    rows = [{"kid": key.kid, "algorithm": key.algorithm, "state": key.state} for key in store.keys(name)]
    here.output.table(f"Keys for {name}", ("kid", "algorithm", "state"), rows)
