"""Subscriptions (R5 backport 1.1.0 to R4, rest-hook): create, update, delete, ``$status``, ``$events``.

A Subscription is its client's own: labelled with the client, it is seen by nobody else but clients without limits. What
a client may subscribe to is what it may read: the topic's type, and of that what it sees each time something happens.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.audience import CLIENT, label, labelled
from fhir_gateway.db.resources import StoredResource
from fhir_gateway.errors import AuthorizationError, ConflictError, InputError, Location, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.deliveries import audience_of, focused
from fhir_gateway.r4.models import validate
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.interactions import version_headers
from fhir_gateway.server.negotiation import JSON_FORMATS, operation_parameters, read_body, require_json
from fhir_gateway.server.operation_definitions import SUBSCRIPTION_EVENTS, SUBSCRIPTION_STATUS
from fhir_gateway.server.problems import FHIR_JSON, UnknownResource, UnsupportedMediaType
from fhir_gateway.subscriptions.models import CONTENTS, STATUSES, Asked, Content, read_subscription
from fhir_gateway.subscriptions.notifications import notification, status

_MOST_BYTES = 64 * 1024
_MOST_EVENTS = 1000
"""Events in one answer of ``$events``."""


class Stale(ConflictError):
    """The Subscription is not the version that ``If-Match`` names."""

    code, status = "stale-version", 412


def router(gateway: Gateway) -> APIRouter:
    """The routes, below the FHIR base; reading and searching are those of every type."""
    routes = APIRouter(tags=["Subscription"])
    base = f"{gateway.settings.public_url.rstrip('/')}/fhir"

    def written(stored: StoredResource, status: int) -> Response:
        where = {"Location": f"{base}/Subscription/{stored.id}/_history/{stored.version}"}
        return Response(stored.body, status, version_headers(stored) | where, FHIR_JSON)

    @routes.post("/Subscription", **documentation.create("Subscription"))
    async def create(request: Request) -> Response:
        body = await _begin(request, "create", None)
        token_of = _token(gateway, request, "c")

        def work() -> StoredResource:
            return _save(gateway, token_of(), f"sub-{secrets.token_hex(8)}", _parse(body), None, new=True)

        return written(await run_in_threadpool(work), 201)

    @routes.put("/Subscription/{id}", **documentation.update("Subscription"))
    async def update(request: Request, id: str) -> Response:
        body = await _begin(request, "update", id)
        token_of = _token(gateway, request, "u")

        def work() -> StoredResource:
            token, resource = token_of(), _parse(body)
            if resource.get("id") != id:
                raise InputError("the id is not that of the URL", location=Location(path="Subscription.id"))
            return _save(gateway, token, id, resource, request.headers.get("if-match"), new=False)

        return written(await run_in_threadpool(work), 200)

    @routes.delete("/Subscription/{id}", **documentation.delete("Subscription"))
    async def delete(request: Request, id: str) -> Response:
        await _begin(request, "delete", id)
        token_of = _token(gateway, request, "d")

        def work() -> None:
            token = token_of()
            _own(gateway, token, id)
            with gateway.resources.writing() as writing:
                writing.delete("Subscription", id)
                gateway.subscriptions.forget(writing.connection, id)

        await run_in_threadpool(work)
        return Response(status_code=204)

    async def of_one(request: Request, id: str) -> Response:
        pairs = await _asked(request, "$status", id)
        token_of = _token(gateway, request, "r")

        def work() -> bytes:
            if pairs:
                raise InputError("on one Subscription $status has no parameters", location=Location(rule="parameters"))
            return _statuses(gateway, token_of(), [id], ())

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    async def of_several(request: Request) -> Response:
        pairs = await _asked(request, "$status", None)
        token_of = _token(gateway, request, "r")

        def work() -> bytes:
            ids, wanted = _several(pairs)
            return _statuses(gateway, token_of(), ids, wanted)

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    async def events(request: Request, id: str) -> Response:
        pairs = await _asked(request, "$events", id)
        token_of = _token(gateway, request, "r")
        return Response(await run_in_threadpool(lambda: _events(gateway, token_of(), id, pairs)), media_type=FHIR_JSON)

    for path, operation, handler in (
        ("/Subscription/$status", SUBSCRIPTION_STATUS, of_several),
        ("/Subscription/{id}/$status", SUBSCRIPTION_STATUS, of_one),
        ("/Subscription/{id}/$events", SUBSCRIPTION_EVENTS, events),
    ):
        routes.get(path, **documentation.operation(operation))(handler)
        routes.post(path, **documentation.operation(operation, body=True))(handler)
    return routes


async def _begin(request: Request, interaction: str, subscription: str | None) -> bytes:
    """Note what is asked, and read the body."""
    access = access_of(request)
    access.interaction, access.resource_type, access.resource_id = interaction, "Subscription", subscription
    require_json(request)
    if interaction == "delete":
        return b""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in JSON_FORMATS:
        raise UnsupportedMediaType("send a Subscription as application/fhir+json")
    return await read_body(request, _MOST_BYTES)


async def _asked(request: Request, code: str, subscription: str | None) -> list[tuple[str, Any]]:
    access = access_of(request)
    access.interaction, access.resource_type, access.resource_id = code, "Subscription", subscription
    require_json(request)
    pairs = await operation_parameters(request)
    access.named([name for name, _ in pairs])
    return pairs


def _token(gateway: Gateway, request: Request, letter: str) -> Callable[[], AccessToken]:
    """A function that admits the caller, to be called outside the event loop."""
    header, access = request.headers.get("authorization"), access_of(request)
    return lambda: admit(gateway.authorization, header, access, "Subscription", letter)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        resource = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InputError("the body is not JSON", location=Location(rule="json")) from None
    if not isinstance(resource, dict) or resource.get("resourceType") != "Subscription":
        raise InputError("the body is not a Subscription", location=Location(path="resourceType"))
    return resource


def _save(
    gateway: Gateway,
    token: AccessToken,
    subscription: str,
    resource: dict[str, Any],
    if_match: str | None,
    *,
    new: bool,
) -> StoredResource:
    """Check and store a Subscription with its channel."""
    now = datetime.now(UTC)
    asked = read_subscription(resource, public_only=gateway.settings.subscription_endpoints == "public", now=now)
    validate(resource)
    if not new:
        _own(gateway, token, subscription)
    _may_subscribe(gateway, token, asked)
    if new and gateway.subscriptions.count(token.client_id) >= gateway.settings.subscriptions_per_client:
        raise ConflictError("this client has as many subscriptions as it may: delete one")
    body = {name: value for name, value in asked.resource.items() if name != "error"}
    meta = {name: value for name, value in body.get("meta", {}).items() if name != "security"}
    with gateway.resources.writing() as writing:
        stored = writing.current("Subscription", subscription)
        if if_match is not None and (stored is None or if_match.strip() not in ("*", f'W/"{stored.version}"')):
            raise Stale("the Subscription has changed: read it again")
        status = gateway.subscriptions.save(
            writing.connection, subscription, token.client_id, asked, int(now.timestamp() * 1000)
        )
        body |= {"id": subscription, "meta": meta, "status": status}
        return writing.put(labelled(body, label(CLIENT, token.client_id)))


def _own(gateway: Gateway, token: AccessToken, subscription: str) -> None:
    """Only who made a Subscription may change it; to others it does not exist, or is not theirs."""
    try:
        gateway.resources.seen_by(token.audience).read("Subscription", subscription)
        channel = gateway.subscriptions.channel(subscription)
    except NotFoundError:
        raise UnknownResource("there is no such Subscription") from None
    if channel.client_id != token.client_id:
        raise AuthorizationError("this Subscription is another client's")


def _may_subscribe(gateway: Gateway, token: AccessToken, asked: Asked) -> None:
    """The caller must be able to read what it wants to be told of, also later and by its registration."""
    kind = asked.terms.resource_type
    token.require(kind, "r")
    if gateway.authorization.store.client(token.client_id) is None:
        raise AuthorizationError("subscriptions are for clients that are registered here")
    ids = [value for name, value in asked.terms.criteria if name == "_id"]
    wanted = {(kind, one) for value in ids for one in value.split(",")}
    found = gateway.resources.seen_by(token.audience).read_many(wanted)
    if len(found) < len(wanted):
        raise AuthorizationError(f"there is no such {kind} for this client")


def _several(pairs: Sequence[tuple[str, Any]]) -> tuple[list[str] | None, tuple[str, ...]]:
    """Ids and statuses that ``$status`` on the type asks for; None is all."""
    ids: list[str] = []
    wanted: list[str] = []
    for name, value in pairs:
        if name == "id" and isinstance(value, str):
            ids.append(value)
        elif name == "status" and value in STATUSES:
            wanted.append(value)
        else:
            raise InputError("parameters are id and status", location=Location(path=name, rule="parameters"))
    return ids or None, tuple(wanted)


def _statuses(gateway: Gateway, token: AccessToken, ids: list[str] | None, wanted: Sequence[str]) -> bytes:
    base = f"{gateway.settings.public_url.rstrip('/')}/fhir"
    seen = gateway.resources.seen_by(token.audience)
    visible = set(seen.ids("Subscription", [("_id", ",".join(ids))] if ids else []))
    if ids and len(ids) == 1 and not visible:
        raise UnknownResource("there is no such Subscription")
    entries = []
    for one in sorted(visible):
        standing = gateway.subscriptions.channel(one).standing
        if not wanted or standing.status in wanted:
            said = status(base, standing, "query-status")
            entries.append({"fullUrl": f"urn:uuid:{said['id']}", "resource": said, "search": {"mode": "match"}})
    bundle = {"resourceType": "Bundle", "type": "searchset", "total": len(entries)}
    return orjson.dumps(bundle | ({"entry": entries} if entries else {}))


def _events(gateway: Gateway, token: AccessToken, subscription: str, pairs: Sequence[tuple[str, Any]]) -> bytes:
    """Past events as a notification; what the client does not see any more has no focus."""
    first, last, content = 1, 2**62, None
    for name, value in pairs:
        if name in ("eventsSinceNumber", "eventsUntilNumber"):
            text = str(value)
            if not (text.isascii() and text.isdigit() and len(text) < 19):
                raise InputError("an event number", location=Location(path=name))
            first, last = (int(text), last) if name == "eventsSinceNumber" else (first, int(text))
        elif name == "content" and value in CONTENTS:
            content = value
        else:
            raise InputError("not a parameter of $events, or no such content", location=Location(path=name))
    try:
        gateway.resources.seen_by(token.audience).read("Subscription", subscription)
        channel = gateway.subscriptions.channel(subscription)
    except NotFoundError:
        raise UnknownResource("there is no such Subscription") from None
    audience = audience_of(gateway, channel)
    if audience is None or channel.client_id != token.client_id:
        raise AuthorizationError("the events of a Subscription are for its client")
    shown: Content = channel.terms.content if content is None else content
    if CONTENTS.index(shown) > CONTENTS.index(channel.terms.content):
        shown = channel.terms.content
    found = gateway.subscriptions.events(subscription, first, last, _MOST_EVENTS)
    base = f"{gateway.settings.public_url.rstrip('/')}/fhir"
    events = focused(gateway, found, replace(audience, grants=token.audience.grants))
    return notification(base, channel.standing, "query-event", events, shown, datetime.now(UTC))
