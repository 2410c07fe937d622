"""What all RESTful interactions share: who asks, what of the resources they see, and how one resource is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache

from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.resources import ResourceStore, StoredResource
from fhir_gateway.server.access import TokenVerifier, access_of
from fhir_gateway.server.audit import Access
from fhir_gateway.server.catalog import Catalog
from fhir_gateway.server.links import PageLinks
from fhir_gateway.server.problems import FHIR_JSON
from fhir_gateway.server.summary import Subset


@dataclass(frozen=True, slots=True)
class Interactions:
    """What the handlers of all served types work with; one per application."""

    base_url: str
    verifier: TokenVerifier
    store: ResourceStore
    catalogs: dict[str, Catalog]
    links: PageLinks

    def catalog(self, resource_type: str, token: AccessToken, letter: str) -> Catalog:
        """The resources of a type that the token's client may read (``r``) or search (``s``)."""
        return self.catalogs[resource_type].seen_by(token.audience.to(letter), searchable(token, letter))

    def seen(self, token: AccessToken, letter: str) -> ResourceStore:
        """The stored resources that the token's client may read or search."""
        return self.store.seen_by(token.audience.to(letter), searchable(token, letter))

    def allowed(self, token: AccessToken, letter: str) -> list[str]:
        """The served types that the token is about."""
        return [one for one in sorted(self.catalogs) if token.allows(one, letter, some=True)]


def searchable(token: AccessToken, letter: str) -> Callable[[str], bool] | None:
    """Says of a type whether the token's client may search it; None for a read, which asks nothing of others."""
    return (lambda resource_type: token.allows(resource_type, "s", some=True)) if letter == "s" else None


def begin(request: Request, interaction: str, resource_type: str | None, resource_id: str | None) -> Access:
    """Note in the audit entry what is asked."""
    access = access_of(request)
    access.interaction, access.resource_type, access.resource_id = interaction, resource_type, resource_id
    access.named(list(request.query_params.keys()))
    return access


@lru_cache(maxsize=4096)
def http_date(instant: str) -> str:
    """A FHIR instant as HTTP writes times; many resources are of the same moment."""
    return format_datetime(datetime.fromisoformat(instant).astimezone(UTC), usegmt=True)


def version_headers(stored: StoredResource) -> dict[str, str]:
    """``ETag`` (weak: the version) and ``Last-Modified``."""
    return {"ETag": f'W/"{stored.version}"', "Last-Modified": http_date(stored.last_updated)}


def represent(request: Request, stored: StoredResource, subset: Subset) -> Response:
    """The resource with its version as weak ETag; 304 when the client's copy is the same version."""
    headers = version_headers(stored)
    conditions = request.headers.get("if-none-match"), request.headers.get("if-modified-since")
    if unchanged(stored, *conditions):
        return Response(status_code=304, headers=headers)
    return Response(subset.apply(stored.body), headers=headers, media_type=FHIR_JSON)


def unchanged(stored: StoredResource, tags: str | None, since: str | None) -> bool:
    """RFC 9110 13.1: If-None-Match decides when it is there, else If-Modified-Since (whole seconds)."""
    if tags is not None:
        version = f'"{stored.version}"'
        return any(tag.strip() in ("*", f"W/{version}", version) for tag in tags.split(","))
    if since is None:
        return False
    try:
        limit = parsedate_to_datetime(since)
    except ValueError:
        return False
    modified = datetime.fromisoformat(stored.last_updated).astimezone(UTC)
    return modified.replace(microsecond=0) <= (limit if limit.tzinfo else limit.replace(tzinfo=UTC))
