"""Operations on attribution lists (ATR 2.1.0 section "Reconciliation"): POST with a Parameters body, on one Group.

A change is answered by an OperationOutcome with the list's new version as ``ETag`` and ``Content-Location``: a list may
have a hundred thousand members. ``If-Match`` makes it depend on the version that the caller looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.search.dates import parse_range
from fhir_gateway.errors import InputError, Location, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import lists
from fhir_gateway.jobs.list_parties import Identifier, Named
from fhir_gateway.jobs.lists import Caller, Changed
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.audit import Access
from fhir_gateway.server.negotiation import operation_parameters, require_json
from fhir_gateway.server.operation_definitions import (
    ATTRIBUTION_STATUS,
    CONFIRM_ATTRIBUTION_LIST,
    MEMBER_ADD,
    MEMBER_REMOVE,
    Operation,
)
from fhir_gateway.server.problems import FHIR_JSON, UnknownResource, issue, outcome

_BY_NUMBER, _BY_REFERENCE = {"memberId", "providerNpi"}, {"patientReference", "providerReference"}
#: Combinations that the guide supports (ATR 2.1.0); anything else is refused.
COMBINATIONS: Mapping[str, tuple[set[str], ...]] = {
    MEMBER_ADD.code: tuple(
        base | more for base in (_BY_NUMBER, _BY_REFERENCE) for more in (set[str](), {"attributionPeriod"})
    ),
    MEMBER_REMOVE.code: (
        {"memberId"},
        _BY_NUMBER,
        {"patientReference"},
        _BY_REFERENCE,
        _BY_REFERENCE | {"coverageReference"},
    ),
    ATTRIBUTION_STATUS.code: ({"memberId"}, {"patientReference"}),
    CONFIRM_ATTRIBUTION_LIST.code: (set(),),
}
_PARTIES = {
    "patientReference": ("Patient",),
    "providerReference": ("Organization", "Practitioner", "PractitionerRole"),
    "coverageReference": ("Coverage",),
}
_VERSION = re.compile(r'(?:W/)?"([1-9][0-9]{0,8})"')
_LONGEST = 1000  # of a stated reason

Work = Callable[[Gateway, str, Named, Caller, Access], Response]


def router(gateway: Gateway) -> APIRouter:
    """Routes of the operations, below the FHIR base."""
    routes = APIRouter(tags=["Group"])
    base = f"{gateway.settings.public_url.rstrip('/')}/fhir"

    def changed(access: Access, done: Changed, said: str, otherwise: str, status: int = 200) -> Response:
        access.disclose([done.person] if done.person else [])
        where = f"{base}/Group/{done.stored.id}/_history/{done.stored.version}"
        body = outcome(issue("information", "informational", said if done.changed else otherwise))
        headers = {"ETag": f'W/"{done.stored.version}"', "Content-Location": where}
        return Response(orjson.dumps(body), status, headers, FHIR_JSON)

    def add(gateway: Gateway, group: str, named: Named, caller: Caller, access: Access) -> Response:
        return changed(
            access, lists.add(gateway, group, named, caller), "the member was added", "the member is on the list"
        )

    def remove(gateway: Gateway, group: str, named: Named, caller: Caller, access: Access) -> Response:
        return changed(
            access, lists.remove(gateway, group, named, caller), "the member was removed", "nothing was removed"
        )

    def confirm(gateway: Gateway, group: str, named: Named, caller: Caller, access: Access) -> Response:
        return changed(access, lists.confirm(gateway, group, caller), "the list is final now", "the list is final", 201)

    def status(gateway: Gateway, group: str, named: Named, caller: Caller, access: Access) -> Response:
        return Response(orjson.dumps(lists.status(gateway, group, named, caller)), media_type=FHIR_JSON)

    _route(routes, gateway, MEMBER_ADD, "ru", add)
    _route(routes, gateway, MEMBER_REMOVE, "ru", remove)
    _route(routes, gateway, CONFIRM_ATTRIBUTION_LIST, "ru", confirm, 201)
    _route(routes, gateway, ATTRIBUTION_STATUS, "r", status)
    return routes


def _route(
    routes: APIRouter, gateway: Gateway, operation: Operation, letters: str, work: Work, status: int = 200
) -> None:
    """``POST Group/[id]/$code``."""

    @routes.post(f"/Group/{{id}}/${operation.code}", **documentation.posted(operation, status))
    async def asked(request: Request, id: str) -> Response:
        access = access_of(request)
        access.interaction, access.resource_type, access.resource_id = f"${operation.code}", "Group", id
        require_json(request)
        pairs = await operation_parameters(request)
        access.named([name for name, _ in pairs])
        header = request.headers.get("authorization")

        def answer() -> Response:
            token = admit(gateway.authorization, header, access, "Group", letters)
            if operation is ATTRIBUTION_STATUS:
                admit(gateway.authorization, header, access, "Patient", "r")
            named = named_parties(operation.code, pairs, f"{gateway.settings.public_url.rstrip('/')}/fhir")
            try:
                return work(gateway, id, named, _caller(request, token), access)
            except NotFoundError:
                raise UnknownResource("there is no such Group") from None

        return await run_in_threadpool(answer)


def named_parties(code: str, pairs: Sequence[tuple[str, Any]], base: str) -> Named:
    """Whom a call names; InputError for a parameter or a combination that the guide does not have."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise _wrong(name, "more than once")
        values[name] = value
    if set(values) not in COMBINATIONS[code]:
        known = "; ".join(" + ".join(sorted(one)) for one in COMBINATIONS[code] if one) or "none"
        raise InputError(f"parameters of ${code}, in these combinations: {known}", location=Location(rule="parameters"))
    references = {name: _reference(name, values.get(name), base) for name in _PARTIES}
    return Named(
        member_id=_identifier("memberId", values.get("memberId")),
        patient=references["patientReference"],
        provider_npi=_identifier("providerNpi", values.get("providerNpi")),
        provider=references["providerReference"],
        coverage=references["coverageReference"],
        period=_period(values.get("attributionPeriod")),
    )


