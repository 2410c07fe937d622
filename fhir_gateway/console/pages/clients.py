"""Clients that read from us: register one, let one in that registered itself, change its keys, disable one.

What a form says is registered by the same call as the command's and the API's, with the same checks; what they refuse
is shown on the form, which keeps what was typed.
"""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from typing import Annotated, Any
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.auth.keys import check_key_set
from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.sessions import Session
from fhir_gateway.db.audience import grants_of
from fhir_gateway.errors import ConflictError, InputError
from fhir_gateway.server.access import access_of

_CLIENTS = f"{PATH}/operations/clients"
_MOST_ID_SHOWN = 64


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    clients = frame.gateway.authorization
    See = Annotated[Session, Depends(frame.see("see-operations"))]
    May = Annotated[Session, Depends(frame.see("do-operations"))]
    Do = Annotated[Form, Depends(frame.do("do-operations"))]

    def form_page(
        request: Request, waiting: Any, given: dict[str, str], problem: InputError | ConflictError | None = None
    ) -> Response:
        status = 200 if problem is None else problem.status
        text = None if problem is None else problem.message
        return frame.page(request, "client_form.html", status=status, waiting=waiting, given=given, problem=text)

    @routes.get("/operations/clients")
    def every(request: Request, _: See) -> Response:
        return frame.page(request, "clients.html", clients=clients.clients())

    @routes.get("/operations/clients/new")
    def new(request: Request, _: May) -> Response:
        return form_page(request, None, {})

    @routes.post("/operations/clients")
    def add(request: Request, form: Do) -> Response:
        given = form.fields
        access_of(request).resource_id = given.get("client_id", "new")[:_MOST_ID_SHOWN]
        try:
            clients.register_client(
                form.need("client_id"),
                scopes=form.need("scopes"),
                name=given.get("name"),
                jwks=_keys(given.get("jwks")),
                jwks_url=given.get("jwks_url"),
                grants=_whose(given),
                purpose=given.get("purpose"),
            )
        except (InputError, ConflictError) as problem:
            return form_page(request, None, _shown_again(given), problem)
        return RedirectResponse(_CLIENTS, 303)

    @routes.get("/operations/clients/{client_id:path}/approval")
    def look(request: Request, client_id: str, _: May) -> Response:
        waiting = clients.client(client_id)
        return form_page(request, waiting, {"scopes": waiting.requested or ""})

    @routes.post("/operations/clients/{client_id:path}/approval")
    def approve(request: Request, client_id: str, form: Do) -> Response:
        given = form.fields
        waiting = clients.client(client_id)
        access_of(request).resource_id = client_id[:_MOST_ID_SHOWN]
        try:
            clients.approve_client(
                client_id, scopes=form.need("scopes"), grants=_whose(given), purpose=given.get("purpose")
            )
        except (InputError, ConflictError) as problem:
            return form_page(request, waiting, given, problem)
        return RedirectResponse(_CLIENTS, 303)

    def keys_page(request: Request, client_id: str, problem: InputError | None = None) -> Response:
        status = 200 if problem is None else problem.status
        text = None if problem is None else problem.message
        client = clients.client(client_id)
        return frame.page(request, "client_keys.html", status=status, client=client, problem=text)

    @routes.get("/operations/clients/{client_id:path}/keys")
    def keys(request: Request, client_id: str, _: May) -> Response:
        return keys_page(request, client_id)

    @routes.post("/operations/clients/{client_id:path}/keys")
    def replace(request: Request, client_id: str, form: Do) -> Response:
        """Other keys in the place of those of now; one set with old and new ones lets both count for a while."""
        access_of(request).resource_id = client_id[:_MOST_ID_SHOWN]
        clients.client(client_id)
        try:
            clients.replace_keys(client_id, jwks=_keys(form.fields.get("jwks")), jwks_url=form.fields.get("jwks_url"))
        except InputError as problem:
            return keys_page(request, client_id, problem)
        return RedirectResponse(f"{_CLIENTS}/{quote(client_id, safe='')}/keys", 303)

    @routes.post("/operations/clients/{client_id:path}/disable")
    def disable(request: Request, client_id: str, _: Do) -> Response:
        access_of(request).resource_id = client_id[:_MOST_ID_SHOWN]
        clients.disable_client(client_id)
        return RedirectResponse(_CLIENTS, 303)

    return routes


def _whose(given: dict[str, str]) -> list[str] | None:
    """Whose data a form says; None is everybody's, which must be ticked: an empty field is no such word."""
    named = {kind: given.get(kind, "").split() for kind in ("contract", "organization", "group")}
    grants = grants_of(**named)
    if (grants is None) != ("everything" in given):
        raise InputError("say whose data it sees: a contract, a practice or a list, or tick everybody's data, not both")
    return grants


def _shown_again(given: dict[str, str]) -> dict[str, str]:
    """What was typed, without keys that cannot be registered: they may be private ones."""
    try:
        check_key_set(_keys(given.get("jwks")) or {})
    except InputError:
        return {name: value for name, value in given.items() if name != "jwks"}
    return given


def _keys(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        keys = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InputError("the JWK Set cannot be read as JSON") from None
    if not isinstance(keys, dict):
        raise InputError("a JWK Set is a JSON object")
    return keys
