"""The interactions search-type and search-system, with what they include (R4 http.html 3.1.0.13, search.html)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.resources import StoredResource
from fhir_gateway.db.search.clinical import CLINICAL
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.errors import InputError, Location
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.catalog import Found
from fhir_gateway.server.interactions import Interactions, begin
from fhir_gateway.server.negotiation import form_parameters, preferences, require_json
from fhir_gateway.server.problems import FHIR_JSON, InsufficientScope, MissingToken, TooCostly
from fhir_gateway.server.search import (
    Include,
    Query,
    bundle,
    next_link,
    opened,
    parse_query,
    parse_system_query,
    self_link,
)

#: Resources that one page may bring along; a page of matches has at most 1,000.
MAX_INCLUDED = 5000
#: How often ``:iterate`` looks at what the last look brought.
_ROUNDS = 4
_IDS = 500
Identity = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Searching:
    """Handlers for all served types, and for several at once."""

    rest: Interactions

    async def search(self, request: Request, resource_type: str) -> Response:
        """``GET [type]?...`` and ``POST [type]/_search``: a searchset Bundle."""
        access = begin(request, "search-type", resource_type, None)
        pairs = await self._asked(request)
        header, strict, is_form = _shape(request)

        def work() -> bytes:
            token = admit(self.rest.verifier, header, access, resource_type, "s", some=True)
            query = opened(self.rest.links, resource_type, pairs) or parse_query(resource_type, pairs, strict)
            found = self.rest.catalog(resource_type, token, "s").search(query)
            return self._page(query, found, token, is_form)

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    async def search_system(self, request: Request) -> Response:
        """``GET [base]?_type=...`` and ``POST [base]/_search``: types one after the other, those the token is about."""
        access = begin(request, "search-system", None, None)
        pairs = await self._asked(request)
        header, strict, is_form = _shape(request)

        def work() -> bytes:
            if not header:
                raise MissingToken("a bearer token is needed")
            token = self.rest.verifier.verify(header)
            access.client_id, access.purpose = token.client_id, token.purpose
            query = opened(self.rest.links, "", pairs) or parse_system_query(pairs, strict)
            allowed = self.rest.allowed(token, "s")
            short = [one for one in query.types if one not in allowed]
            if short or not allowed:
                raise InsufficientScope("the token needs " + " ".join(f"system/{one}.s" for one in short or ["*"]))
            # clinical resources are searched for somebody: only where the search names their types
            found = self._several(query, query.types or tuple(one for one in allowed if one not in CLINICAL), token)
            return self._page(query, found, token, is_form)

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    async def _asked(self, request: Request) -> list[tuple[str, str]]:
        require_json(request)
        if request.method != "POST":
            return list(request.query_params.multi_items())
        pairs = await form_parameters(request)
        access_of(request).named([name for name, _ in pairs])
        return pairs

    def _several(self, query: Query, types: Sequence[str], token: AccessToken) -> Found:
        """One page over several types; a place is the type and the place in it."""
        at, _, after = (query.after or "").partition(":")
        if query.after is not None and at not in types:
            raise InputError("this page cannot be continued", location=Location(path="_page", rule="value"))
        found: list[StoredResource] = []
        total = query.total
        following: str | None = None
        for kind in types:
            catalog = self.rest.catalog(kind, token, "s")
            left = query.count - len(found)
            if query.after is not None and kind < at:
                continue
            if following is not None or left <= 0:
                if query.count_total:
                    total = (total or 0) + (catalog.search(replace(query, resource_type=kind, count=0)).total or 0)
                if following is None and query.count:
                    rest = catalog.search(replace(query, resource_type=kind, count=1, after=None, count_total=False))
                    following = f"{kind}:" if rest.resources else None
                continue
            place = after if kind == at and after else None
            page = catalog.search(replace(query, resource_type=kind, count=left, after=place))
            found += page.resources
            if query.count_total:
                total = (total or 0) + (page.total or 0)
            following = None if page.after is None else f"{kind}:{page.after}"
        return Found(tuple(found), total, following)

    def _page(self, query: Query, found: Found, token: AccessToken, is_form: bool) -> bytes:
        links = [("self", self_link(self.rest.base_url, query, is_form))]
        if found.after is not None:
            links.append(("next", next_link(self.rest.links, query, found.after, found.total)))
        included = self._included(query.includes, found.resources, token)
        return bundle(self.rest.base_url, query, found.resources, included, found.total, links)

    def _included(
        self, includes: Sequence[Include], matches: Sequence[StoredResource], token: AccessToken
    ) -> list[StoredResource]:
        """What is to be sent along: nothing twice, and only what the token's client sees and its scopes cover."""
        known = {(one.type, one.id) for one in matches}
        included: list[StoredResource] = []
        frontier: Sequence[StoredResource] = matches
        wanted = list(includes)
        for _ in range(_ROUNDS):
            if not wanted or not frontier:
                break
            brought: dict[Identity, StoredResource] = {}
            for include in wanted:
                look = self._reverse if include.reverse else self._forward
                for one in look(include, frontier, token, known | brought.keys()):
                    brought[one.type, one.id] = one
                if len(included) + len(brought) > MAX_INCLUDED:
                    raise TooCostly(f"a page brings more than {MAX_INCLUDED} resources along: ask for a smaller _count")
            known |= brought.keys()
            frontier = list(brought.values())
            included += frontier
            wanted = [one for one in includes if one.iterate]
        return sorted(included, key=lambda one: (one.type, one.id))

    def _forward(
        self, include: Include, frontier: Iterable[StoredResource], token: AccessToken, known: set[Identity]
    ) -> list[StoredResource]:
        """What the resources of the source type refer to."""
        parameter = search_parameters(include.source)[include.parameter]
        wanted: dict[tuple[str, str | None], None] = {}
        for one in frontier:
            if one.type == include.source:
                for system, value, *_ in parameter.entries(one.json(), self.rest.base_url):
                    if value and (parameter.kind == "canonical" or system):
                        wanted[value, system] = None
        if parameter.kind == "canonical":
            return self._by_canonical(include, wanted, token, known)
        pairs = [(system, value) for value, system in wanted if system is not None]
        allowed = [
            pair
            for pair in pairs
            if pair not in known
            and include.target in ("", pair[0])
            and pair[0] in self.rest.catalogs
            and token.allows(pair[0], "r", some=True)
        ]
        found = self.rest.seen(token, "r").read_many(pair for pair in allowed if pair[0] not in CLINICAL)
        for kind in sorted({kind for kind, _ in allowed} & CLINICAL):
            ids = ",".join(identity for name, identity in allowed if name == kind)
            query = Query(kind, (("_id", ids),), count=MAX_INCLUDED, count_total=False)
            found += self.rest.catalog(kind, token, "r").search(query).resources
        return found

    def _by_canonical(
        self, include: Include, wanted: Iterable[tuple[str, str | None]], token: AccessToken, known: set[Identity]
    ) -> list[StoredResource]:
        """What canonicals name: every version that is here when they name none."""
        versions: dict[str, set[str | None]] = {}
        for url, version in wanted:
            versions.setdefault(url, set()).add(version)
        targets = search_parameters(include.source)[include.parameter].targets(include.source)
        found = []
        for kind in sorted(targets & self.rest.catalogs.keys()):
            if include.target not in ("", kind) or "url" not in search_parameters(kind):
                continue
            if not token.allows(kind, "r", some=True):
                continue
            for one in self._referring(Include(False, False, kind, "url", ""), sorted(versions), token, "r"):
                named = one.json()
                if versions[named["url"]] & {None, named.get("version")} and (one.type, one.id) not in known:
                    found.append(one)
        return found

    def _reverse(
        self, include: Include, frontier: Iterable[StoredResource], token: AccessToken, known: set[Identity]
    ) -> list[StoredResource]:
        """What refers to the resources of the target types."""
        if not token.allows(include.source, "s", some=True):
            return []
        parameter = search_parameters(include.source)[include.parameter]
        targets = parameter.targets(include.source)
        if parameter.kind == "canonical":
            urls = {str(one.json().get("url")): one for one in frontier if not targets or one.type in targets}
            found = self._referring(include, sorted(urls), token, "s")
            return [
                one
                for one in found
                if (one.type, one.id) not in known
                and any(
                    value in urls and version in (None, urls[value].json().get("version"))
                    for version, value, *_ in parameter.entries(one.json(), self.rest.base_url)
                    if value is not None
                )
            ]
        names = [
            f"{one.type}/{one.id}"
            for one in frontier
            if (not targets or one.type in targets) and include.target in ("", one.type)
        ]
        return [one for one in self._referring(include, names, token, "s") if (one.type, one.id) not in known]

    def _referring(
        self, include: Include, values: Sequence[str], token: AccessToken, letter: str
    ) -> list[StoredResource]:
        """Resources whose parameter has one of the values; at most one more than may be included."""
        catalog = self.rest.catalog(include.source, token, letter)
        found: list[StoredResource] = []
        for start in range(0, len(values), _IDS):
            text = ",".join(_escaped(one) for one in values[start : start + _IDS])
            count = MAX_INCLUDED + 1 - len(found)
            if count <= 0:
                break
            query = Query(include.source, ((include.parameter, text),), count=count, count_total=False)
            found += catalog.search(query).resources
        return found


def _shape(request: Request) -> tuple[str | None, bool, bool]:
    return request.headers.get("authorization"), preferences(request).strict, request.method == "POST"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,").replace("|", "\\|").replace("$", "\\$")
