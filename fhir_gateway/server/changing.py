"""Requests that create, update or delete one resource, and what they are answered (R4 http.html 3.1.0.4 to 3.1.0.8)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.errors import InputError, Location
from fhir_gateway.lake.judge import judge
from fhir_gateway.r4 import exact
from fhir_gateway.server.access import admit
from fhir_gateway.server.audit import Access
from fhir_gateway.server.interactions import begin, version_headers
from fhir_gateway.server.negotiation import json_body, preferences, require_json
from fhir_gateway.server.problems import FHIR_JSON, PreconditionFailed, issue, outcome
from fhir_gateway.server.pushing import PUSHED, PushedWrites
from fhir_gateway.server.remarking import Remarking
from fhir_gateway.server.search import parse_query
from fhir_gateway.server.writing import Change, Writes, Written

#: Largest resource that is written.
MAX_RESOURCE_BYTES = 4 * 1024 * 1024
_DONE = {"create": "created", "update": "updated", "patch": "updated", "delete": "deleted"}


@dataclass(frozen=True, slots=True)
class Changing:
    """Handlers for the types that clients may write."""

    writes: Writes
    pushed: PushedWrites
    remarking: Remarking

    async def create(self, request: Request, resource_type: str) -> Response:
        """``POST [type]``, conditional with ``If-None-Exist``."""
        query = request.headers.get("if-none-exist")
        return await self._change(request, Change("create", resource_type), query, sends=True)

    async def update(self, request: Request, resource_type: str, resource_id: str | None) -> Response:
        """``PUT [type]/[id]``, and conditional ``PUT [type]?...``."""
        query = request.url.query if resource_id is None else None
        return await self._change(request, Change("update", resource_type, resource_id), query, sends=True)

    async def delete(self, request: Request, resource_type: str, resource_id: str | None) -> Response:
        """``DELETE [type]/[id]``, and conditional ``DELETE [type]?...``."""
        query = request.url.query if resource_id is None else None
        return await self._change(request, Change("delete", resource_type, resource_id), query, sends=False)

    async def _change(self, request: Request, change: Change, query: str | None, sends: bool) -> Response:
        access = begin(request, change.interaction, change.type, change.id)
        require_json(request)
        if request.headers.get("if-none-match") is not None and change.interaction != "create":
            raise PreconditionFailed("If-None-Match asks for a create, and ids are given by the server")
        header = request.headers.get("authorization")
        body = await json_body(request, MAX_RESOURCE_BYTES) if sends else b""

        def work() -> Written:
            criteria = None if query is None else conditions_of(change.type, query)
            letters = replace(change, criteria=criteria).letters
            token = admit(self.writes.rest.verifier, header, access, change.type, letters)
            resource = read_resource(body, change.type) if sends else None
            given = change.id
            if resource is not None and criteria is not None and change.interaction == "update":
                given = resource.get("id")
            whole = replace(
                change, id=given, criteria=criteria, resource=resource, if_match=request.headers.get("if-match")
            )
            if change.type in PUSHED:
                written = self.pushed.carry_out({0: whole}, {0: token})[0]
                return noted(access, written)
            remarked = self.remarking.put(whole, token)
            if remarked is not None:
                return noted(access, remarked)
            prepared = self.writes.prepare(whole, token)
            with self.writes.rest.store.writing() as changes:
                written = self.writes.perform(changes, self.writes.resolve(changes, prepared, token), token)
            return noted(access, written)

        written = await run_in_threadpool(work)
        return answer(self.writes.rest.base_url, change.interaction, written, preferences(request).returned)


def noted(access: Access, written: Written) -> Written:
    """The same, with what it was about in the audit entry."""
    if written.stored is not None:
        access.resource_id, access.resource_version = written.stored.id, written.stored.version
    return written


def answer(base_url: str, interaction: str, written: Written, returned: str | None) -> Response:
    """What a change is answered: by default with the resource, after a delete with nothing."""
    stored = written.stored
    headers: dict[str, str] = {}
    if stored is not None:
        headers = version_headers(stored)
        if written.status == 201:
            headers["Location"] = f"{base_url}/{stored.type}/{stored.id}/_history/{stored.version}"
    if returned == "operationoutcome":
        done = _DONE[interaction] if stored is not None and written.status != 204 else "nothing is left of it"
        told = outcome(issue("information", "informational", done))
        status = 200 if written.status == 204 else written.status
        return Response(orjson.dumps(told), status, headers, FHIR_JSON)
    if written.status == 204 or stored is None:
        return Response(status_code=204, headers=headers)
    if returned == "minimal":
        return Response(status_code=written.status, headers=headers)
    return Response(stored.body, written.status, headers, FHIR_JSON)


def read_resource(body: bytes, resource_type: str) -> dict[str, Any]:
    """The JSON object of a body, decimals as written; raises InputError naming the rule that it breaks as text."""
    resource, broken = judge(body, None)
    if broken is not None and broken.rule in ("not-json", "depth", "duplicate-key"):
        raise InputError(broken.message, location=Location(rule=broken.rule))
    if not isinstance(resource, dict) or resource.get("resourceType") != resource_type:
        raise InputError(f"the body is no {resource_type}", location=Location(path="resourceType", rule="type"))
    whole: dict[str, Any] = exact.loads(body)
    return whole


def conditions_of(resource_type: str, query: str, place: str = "") -> tuple[Criterion, ...]:
    """Criteria of a conditional interaction, all of which must be known; raises InputError."""
    where = Location(path=place or None, rule="criteria")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise InputError("the criteria cannot be read", location=where) from None
    asked = parse_query(resource_type, pairs, strict=True)
    if not asked.criteria or asked.includes or asked.sort or asked.summary or asked.elements:
        raise InputError("a conditional interaction needs search criteria, and nothing else", location=where)
    return asked.criteria
