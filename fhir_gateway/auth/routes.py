"""Routes of the authorization server: token, introspection, revocation, and SMART discovery."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from fhir_gateway.auth.models import ALGORITHMS, AccessToken, Reply
from fhir_gateway.auth.service import AuthorizationServer

_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_MAXIMUM_BYTES = 64 * 1024
_MAXIMUM_FIELDS = 20
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def smart_configuration(server: AuthorizationServer) -> dict[str, Any]:
    """The ``.well-known/smart-configuration`` document of a FHIR server that only backend clients use.

    ``code_challenge_methods_supported`` is required even where no authorization code is ever issued; the
    authorization endpoint is left out, as the specification allows without app launch.
    """
    shared = {
        "token_endpoint": server.discovered_token_url,
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "scopes_supported": list(server.scopes_supported),
        "response_types_supported": [],
        "code_challenge_methods_supported": ["S256"],
        "capabilities": ["client-confidential-asymmetric", "permission-v1", "permission-v2"],
    }
    if not server.issues:  # how its clients authenticate is the outside issuer's to say
        return {name: value for name, value in shared.items() if not name.startswith("token_endpoint_auth")}
    own = {"introspection_endpoint": server.introspection_url, "revocation_endpoint": server.revocation_url}
    if server.registration_url is not None:
        own["registration_endpoint"] = server.registration_url
    return shared | own


def router(server: AuthorizationServer, *, auth_path: str = "/auth", fhir_path: str | None = "/fhir") -> APIRouter:
    """Build the router: ``{auth_path}/token``, ``/introspect``, ``/revoke``, and discovery below ``fhir_path``.

    ``auth_path`` must be where ``server.token_url`` points. With ``fhir_path`` None there is no discovery route.
    """
    routes = APIRouter(tags=["authorization"])

    if server.issues:
        _add_issuing(routes, server, auth_path)
    if server.registration_url is not None:
        _add_registration(routes, server, auth_path)

    if fhir_path is not None:
        document = smart_configuration(server)

        @routes.get(f"{fhir_path}/.well-known/smart-configuration", summary="SMART discovery")
        async def discover() -> JSONResponse:
            """Where and how to get a token; open to everyone, from any origin."""
            return JSONResponse(document, headers={"Access-Control-Allow-Origin": "*"})

    return routes


def _add_issuing(routes: APIRouter, server: AuthorizationServer, auth_path: str) -> None:
    @routes.post(f"{auth_path}/token", openapi_extra=_form("grant_type", "scope", *_ASSERTION), summary="Get a token")
    async def token(request: Request) -> JSONResponse:
        """SMART Backend Services: client credentials grant with a signed client assertion."""
        return await _answer(request, "token", lambda fields, _: server.token(fields))

    @routes.post(f"{auth_path}/introspect", openapi_extra=_form("token"), summary="Introspect a token")
    async def introspect(request: Request) -> JSONResponse:
        """RFC 7662, for the caller's own tokens; authenticate by bearer token or client assertion."""
        return await _answer(request, "introspect", server.introspect)

    @routes.post(f"{auth_path}/revoke", openapi_extra=_form("token"), summary="Revoke a token")
    async def revoke(request: Request) -> JSONResponse:
        """RFC 7009, for the caller's own tokens; authenticate by bearer token or client assertion."""
        return await _answer(request, "revoke", server.revoke)


def _add_registration(routes: APIRouter, server: AuthorizationServer, auth_path: str) -> None:
    @routes.post(f"{auth_path}/register", openapi_extra=_metadata(), summary="Register a client", status_code=201)
    async def register(request: Request) -> JSONResponse:
        """RFC 7591; the client may nothing until an operator approves it."""
        metadata = await _json(request)
        if isinstance(metadata, str):
            body = {"error": "invalid_client_metadata", "error_description": metadata}
            reply = Reply(400, body, _NO_STORE, check="request", reason=metadata)
        else:
            reply = await run_in_threadpool(server.register, metadata, request.headers.get("authorization"))
        _audit(request, "register", [], reply)
        return _response(reply)


def bearer(server: AuthorizationServer) -> Callable[[Request], AccessToken]:
    """Build a FastAPI dependency that verifies the request's token (in a thread, as it reads the database)."""

    def verified(request: Request) -> AccessToken:
        return server.verify(request.headers.get("authorization"))

    return verified


_ASSERTION = ("client_assertion_type", "client_assertion")


def _metadata() -> dict[str, Any]:
    schema = {"type": "object", "title": "ClientMetadata"}
    return {"requestBody": {"required": True, "content": {_JSON: {"schema": schema}}}}


def _form(*fields: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": list(fields),
        "properties": {name: {"type": "string"} for name in fields},
    }
    return {"requestBody": {"required": True, "content": {_FORM: {"schema": schema}}}}


async def _answer(request: Request, endpoint: str, call: Callable[[dict[str, str], str | None], Reply]) -> JSONResponse:
    fields = await _fields(request)
    if isinstance(fields, str):
        body = {"error": "invalid_request", "error_description": fields}
        reply = Reply(400, body, _NO_STORE, check="request", reason=fields)
    else:
        reply = await run_in_threadpool(call, fields, request.headers.get("authorization"))
    _audit(request, endpoint, [] if isinstance(fields, str) else list(fields), reply)
    return _response(reply)


def _response(reply: Reply) -> JSONResponse:
    headers = {name: value for name, value in reply.headers.items() if name.lower() != "content-type"}
    return JSONResponse(dict(reply.body), reply.status, headers)


def _audit(request: Request, endpoint: str, names: list[str], reply: Reply) -> None:
    """Complete the entry of the audit trail, where the application around these routes keeps one."""
    access = getattr(request.state, "access", None)
    if access is None:
        return
    access.interaction, access.client_id = endpoint, reply.client_id
    access.named(names)
    if reply.check is not None:
        access.reason = f"{reply.check}: {reply.reason}"[:255]


async def _fields(request: Request) -> dict[str, str] | str:
    """Read the form; a text says what is wrong with it. Parsed here because duplicates must be refused."""
    body = await _body(request, _FORM)
    if isinstance(body, str):
        return body
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAXIMUM_FIELDS)
    except ValueError:
        return "The form is malformed."
    if len({name for name, _ in pairs}) != len(pairs):
        return "A parameter occurs more than once."
    return dict(pairs)


async def _json(request: Request) -> dict[str, Any] | str:
    """Read a JSON object; a text says what is wrong with it."""
    body = await _body(request, _JSON)
    if isinstance(body, str):
        return body
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return "The body is no JSON."
    return parsed if isinstance(parsed, dict) else "The body must be a JSON object."


async def _body(request: Request, media_type: str) -> bytes | str:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != media_type:
        return f"The content type must be {media_type}."
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAXIMUM_BYTES:
            return "The body is too large."
    return bytes(body)
