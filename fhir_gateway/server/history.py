"""The history interactions: of a resource, of a type, of everything (R4 http.html 3.1.0.14).

Entries come newest first. Individual MeasureReports that are rendered on demand are no part of the history of the type
or the system, where nothing is created when they appear; one of them has the history of its only version. What is
served out of the lake has its history there; that of the system is of both, by time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.resources import StoredResource, Versions
from fhir_gateway.db.search.clinical import CLINICAL, ONE_VERSION
from fhir_gateway.db.search.dates import parse_range
from fhir_gateway.errors import InputError, Location
from fhir_gateway.server.access import admit
from fhir_gateway.server.clinical import ClinicalCatalog
from fhir_gateway.server.clinical_history import Position, Step, merged
from fhir_gateway.server.interactions import Interactions, begin
from fhir_gateway.server.links import PAGE
from fhir_gateway.server.negotiation import preferences, require_json
from fhir_gateway.server.problems import FHIR_JSON, InsufficientScope, MissingToken
from fhir_gateway.server.registry import SERVED
from fhir_gateway.server.search import count_of

_PARAMETERS = frozenset({"_at", "_count", "_format", "_pretty", "_since", PAGE})
#: Of the system's history; R4 has it for searches of the system.
_TYPE = "_type"


@dataclass(frozen=True, slots=True)
class _Asked:
    """What of a history is wanted; times in microseconds."""

    count: int
    since: int | None = None
    at: tuple[int, int] | None = None
    after: str | None = None
    types: tuple[str, ...] | None = None


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
            if isinstance(catalog, ClinicalCatalog):
                page = self._merged(token, [resource_type], asked)
            else:
                about = (asked.since, asked.at, asked.count, asked.after)
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
            types = [one for one in self.rest.allowed(token, "s") if one not in ONE_VERSION]
            if asked.types is not None and not set(asked.types) <= set(types):
                named = min(set(asked.types) - set(types))
                raise InsufficientScope(f"the token needs system/{named}.s")
            if not types:
                raise InsufficientScope("the token needs system/*.s, or another type to search")
            return self._bundle("_history", asked, self._merged(token, asked.types or types, asked))

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    def _merged(self, token: AccessToken, types: Sequence[str], asked: _Asked) -> Versions:
        """One page of what the token's client sees of some types, of the store and of the lake."""
        start = Position.of(asked.after)
        stored = [one for one in types if one not in CLINICAL]
        clinical = [one for one in types if one in CLINICAL]
        found: Sequence[StoredResource] = ()
        if stored:
            seen = self.rest.seen(token, "s")
            found = seen.versions(stored, None, asked.since, asked.at, asked.count + 1, start.store).resources
        lake: Iterator[Step] = iter(())
        if clinical:
            catalog = self.rest.catalog(clinical[0], token, "s")
            if not isinstance(catalog, ClinicalCatalog):
                raise RuntimeError("clinical types are served out of the lake")
            lake = catalog.changes(clinical, asked.since, asked.at, asked.count + 1, start.lake)
        return merged(lake, found, asked.count)

    def _asked(self, request: Request, path: str) -> _Asked:
        require_json(request)
        pairs = request.query_params.multi_items()
        state = self.rest.links.open(path, pairs)
        if state is not None:
            count, since, at, after, types = state
            within = None if at is None else (at[0], at[1])
            return _Asked(count, since, within, after, None if types is None else tuple(types))
        of_system = path == "_history"
        unknown = {name for name, _ in pairs} - _PARAMETERS - ({_TYPE} if of_system else set())
        if unknown and preferences(request).strict:
            raise InputError(
                "unknown parameter of history", location=Location(path=min(unknown), rule="handling=strict")
            )
        given = dict(pairs)
        since = _range("_since", given["_since"])[0] if given.get("_since") else None
        at = _range("_at", given["_at"]) if given.get("_at") else None
        types = _types(given[_TYPE]) if of_system and given.get(_TYPE) else None
        return _Asked(max(count_of(given.get("_count")), 1), since, at, types=types)

    def _bundle(self, path: str, asked: _Asked, page: Versions) -> bytes:
        """A history Bundle; stored resources go into it byte by byte."""
        links = [{"relation": "self", "url": f"{self.rest.base_url}/{path}"}]
        if page.next is not None:
            state = [asked.count, asked.since, asked.at, page.next, asked.types]
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


def _types(text: str) -> tuple[str, ...]:
    """The types of ``_type``; raises InputError for what has no history."""
    named = tuple(sorted(set(text.split(","))))
    if not set(named) <= SERVED.keys() - ONE_VERSION:
        raise InputError("not types that are served here with a history", location=Location(path=_TYPE, rule="value"))
    return named


def _range(name: str, text: str) -> tuple[int, int]:
    try:
        return parse_range(text.replace(" ", "+"))  # an unescaped + of a zone arrives as a blank
    except (ValueError, OverflowError):
        raise InputError("not a FHIR instant or date", location=Location(path=name, rule="value")) from None
