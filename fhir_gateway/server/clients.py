"""The API behind the console for clients that read from us: ``/admin/clients``.

For operators: a token needs ``system/Client`` scopes by name, and its client must be registered for everybody's data:
whoever registers clients says what they see. Keys that are shown are public ones. A client cannot suspend or remove
itself, so that somebody is left who can undo it.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import Client
from fhir_gateway.db.audience import CLIENTS
from fhir_gateway.errors import ConflictError
from fhir_gateway.factory import Gateway
from fhir_gateway.server.access import access_of
from fhir_gateway.server.administration import ADMIN_PATH, SECURED, Administration, body_of, parse
from fhir_gateway.server.problems import InsufficientScope

_Text = Annotated[str, Field(min_length=1, max_length=255)]
_Long = Annotated[str, Field(min_length=1, max_length=4096)]
_Url = Annotated[str, Field(min_length=1, max_length=2048)]


class Registration(BaseModel):
    """What an operator says of a client; ``grants`` of null is everybody's data."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True)

    scopes: _Long
    grants: list[_Text] | None
    purpose: _Text | None = None


class NewClient(Registration):
    """A client to register, by its public keys or where it publishes them."""

    client_id: _Text
    name: _Text | None = None
    jwks: dict[str, Any] | None = None
    jwks_url: _Url | None = None


class Invitation(BaseModel):
    """Who may register themselves (RFC 7591), how often, and for how many days."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True)

    name: _Text
    uses: int = 1
    days: int = 7


class ClientChange(BaseModel):
    """What may be changed; members that are absent stay as they are. Every change ends the client's tokens."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True)

    name: _Text = ""
    scopes: _Long = ""
    grants: list[_Text] | None = None
    purpose: _Text | None = None
    jwks: dict[str, Any] | None = None
    jwks_url: _Url | None = None
    disabled: bool = False


def router(gateway: Gateway) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["clients"])
    here, one_client = f"{ADMIN_PATH}/clients", f"{ADMIN_PATH}/clients/{{client_id:path}}"
    clients = gateway.authorization
    administration = Administration(gateway, CLIENTS)

    async def call(request: Request, letter: str, client_id: str | None, work: Any, status: int = 200) -> Response:
        def everybodys(body: bytes) -> Any:
            if not request.state.token.audience.everybody:
                raise InsufficientScope("clients are administered by clients that see everybody's data")
            return work(body)

        return await administration.call(request, letter, client_id, everybodys, status)

    def not_oneself(request: Request, client_id: str) -> None:
        if request.state.token.client_id == client_id:
            raise ConflictError("a client does not suspend or remove itself")

    @routes.get(here, summary="Clients that may read from us", openapi_extra=SECURED)
    async def every(request: Request) -> Response:
        return await call(request, "r", None, lambda _: [_shown(one) for one in clients.clients()])

    @routes.post(here, summary="Register a client", status_code=201, openapi_extra=body_of(NewClient))
    async def add(request: Request) -> Response:
        def work(body: bytes) -> Any:
            given = parse(body, NewClient)
            access_of(request).resource_id = given.client_id[:64]
            return _shown(clients.register_client(**given.model_dump()))

        return await call(request, "c", None, work, 201)

    @routes.post(
        f"{ADMIN_PATH}/invitations",
        summary="An initial access token by which clients may register themselves; shown once",
        status_code=201,
        openapi_extra=body_of(Invitation),
    )
    async def invite(request: Request) -> Response:
        def work(body: bytes) -> Any:
            given = parse(body, Invitation)
            access_of(request).resource_id = given.name[:64]
            return {**given.model_dump(), "token": clients.invite(given.name, uses=given.uses, days=given.days)}

        return await call(request, "c", None, work, 201)

    @routes.post(
        f"{here}/{{client_id:path}}/approval",
        summary="Let a client in that registered itself",
        openapi_extra=body_of(Registration),
    )
    async def approve(request: Request, client_id: str) -> Response:
        def work(body: bytes) -> Any:
            return _shown(clients.approve_client(client_id, **parse(body, Registration).model_dump()))

        return await call(request, "u", client_id, work)

    @routes.get(one_client, summary="One client", openapi_extra=SECURED)
    async def one(request: Request, client_id: str) -> Response:
        return await call(request, "r", client_id, lambda _: _shown(clients.client(client_id)))

    @routes.patch(one_client, summary="Change, suspend or resume a client", openapi_extra=body_of(ClientChange))
    async def change(request: Request, client_id: str) -> Response:
        def work(body: bytes) -> Any:
            given = parse(body, ClientChange).model_dump(exclude_unset=True)
            if given.get("disabled"):
                not_oneself(request, client_id)
            return _shown(clients.change_client(client_id, **given))

        return await call(request, "u", client_id, work)

    @routes.delete(one_client, summary="Forget a client", status_code=204, openapi_extra=SECURED)
    async def remove(request: Request, client_id: str) -> Response:
        def work(_: bytes) -> None:
            not_oneself(request, client_id)
            clients.remove_client(client_id)

        return await call(request, "d", client_id, work)

    return routes


def _shown(client: Client) -> dict[str, Any]:
    labels = client.audience.labels
    return {
        "client_id": client.client_id,
        "name": client.name,
        "state": "disabled" if client.disabled else "pending" if client.pending else "active",
        "scopes": " ".join(map(str, client.scopes)),
        "grants": None if labels is None else sorted(labels),
        "purpose": client.purpose,
        "jwks": client.jwks,
        "jwks_url": client.jwks_url,
        "registered_by": client.origin,
        "requested": client.requested,
        "contacts": list(client.contacts),
    }
