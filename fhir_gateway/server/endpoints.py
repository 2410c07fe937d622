"""The API behind the console for endpoints we pull from: ``/admin/endpoints``.

For operators: a token needs ``system/Endpoint`` scopes by name (``.c``, ``.r``, ``.u``, ``.d``). A wildcard does not
count: whoever may read or send patients' data is not thereby allowed to say where we fetch them. Every call is in the
audit trail. Secrets go in and never come out.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.errors import InputError, Location
from fhir_gateway.factory import Gateway
from fhir_gateway.server.access import access_of
from fhir_gateway.server.administration import ADMIN_PATH, SECURED, Administration, body_of, parse
from fhir_gateway.sources.check import check_endpoint
from fhir_gateway.sources.endpoint import JWKS_PATH, Algorithm, Endpoint
from fhir_gateway.sources.vendors import AuthKind, vendor_profile

_Text = Annotated[str, Field(min_length=1, max_length=1024)]


class EndpointChange(BaseModel):
    """What may be said of an endpoint; members that are absent stay as they are."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    base_url: _Text | None = None
    auth: AuthKind | None = None
    client_id: _Text | None = None
    client_secret: SecretStr | None = None
    token_endpoint: _Text | None = None
    scopes: _Text | None = None
    vendor: _Text | None = None
    trusted_origins: list[_Text] | None = None
    audience: _Text | None = None
    jku: bool | None = None
    group: _Text | None = None

    def fields(self, jwks_url: str) -> dict[str, Any]:
        """Fields of `Endpoint` that were given."""
        given = self.model_dump(exclude_unset=True, exclude={"client_secret"})
        if "trusted_origins" in given:
            given["trusted_origins"] = tuple(given["trusted_origins"] or ())
        if "jku" in given:
            given["jku"] = jwks_url if given["jku"] else None
        return given

    @property
    def secret(self) -> str | None:
        """The client secret in clear, for the store."""
        return self.client_secret.get_secret_value() if self.client_secret else None


class NewEndpoint(EndpointChange):
    """An endpoint to register."""

    name: _Text
    base_url: _Text
    algorithm: Algorithm = "ES384"


class KeyChange(BaseModel):
    """One step of a rotation: no ``kid`` prepares a new key."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    step: Literal["prepare", "activate", "remove"] = "prepare"
    kid: _Text | None = None
    algorithm: Algorithm = "ES384"


def router(gateway: Gateway) -> APIRouter:
    """The routes, with each endpoint's public keys beside them for servers that want one kind of key only."""
    routes = APIRouter(tags=["endpoints"])
    here = f"{ADMIN_PATH}/endpoints"
    jwks_url = f"{gateway.settings.public_url.rstrip('/')}{JWKS_PATH}"

    call = Administration(gateway, "Endpoint").call

    def shown(endpoint: Endpoint) -> dict[str, Any]:
        keys = gateway.endpoints.keys(endpoint.name)
        return {
            **asdict(endpoint),
            "keys": [{"kid": key.kid, "algorithm": key.algorithm, "state": key.state} for key in keys],
            "jwks": jwks_url if keys else None,
        }

    @routes.get(here, summary="Endpoints we pull from", openapi_extra=SECURED)
    async def every(request: Request) -> Response:
        return await call(request, "r", None, lambda _: [shown(one) for one in gateway.endpoints.all()])

    @routes.post(here, summary="Register an endpoint", status_code=201, openapi_extra=body_of(NewEndpoint))
    async def add(request: Request) -> Response:
        def work(body: bytes) -> Any:
            given = parse(body, NewEndpoint)
            access_of(request).resource_id = given.name
            fields = given.fields(jwks_url)
            algorithm = fields.pop("algorithm", "ES384")
            fields.setdefault("auth", vendor_profile(fields.get("vendor") or "generic").auth)
            endpoint = Endpoint(**{key: value for key, value in fields.items() if value is not None})
            return shown(gateway.endpoints.add(endpoint, algorithm, client_secret=given.secret))

        return await call(request, "c", None, work, 201)

    @routes.get(f"{here}/{{name}}", summary="One endpoint", openapi_extra=SECURED)
    async def one(request: Request, name: str) -> Response:
        return await call(request, "r", name, lambda _: shown(gateway.endpoints.get(name)))

    @routes.patch(f"{here}/{{name}}", summary="Change an endpoint", openapi_extra=body_of(EndpointChange))
    async def change(request: Request, name: str) -> Response:
        def work(body: bytes) -> Any:
            given = parse(body, EndpointChange)
            return shown(gateway.endpoints.update(name, given.secret, **given.fields(jwks_url)))

        return await call(request, "u", name, work)

    @routes.delete(
        f"{here}/{{name}}", summary="Forget an endpoint and its keys", status_code=204, openapi_extra=SECURED
    )
    async def remove(request: Request, name: str) -> Response:
        return await call(request, "d", name, lambda _: gateway.endpoints.remove(name))

    @routes.post(f"{here}/{{name}}/keys", summary="A step of a key rotation", openapi_extra=body_of(KeyChange))
    async def rotate(request: Request, name: str) -> Response:
        def work(body: bytes) -> Any:
            _rotate(gateway, name, parse(body, KeyChange))
            return shown(gateway.endpoints.get(name))

        return await call(request, "u", name, work)

    @routes.post(f"{here}/{{name}}/check", summary="Which check fails", openapi_extra=SECURED)
    async def check(request: Request, name: str) -> Response:
        def work(_: bytes) -> Any:
            endpoint, credential = gateway.endpoints.get(name), gateway.endpoints.credential(name)
            return [
                asdict(line) for line in asyncio.run(check_endpoint(endpoint, credential, gateway.settings.public_url))
            ]

        return await call(request, "r", name, work)

    @routes.get("/endpoints/{name}/jwks.json", summary="Public keys of one endpoint, for servers that mind others")
    async def jwks(name: str) -> Response:
        def work() -> Any:
            gateway.endpoints.get(name)
            return gateway.endpoints.public_jwks(name)

        keys = await run_in_threadpool(work)
        return Response(orjson.dumps(keys), headers={"Cache-Control": "max-age=300"}, media_type="application/json")

    return routes


def _rotate(gateway: Gateway, name: str, given: KeyChange) -> None:
    if given.step == "prepare":
        gateway.endpoints.prepare_key(name, given.algorithm)
    elif given.kid is None:
        raise InputError("name the key", location=Location(path="kid"))
    elif given.step == "activate":
        gateway.endpoints.activate_key(name, given.kid)
    else:
        gateway.endpoints.remove_key(name, given.kid)
