"""Where served resources come from: the resource store, or (for some MeasureReports) results rendered on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fhir_gateway.db.audience import Audience
from fhir_gateway.db.resources import ResourceStore, StoredResource, Versions
from fhir_gateway.errors import DeletedError, NotFoundError
from fhir_gateway.server.problems import UnknownResource
from fhir_gateway.server.search import Query


@dataclass(frozen=True, slots=True)
class Found:
    """One page of a search: matches, total of all pages (None when not asked for), and where to go on."""

    resources: tuple[StoredResource, ...]
    total: int | None
    after: str | None


class Catalog(Protocol):
    """Resources of one type by id, version and search. Calls may block: they run outside the event loop."""

    def read(self, resource_type: str, resource_id: str) -> StoredResource:
        """The current version; raises NotFoundError, and DeletedError for one that was here."""
        ...

    def vread(self, resource_type: str, resource_id: str, version: int) -> StoredResource:
        """One version; ``deleted`` is set for a deletion. Raises NotFoundError."""
        ...

    def history(
        self,
        resource_type: str,
        resource_id: str,
        since: int | None,
        at: tuple[int, int] | None,
        count: int,
        after: str | None,
    ) -> Versions:
        """One page of the versions of a resource, newest first; raises NotFoundError."""
        ...

    def search(self, query: Query) -> Found:
        """One page; raises InputError for values or modifiers that are not supported."""
        ...

    def seen_by(self, audience: Audience, searchable: Callable[[str], bool] | None = None) -> Catalog:
        """The same catalog without what the audience may not see; chains lead into ``searchable`` types only."""
        ...


class StoredCatalog:
    """Resources as stored."""

    def __init__(self, store: ResourceStore) -> None:
        self._store = store

    def read(self, resource_type: str, resource_id: str) -> StoredResource:
        """The current version; raises UnknownResource."""
        try:
            return self._store.read(resource_type, resource_id)
        except DeletedError:
            raise
        except NotFoundError:
            raise UnknownResource(f"there is no such {resource_type}") from None

    def vread(self, resource_type: str, resource_id: str, version: int) -> StoredResource:
        """One version; raises UnknownResource."""
        try:
            return self._store.vread(resource_type, resource_id, version)
        except NotFoundError:
            raise UnknownResource(f"there is no such version of a {resource_type}") from None

    def history(
        self,
        resource_type: str,
        resource_id: str,
        since: int | None,
        at: tuple[int, int] | None,
        count: int,
        after: str | None,
    ) -> Versions:
        """One page of the versions of a resource; raises UnknownResource."""
        try:
            return self._store.versions([resource_type], resource_id, since, at, count, after)
        except NotFoundError:
            raise UnknownResource(f"there is no such {resource_type}") from None

    def seen_by(self, audience: Audience, searchable: Callable[[str], bool] | None = None) -> StoredCatalog:
        """The resources that the audience may see."""
        return StoredCatalog(self._store.seen_by(audience, searchable))

    def search(self, query: Query) -> Found:
        """One page in the order asked for, by default that of creation."""
        page = self._store.search(
            query.resource_type, query.criteria, query.count, query.after, query.sort, query.count_total
        )
        return Found(page.resources, page.total if query.count_total else query.total, page.next)