def _wrong(name: str, rule: str) -> InputError:
    return InputError(f"parameter {name}: {rule}", location=Location(path=name))


def _identifier(name: str, value: Any) -> Identifier | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("value"), str) or not value["value"].strip():
        raise _wrong(name, "an Identifier with a value")
    system = value.get("system")
    if system is not None and (not isinstance(system, str) or not system):
        raise _wrong(name, "the system is a URI")
    return Identifier(value["value"], system)


def _reference(name: str, value: Any, base: str) -> str | None:
    if value is None:
        return None
    text = value.get("reference") if isinstance(value, dict) else None
    kinds = _PARTIES[name]
    match = re.fullmatch(rf"(?:{re.escape(base)}/)?((?:{'|'.join(kinds)})/[A-Za-z0-9.-]{{1,64}})", text or "")
    if match is None:
        raise _wrong(name, f"a Reference to {' or '.join(kinds)} of this server")
    return match[1]


def _period(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    stated = {name: value.get(name) for name in ("start", "end")} if isinstance(value, dict) else {}
    days = {name: day for name, day in stated.items() if isinstance(day, str)}
    if "start" not in days or len(days) < sum(day is not None for day in stated.values()):
        raise _wrong("attributionPeriod", "a Period with a start")
    try:
        ranges = {name: parse_range(day) for name, day in days.items()}
    except ValueError:
        raise _wrong("attributionPeriod", "not a FHIR date") from None
    if "end" in ranges and ranges["end"][1] <= ranges["start"][0]:
        raise _wrong("attributionPeriod", "the end is before the start")
    return days


def _caller(request: Request, token: AccessToken) -> Caller:
    said = _provenance(request.headers.get("x-provenance"))
    return Caller(
        token.client_id,
        token.audience,
        _why(said),
        said,
        _version(request.headers.get("if-match")),
        lambda kind: token.allows(kind, "r", some=True),
    )


def _version(header: str | None) -> int | None:
    if header is None or header.strip() == "*":
        return None
    match = _VERSION.fullmatch(header.strip())
    if match is None:
        raise InputError('If-Match is a version such as W/"3"', location=Location(path="If-Match"))
    return int(match[1])


def _provenance(header: str | None) -> Mapping[str, Any] | None:
    """The resource of an ``X-Provenance`` header, which has no target (R4 provenance.html 6.4.8)."""
    if header is None:
        return None
    where = Location(path="X-Provenance")
    try:
        said = orjson.loads(header)
    except orjson.JSONDecodeError:
        raise InputError("not JSON", location=where) from None
    if not isinstance(said, dict) or said.get("resourceType") != "Provenance":
        raise InputError("not a Provenance resource", location=where)
    agents = said.get("agent")
    if (
        not isinstance(agents, list)
        or not agents
        or not all(isinstance(one, dict) and one.get("who") for one in agents)
    ):
        raise InputError("a Provenance has agents who", location=where)
    return said


def _why(said: Mapping[str, Any] | None) -> str | None:
    """The first reason of a Provenance, in words."""
    reasons = (said or {}).get("reason")
    for reason in reasons if isinstance(reasons, list) else ():
        if isinstance(reason, dict):
            codings = reason.get("coding")
            words = [one.get("display") or one.get("code") for one in codings or () if isinstance(one, dict)]
            text = reason.get("text") or next(filter(None, words), None)
            if isinstance(text, str):
                return text[:_LONGEST]
    return None
