"""The history interactions: of a resource, of a type, of everything (R4 http.html 3.1.0.14).

Entries come newest first. Individual MeasureReports that are rendered on demand are no part of the history of the type
or the system, where nothing is created when they appear; one of them has the history of its only version. Clinical
types have a history out of the lake; the history of the system is that of what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.db.resources import StoredResource, Versions
from fhir_gateway.db.search.clinical import ELSEWHERE
from fhir_gateway.db.search.dates import parse_range
from fhir_gateway.errors import InputError, Location
from fhir_gateway.server.access import admit
from fhir_gateway.server.clinical import ClinicalCatalog
from fhir_gateway.server.interactions import Interactions, begin
from fhir_gateway.server.links import PAGE
from fhir_gateway.server.negotiation import preferences, require_json
from fhir_gateway.server.problems import FHIR_JSON, InsufficientScope, MissingToken
from fhir_gateway.server.search import count_of

_PARAMETERS = frozenset({"_at", "_count", "_format", "_pretty", "_since", PAGE})


@dataclass(frozen=True, slots=True)
class _Asked:
    """What of a history is wanted; times in microseconds."""

    count: int
    since: int | None = None
    at: tuple[int, int] | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True)
class History:
    """Handlers for all served types, and for all of them together."""

    rest: Interactions

    async def of_instance(self, request: Request, resource_type: str, resource_id: str) -> Response:
        """``GET [type]/[id]/_history``."""
        access = begin(request, "history-instance", resource_type, resource_id)
        path = f"{resource_type}/{resource_id}/_history"
        asked = self._asked(request, path)
        header = request.headers.get("authorization")

        def work() -> bytes:
            token = admit(self.rest.verifier, header, access, resource_type, "r", some=True)
            catalog = self.rest.catalog(resource_type, token, "r")
            page = catalog.history(resource_type, resource_id, asked.since, asked.at, asked.count, asked.after)
            return self._bundle(path, asked, page)

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    async def of_type(self, request: Request, resource_type: str) -> Response:
        """``GET [type]/_history``."""
        access = begin(request, "history-type", resource_type, None)
        path = f"{resource_type}/_history"
        asked = self._asked(request, path)
        header = request.headers.get("authorization")

        def work() -> bytes:
            token = admit(self.rest.verifier, header, access, resource_type, "s", some=True)
            catalog = self.rest.catalog(resource_type, token, "s")
            about = (asked.since, asked.at, asked.count, asked.after)
            if isinstance(catalog, ClinicalCatalog):
                page = catalog.history_of_type(resource_type, *about)
            else:
                page = self.rest.seen(token, "s").versions([resource_type], None, *about)
            return self._bundle(path, asked, page)

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    async def of_system(self, request: Request) -> Response:
        """``GET [base]/_history``: of the types that the token is about."""
        access = begin(request, "history-system", None, None)
        asked = self._asked(request, "_history")
        header = request.headers.get("authorization")

        def work() -> bytes:
            if not header:
                raise MissingToken("a bearer token is needed")
            token = self.rest.verifier.verify(header)
            access.client_id, access.purpose = token.client_id, token.purpose
            types = [one for one in self.rest.allowed(token, "s") if one not in ELSEWHERE]
            if not types:
                raise InsufficientScope("the token needs system/*.s, or another type to search")
            page = self.rest.seen(token, "s").versions(types, None, asked.since, asked.at, asked.count, asked.after)
            return self._bundle("_history", asked, page)

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    def _asked(self, request: Request, path: str) -> _Asked:
        require_json(request)
        pairs = request.query_params.multi_items()
        state = self.rest.links.open(path, pairs)
        if state is not None:
            count, since, at, after = state
            return _Asked(count, since, None if at is None else (at[0], at[1]), after)
        unknown = {name for name, _ in pairs} - _PARAMETERS
        if unknown and preferences(request).strict:
            raise InputError(
                "unknown parameter of history", location=Location(path=min(unknown), rule="handling=strict")
            )
        given = dict(pairs)
        since = _range("_since", given["_since"])[0] if given.get("_since") else None
        at = _range("_at", given["_at"]) if given.get("_at") else None
        return _Asked(max(count_of(given.get("_count")), 1), since, at)

    def _bundle(self, path: str, asked: _Asked, page: Versions) -> bytes:
        """A history Bundle; stored resources go into it byte by byte."""
        links = [{"relation": "self", "url": f"{self.rest.base_url}/{path}"}]
        if page.next is not None:
            state = [asked.count, asked.since, asked.at, page.next]
            links.append({"relation": "next", "url": self.rest.links.seal(path, state)})
        head: dict[str, Any] = {"resourceType": "Bundle", "type": "history", "link": links}
        entries = [self._entry(one) for one in page.resources]
        text = orjson.dumps(head)[:-1]
        if entries:
            text += b',"entry":[' + b",".join(entries) + b"]"
        return text + b"}"

    def _entry(self, version: StoredResource) -> bytes:
        name = f"{version.type}/{version.id}"
        if version.deleted:
            method, url, status = "DELETE", name, "204 No Content"
        elif version.version == 1:
            method, url, status = "POST", version.type, "201 Created"
        else:
            method, url, status = "PUT", name, "200 OK"
        rest = {
            "request": {"method": method, "url": url},
            "response": {"status": status, "etag": f'W/"{version.version}"', "lastModified": version.last_updated},
        }
        text = b'{"fullUrl":' + orjson.dumps(f"{self.rest.base_url}/{name}")
        if not version.deleted:
            text += b',"resource":' + version.body
        return text + b"," + orjson.dumps(rest)[1:]


def _range(name: str, text: str) -> tuple[int, int]:
    try:
        return parse_range(text.replace(" ", "+"))  # an unescaped + of a zone arrives as a blank
    except (ValueError, OverflowError):
        raise InputError("not a FHIR instant or date", location=Location(path=name, rule="value")) from None
