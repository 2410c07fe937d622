"""``$validate`` (R4 operation on every resource): on a type, or on one resource of it.

The body is the resource, or Parameters with ``resource``, ``mode`` and ``profile``; on one resource without a body the
one we have is judged. The answer is an OperationOutcome with status 200, whatever was found; what is wrong with the
request itself is a 4xx. ``mode`` asks whether the interaction would be allowed, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.conformance.models import Finding
from fhir_gateway.errors import InputError, Location, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.lake.judge import judge
from fhir_gateway.r4.spec import resource_types
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of
from fhir_gateway.server.catalog import Catalog
from fhir_gateway.server.negotiation import json_body, parse_parameters, require_json
from fhir_gateway.server.problems import FHIR_JSON, InsufficientScope, MissingToken, UnknownResource, UnsupportedType
from fhir_gateway.server.registry import VALIDATE

#: A resource is judged whole, in memory.
MAX_BYTES = 8 * 1024 * 1024
_LETTERS = {"create": "c", "update": "u", "delete": "d"}
_KNOWN = frozenset({"resource", "mode", "profile"})
_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A call: what to judge (None: what we have under the id), for which mode, by which profiles besides its own."""

    kind: str
    id: str | None
    resource: Any
    mode: str | None
    profiles: tuple[str, ...]


def router(gateway: Gateway, catalogs: Mapping[str, Catalog]) -> APIRouter:
    """Routes of the operation, below the FHIR base; for every type of R4, because senders push every type."""
    routes = APIRouter(tags=["validate"])

    async def answer(request: Request, kind: str, resource_id: str | None) -> Response:
        access = access_of(request)
        access.interaction = "$validate"
        if kind not in resource_types():
            raise UnsupportedType("this is not a resource type of FHIR R4")
        access.resource_type, access.resource_id = kind, resource_id
        access.named(list(request.query_params.keys()))
        require_json(request)
        header = request.headers.get("authorization")
        body = b"" if request.method == "GET" else await _body(request)

        def work() -> bytes:
            token = _caller(gateway, header, kind)
            access.client_id, access.purpose = token.client_id, token.purpose
            asked = _asked(kind, resource_id, list(request.query_params.multi_items()), body)
            stored = _stored(catalogs, asked, token)
            return orjson.dumps(_outcome(gateway, asked, stored, token))

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    described = documentation.validation(VALIDATE)
    with_body = documentation.validation(VALIDATE, body=True)

    @routes.post("/{resource_type}/$validate", **with_body)
    async def on_type(request: Request, resource_type: str) -> Response:
        return await answer(request, resource_type, None)

    @routes.get("/{resource_type}/{id}/$validate", **described)
    async def on_instance(request: Request, resource_type: str, id: str) -> Response:
        return await answer(request, resource_type, id)

    @routes.post("/{resource_type}/{id}/$validate", **with_body)
    async def on_instance_with_body(request: Request, resource_type: str, id: str) -> Response:
        return await answer(request, resource_type, id)

    return routes


async def _body(request: Request) -> bytes:
    """The JSON body; empty when there is none, whatever its content type."""
    if request.headers.get("content-length", "") == "0" or (
        "content-length" not in request.headers and "transfer-encoding" not in request.headers
    ):
        return b""
    return await json_body(request, MAX_BYTES)


def _caller(gateway: Gateway, header: str | None, kind: str) -> AccessToken:
    """The caller, who must be allowed to do something with the type: judging a body shows nothing of ours."""
    if not header:
        raise MissingToken("a bearer token is needed")
    token = gateway.authorization.verify(header)
    if not any(token.allows(kind, letter, some=True) for letter in "cruds"):
        raise InsufficientScope(f"the token has no scope for {kind}")
    return token


