"""``endpoint``: register, list and check the EHR and payer endpoints we pull from; rotate our keys."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, cast

import typer

from fhir_gateway.cli.context import context
from fhir_gateway.errors import ConfigurationError, Location, SourceAuthError, SourceError
from fhir_gateway.sources.endpoint import JWKS_PATH, Algorithm, Endpoint
from fhir_gateway.sources.vendors import PROFILES, VERSION, vendor_profile

app = typer.Typer(help="EHR and payer endpoints we pull from.", no_args_is_help=True)


Url = Annotated[str, typer.Argument(help="FHIR base URL.")]
Name = Annotated[str, typer.Argument(help="A registered endpoint.")]
ClientId = Annotated[str | None, typer.Option(help="Client id the endpoint gave us; may come later.")]
SecretFile = Annotated[Path | None, typer.Option(help="File with the client secret, for payers with HTTP Basic.")]
Vendor = Annotated[str | None, typer.Option(help="Vendor profile: limits and habits.")]
Scope = Annotated[str | None, typer.Option(help="Scopes to ask for; default: by discovery; `none` for none.")]
TokenEndpoint = Annotated[str | None, typer.Option(help="Token endpoint; default: discovered.")]
Audience = Annotated[str | None, typer.Option(help="aud of our assertions; default: the token endpoint.")]
Jku = Annotated[bool | None, typer.Option("--jku/--no-jku", help="Name our JWKS in assertions.")]
Group = Annotated[str | None, typer.Option(help="Group to export when a pull names none.")]
TrustOrigin = Annotated[list[str] | None, typer.Option(help="Further origin that may see our token.")]


@app.command()
def add(
    command: typer.Context,
    name: Annotated[str, typer.Argument(help="Short name: a-z, 0-9 and '-'.")],
    url: Url,
    client_id: ClientId = None,
    client_secret_file: SecretFile = None,
    alg: Annotated[str, typer.Option(help="Signing algorithm: ES384 or RS384.")] = "ES384",
    key: Annotated[Path | None, typer.Option(help="Private key (PEM) to use instead of a new one.")] = None,
    vendor: Vendor = "generic",
    scope: Scope = None,
    token_endpoint: TokenEndpoint = None,
    audience: Audience = None,
    jku: Jku = None,
    group: Group = None,
    trust_origin: TrustOrigin = None,
    no_auth: Annotated[bool, typer.Option(help="The endpoint wants no authorization.")] = False,
) -> None:
    """Register an endpoint and make the key we prove ourselves with."""
    here = context(command)
    jwks = f"{here.gateway.settings.public_url.rstrip('/')}{JWKS_PATH}"
    known = vendor_profile(vendor or "generic")
    endpoint = Endpoint(
        name,
        url,
        auth="none" if no_auth else "client-secret" if client_secret_file else known.auth,
        client_id=client_id,
        token_endpoint=token_endpoint,
        scopes=scope,
        vendor=known.name,
        trusted_origins=tuple(trust_origin or ()),
        audience=audience,
        jku=jwks if jku else None,
        group=group,
    )
    pem = _read(key, "key") if key else None
    secret = _secret(client_secret_file)
    added = here.gateway.endpoints.add(endpoint, cast("Algorithm", alg), pem, secret)
    if here.output.json:
        here.output.value({"name": added.name, "url": added.base_url, "jwks": here.gateway.endpoints.public_jwks(name)})
        return
    here.output.say(f"{added.name} registered: {added.base_url}")
    if added.auth == "smart-backend":
        kid = here.gateway.endpoints.signing_key(name).kid
        here.output.say(f"register there: JWKS {jwks} (key {kid})")
        here.output.say(f"or the keys themselves: fhir-gateway endpoint jwks {name}")
        if not client_id:
            here.output.say(f"when they gave a client id: fhir-gateway endpoint update {name} --client-id ID")


@app.command()
def update(
    command: typer.Context,
    name: Name,
    url: Annotated[str | None, typer.Option(help="FHIR base URL.")] = None,
    client_id: ClientId = None,
    client_secret_file: SecretFile = None,
    vendor: Vendor = None,
    scope: Scope = None,
    token_endpoint: TokenEndpoint = None,
    audience: Audience = None,
    jku: Jku = None,
    group: Group = None,
    trust_origin: TrustOrigin = None,
) -> None:
    """Change what is known of an endpoint; what is not named stays."""
    here = context(command)
    jwks = f"{here.gateway.settings.public_url.rstrip('/')}{JWKS_PATH}"
    given = {
        "base_url": url,
        "client_id": client_id,
        "vendor": vendor,
        "scopes": scope,
        "token_endpoint": token_endpoint,
        "audience": audience,
        "group": group,
        "auth": "client-secret" if client_secret_file else None,
        "trusted_origins": tuple(trust_origin) if trust_origin else None,
    }
    changes: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    if jku is not None:
        changes["jku"] = jwks if jku else None
    changed = here.gateway.endpoints.update(name, _secret(client_secret_file), **changes)
    here.output.say(f"{changed.name}: {changed.base_url}")


@app.command()
def remove(command: typer.Context, name: Name) -> None:
    """Forget an endpoint and its keys; what it brought stays."""
    here = context(command)
    here.gateway.endpoints.remove(name)
    here.output.say(f"{name} is forgotten")


@app.command()
def vendors(
    command: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Show why each value of this profile is what it is.")] = None,
) -> None:
    """List vendor profiles, or the facts behind one."""
    here = context(command)
    if name is None:
        rows = [{"vendor": one.name, "summary": one.summary} for one in PROFILES.values()]
        here.output.table(f"Vendor profiles {VERSION}", ("vendor", "summary"), rows)
        return
    known = vendor_profile(name)
    facts = [
        {"value": value, "is": str(getattr(known, value)), "because": because} for value, because in known.facts.items()
    ]
    here.output.table(f"{known.name}: {known.summary}", ("value", "is", "because"), facts)


def _secret(path: Path | None) -> str | None:
    return _read(path, "client secret").decode().strip() if path else None


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"the {what} cannot be read ({reason})", location=Location(file=str(path))) from None


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
def check(
    command: typer.Context,
    name: Name,
    group: Annotated[str | None, typer.Option(help="Group to look at; default: the endpoint's own.")] = None,
) -> None:
    """Check URL, TLS, keys, token, clock, scope, export and Group of an endpoint, and say which check fails."""
    from fhir_gateway.sources.check import check_endpoint

    here = context(command)
    store = here.gateway.endpoints
    endpoint = store.get(name)
    public_url = here.gateway.settings.public_url
    lines = asyncio.run(check_endpoint(endpoint, store.credential(name), public_url, group=group))
    rows = [{"check": one.name, "result": one.result, "detail": one.detail} for one in lines]
    here.output.table(f"{name}: {endpoint.base_url}", ("check", "result", "detail"), rows)
    failed = [one for one in lines if one.result == "failed"]
    if failed:
        kind = SourceAuthError if failed[0].name in _OURS_TO_PROVE else SourceError
        raise kind(f"{name}: {failed[0].name} failed")


_OURS_TO_PROVE = ("alg", "kid", "exp", "aud", "jku", "token", "scope", "clock")


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
    called: Annotated[str | None, typer.Option(help="Key id that the endpoint gave our active key.")] = None,
    alg: Annotated[str, typer.Option(help="Algorithm of a new key.")] = "ES384",
) -> None:
    """Rotate our key in three steps: publish a new one, `--activate` it when caches have it, `--remove` the old one."""
    here = context(command)
    store = here.gateway.endpoints
    if activate is not None:
        store.activate_key(name, activate)
    if remove is not None:
        store.remove_key(name, remove)
    if called is not None:
        store.name_key(name, called)
    if activate is None and remove is None and called is None:
        store.prepare_key(name, cast("Algorithm", alg))
    rows = [{"kid": key.kid, "algorithm": key.algorithm, "state": key.state} for key in store.keys(name)]
    here.output.table(f"Keys for {name}", ("kid", "algorithm", "state"), rows)
