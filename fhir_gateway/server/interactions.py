"""The RESTful interactions read, vread and search-type (R4 http.html 3.1.0.2, 3.1.0.3, 3.1.0.13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.resources import ResourceStore, StoredResource
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.server.access import TokenVerifier, access_of, admit
from fhir_gateway.server.audit import Access
from fhir_gateway.server.catalog import Catalog
from fhir_gateway.server.negotiation import form_parameters, preferences, require_json
from fhir_gateway.server.problems import FHIR_JSON, UnknownResource
from fhir_gateway.server.search import PageLinks, Query, bundle, parse_query, self_link
from fhir_gateway.server.summary import Subset


class Gone(UnknownResource):
    """The version is a deletion."""

    code, status, issue_type = "deleted", 410, "deleted"


@dataclass(frozen=True, slots=True)
class Interactions:
    """Handlers for all served types; stateless, one per application."""

    base_url: str
    verifier: TokenVerifier
    store: ResourceStore
    catalogs: dict[str, Catalog]
    links: PageLinks

    async def read(self, request: Request, resource_type: str, resource_id: str) -> Response:
        """``GET [type]/[id]``: the current version, 304 when the client has it, 404 otherwise."""
        access = _begin(request, "read", resource_type, resource_id)
        require_json(request)
        subset = Subset(request.query_params.get("_summary"), request.query_params.get("_elements"))
        header = request.headers.get("authorization")

        def work() -> StoredResource:
            token = admit(self.verifier, header, access, resource_type, "r", some=True)
            return self._catalog(resource_type, token, "r").read(resource_type, resource_id)

        return _represent(request, await run_in_threadpool(work), subset)

    async def vread(self, request: Request, resource_type: str, resource_id: str, version: str) -> Response:
        """``GET [type]/[id]/_history/[vid]``: that version; 410 when it is a deletion."""
        access = _begin(request, "vread", resource_type, resource_id)
        require_json(request)
        subset = Subset(request.query_params.get("_summary"), request.query_params.get("_elements"))
        header = request.headers.get("authorization")

        def work() -> StoredResource:
            token = admit(self.verifier, header, access, resource_type, "r", some=True)
            if not (version.isascii() and version.isdigit() and len(version) < 10):
                raise UnknownResource(f"there is no such version of a {resource_type}")
            return self._catalog(resource_type, token, "r").vread(resource_type, resource_id, int(version))

        stored = await run_in_threadpool(work)
        if stored.deleted:
            raise Gone("this version is a deletion")
        return _represent(request, stored, subset)

    async def search(self, request: Request, resource_type: str) -> Response:
        """``GET [type]?...`` and ``POST [type]/_search``: a searchset Bundle."""
        access = _begin(request, "search-type", resource_type, None)
        require_json(request)
        is_form = request.method == "POST"
        header = request.headers.get("authorization")
        pairs = await form_parameters(request) if is_form else list(request.query_params.multi_items())
        access.named([name for name, _ in pairs])
        strict = preferences(request).strict

        def work() -> bytes:
            token = admit(self.verifier, header, access, resource_type, "s", some=True)
            query = self.links.open(resource_type, pairs) or parse_query(resource_type, pairs, strict)
            return self._page(query, token, is_form)

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    def _catalog(self, resource_type: str, token: AccessToken, letter: str) -> Catalog:
        return self.catalogs[resource_type].seen_by(token.audience.to(letter))

    def _page(self, query: Query, token: AccessToken, is_form: bool) -> bytes:
        found = self._catalog(query.resource_type, token, "s").search(query)
        links = [("self", self_link(self.base_url, query, is_form))]
        if found.after is not None:
            links.append(("next", self.links.seal(query, found.after, found.total)))
        return bundle(
            self.base_url, query, found.resources, self._included(query, found.resources, token), found.total, links
        )

    def _included(self, query: Query, found: Sequence[StoredResource], token: AccessToken) -> list[StoredResource]:
        """Resources that the matches refer to by an ``_include``; types the token may not read are left out."""
        wanted: dict[tuple[str, str], None] = {}
        for include in query.includes:
            name, _, target = include.partition(":")
            parameter = search_parameters(query.resource_type)[name]
            for one in found:
                for system, value, *_ in parameter.entries(one.json(), self.base_url):
                    if system and value and target in ("", system):
                        wanted[system, value] = None
        for one in found:
            wanted.pop((one.type, one.id), None)
        allowed = [pair for pair in wanted if pair[0] in self.catalogs and token.allows(pair[0], "r", some=True)]
        seen = self.store.seen_by(token.audience.to("r"))
        return sorted(seen.read_many(allowed), key=lambda one: (one.type, one.id))


def _begin(request: Request, interaction: str, resource_type: str, resource_id: str | None) -> Access:
    access = access_of(request)
    access.interaction, access.resource_type, access.resource_id = interaction, resource_type, resource_id
    access.named(list(request.query_params.keys()))
    return access


def _represent(request: Request, stored: StoredResource, subset: Subset) -> Response:
    """The resource with its version as weak ETag; 304 when the client's copy is the same version."""
    etag = f'W/"{stored.version}"'
    modified = datetime.fromisoformat(stored.last_updated).astimezone(UTC)
    headers = {"ETag": etag, "Last-Modified": format_datetime(modified, usegmt=True)}
    if _unchanged(request, etag, modified):
        return Response(status_code=304, headers=headers)
    return Response(subset.apply(stored.body), headers=headers, media_type=FHIR_JSON)


def _unchanged(request: Request, etag: str, modified: datetime) -> bool:
    """RFC 9110 13.1: If-None-Match decides when it is there, else If-Modified-Since (whole seconds)."""
    tags = request.headers.get("if-none-match")
    if tags is not None:
        return any(tag.strip() in ("*", etag, etag.removeprefix("W/")) for tag in tags.split(","))
    since = request.headers.get("if-modified-since")
    if since is None:
        return False
    try:
        limit = parsedate_to_datetime(since)
    except ValueError:
        return False
    return modified.replace(microsecond=0) <= (limit if limit.tzinfo else limit.replace(tzinfo=UTC))