def _asked(kind: str, resource_id: str | None, pairs: list[tuple[str, Any]], body: bytes) -> Asked:
    """The call, read from URL and body; raises InputError naming the parameter and the rule it breaks."""
    given: list[tuple[str, Any]] = [pair for pair in pairs if pair[0] not in ("_format", "_pretty")]
    resource: Any = None
    if body.strip():
        resource = _read(body)
        if _is_call(kind, resource):
            given += parse_parameters(body)
            resource = None
    for name, value in given:
        if name not in _KNOWN:
            raise InputError("a parameter is none of mode, profile, resource", location=Location(rule="unknown"))
        if name == "resource":
            if resource is not None:
                raise _wrong("resource", "given more than once")
            resource = value
    mode = _one("mode", given)
    profiles = [value for name, value in given if name == "profile"]
    if not all(isinstance(one, str) and one for one in profiles):
        raise _wrong("profile", "not a canonical")
    if mode is not None and mode not in _LETTERS:
        raise _wrong("mode", "not one of create, update, delete")
    if mode == "create" and resource_id is not None:
        raise _wrong("mode", "create is asked on the type")
    if mode in ("update", "delete") and resource_id is None:
        raise _wrong("mode", f"{mode} is asked on a resource: [type]/[id]/$validate")
    if resource is None and (resource_id is None or mode == "update"):
        raise _wrong("resource", "required here")
    if isinstance(resource, Mapping) and resource.get("resourceType") not in (kind, None):
        raise _wrong("resource", f"is not a {kind}")
    return Asked(kind, resource_id, resource, mode, tuple(profiles))


def _read(body: bytes) -> Any:
    resource, issue = judge(body, None)
    if issue is not None and issue.rule in ("not-json", "depth", "duplicate-key"):
        raise InputError(f"the body cannot be read: {issue.message}", location=Location(rule=issue.rule))
    return resource


def _is_call(kind: str, body: Any) -> bool:
    """True for Parameters of the operation; on the type Parameters itself only when one is named ``resource``."""
    if not isinstance(body, Mapping) or body.get("resourceType") != "Parameters":
        return False
    entries = body.get("parameter")
    named = [one.get("name") for one in entries if isinstance(one, Mapping)] if isinstance(entries, list) else []
    return kind != "Parameters" or "resource" in named


def _one(name: str, given: list[tuple[str, Any]]) -> str | None:
    values = [value for found, value in given if found == name]
    if len(values) > 1:
        raise _wrong(name, "given more than once")
    if values and not isinstance(values[0], str):
        raise _wrong(name, "not a code")
    return values[0] if values else None


def _wrong(name: str, rule: str) -> InputError:
    return InputError(f"parameter {name}: {rule}", location=Location(path=name))


def _outcome(gateway: Gateway, asked: Asked, stored: Mapping[str, Any] | None, token: AccessToken) -> dict[str, Any]:
    resource = asked.resource if asked.resource is not None else stored
    for canonical in asked.profiles:
        if gateway.definitions.resource(canonical, "StructureDefinition") is None:
            raise NotFoundError("a profile that was asked for is not installed", location=Location(path="profile"))
    report = gateway.validator.validate(resource, asked.profiles)
    report.findings += _of_mode(asked, token)
    return report.outcome()


def _stored(catalogs: Mapping[str, Catalog], asked: Asked, token: AccessToken) -> Mapping[str, Any] | None:
    """What we have under the id, as far as the caller may read it; None on a type. Raises UnknownResource."""
    if asked.id is None:
        return None
    if not token.allows(asked.kind, "r", some=True):
        raise InsufficientScope(f"the token needs system/{asked.kind}.r")
    if asked.kind not in catalogs or not _ID.fullmatch(asked.id):
        raise UnknownResource(f"there is no such {asked.kind}")
    return catalogs[asked.kind].seen_by(token.audience).read(asked.kind, asked.id).json()


def _of_mode(asked: Asked, token: AccessToken) -> list[Finding]:
    """Why the interaction that ``mode`` asks about would be refused."""
    found = []
    if asked.mode is not None and not token.allows(asked.kind, _LETTERS[asked.mode], some=True):
        found.append(f"the token needs system/{asked.kind}.{_LETTERS[asked.mode]}")
    if asked.mode == "update" and isinstance(asked.resource, Mapping) and asked.resource.get("id") != asked.id:
        found.append("the resource has not the id that it would be updated under")
    return [Finding("error", asked.kind, "mode", one) for one in found]
