"""The FHIR resources that the gateway serves, as stored JSON with versions and a search index.

A resource is kept as the exact bytes that are sent to clients, ``meta.versionId`` and ``meta.lastUpdated`` included.
Putting a body that differs from the stored one only in those two makes no new version, so that a run repeated on the
same inputs leaves the store as it was. Earlier versions stay readable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fhir_gateway.db.audience import EVERYONE, Audience
from fhir_gateway.db.by_id import ById
from fhir_gateway.db.engine import snapshot, table_of, transaction
from fhir_gateway.db.freezing import Frozen, freeze
from fhir_gateway.db.history import Versions, only_version, versions
from fhir_gateway.db.pages import Page, page_of
from fhir_gateway.db.resource_tables import ResourceRow, ResourceVersionRow, SearchIndexRow, SearchIndexState
from fhir_gateway.db.search.criteria import Criterion, sort_value
from fhir_gateway.db.search.dates import instant, microseconds
from fhir_gateway.db.search.kept import KeptSearch, shape_of
from fhir_gateway.db.search.paging import beyond, decode
from fhir_gateway.db.search.parameters import definitions_digest
from fhir_gateway.db.view import View
from fhir_gateway.db.writing import PutOutcome, StoredResource, Writing, slices, stored
from fhir_gateway.errors import AuthorizationError, DeletedError, NotFoundError

__all__ = ["Page", "PutOutcome", "ResourceStore", "StoredResource", "Versions", "only_version"]

_LOCK = "fhir_resource"
_MOST_LOOKUPS = 1000
Kept = TypeVar("Kept", ById, KeptSearch)


class ResourceStore:
    """Stored resources by (type, id), with versions and FHIR search.

    ``base_url`` makes absolute references to this gateway equal to relative ones. Safe to share between threads.
    """

    def __init__(
        self,
        engine: Engine,
        base_url: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        audience: Audience = EVERYONE,
        searchable: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._engine = engine
        self.audience = audience
        self._base_url = base_url.rstrip("/") if base_url else None
        self._clock = clock
        self._resource = table_of(ResourceRow)
        self._version = table_of(ResourceVersionRow)
        self._index = table_of(SearchIndexRow)
        self.searchable = searchable
        self._view = View(audience, searchable, self._base_url, clock)
        self._lookups: dict[tuple[Any, ...], Any] = {}  # statements that are kept, shared by all views

    def seen_by(self, audience: Audience, searchable: Callable[[str], bool] | None = None) -> ResourceStore:
        """The same resources as ``audience`` may read them: what it may not see does not exist, nor does writing.

        ``searchable`` says into which types a search may follow a chain.
        """
        if audience.unlimited and searchable is None:
            return self
        view = ResourceStore(self._engine, self._base_url, self._clock, audience, searchable or self.searchable)
        view._lookups = self._lookups
        return view

    def following(self, view: ResourceStore) -> ResourceStore:
        """What is visible here, searched by chains that lead only to what is visible in ``view``."""
        found = copy(self)
        found._view = copy(self._view)
        found._view.reach = view._view.reach  # what is visible stays ours
        return found

    def members(self) -> list[str] | None:
        """Ids of the persons that the audience sees (on its lists, and as its grants say); None when not limited."""
        if self.audience.restriction("Patient"):
            return self.ids("Patient")
        if self.audience.everybody:
            return None
        with snapshot(self._engine) as connection:
            return list(connection.scalars(self.audience.members(self._index)))

    def members_chosen(self) -> sa.Select[Any] | None:
        """The statement of those ids, for conditions on tables beside; None when not limited."""
        return None if self.audience.everybody else self.audience.members(self._index)

    def put(self, resource: Mapping[str, Any]) -> StoredResource:
        """Create or update one resource under its own id and return it as stored."""
        self.put_many([resource])
        return self.read(resource["resourceType"], resource["id"])

    def put_many(self, resources: Iterable[Mapping[str, Any]]) -> PutOutcome:
        """Create or update resources in one transaction, all or none; of equal ids the last one wins.

        Raises ResourceError for a resource without a type of R4, without a valid id, or whose indexed elements are
        malformed. Full validation is the caller's (``r4.models``, ``lake``).
        """
        if not self.audience.unlimited:
            raise AuthorizationError("resources are not written through what a limited audience sees")
        with self.writing() as changes:
            return changes.put_many(resources)

    def delete(self, resource_type: str, resource_id: str) -> None:
        """Delete a resource; its versions stay. Raises NotFoundError when there is none."""
        if not self.audience.unlimited:
            raise AuthorizationError("resources are not deleted through what a limited audience sees")
        with self.writing() as changes:
            if changes.delete(resource_type, resource_id) is None:
                raise _not_found(resource_type)

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """Changes that belong together: all are kept, or none when something fails inside. One writer at a time.

        The caller asks who may change what, by :meth:`matches_in` and :meth:`shows` of a view.
        """
        with transaction(self._engine, lock=_LOCK) as connection:
            # asked when it is our turn: who froze a moment before has an earlier one
            now = microseconds(self._clock()) // 1000 * 1000
            yield Writing(self._engine, connection, self._base_url, now)

    def index_anew(self) -> int:
        """Write the search index anew when the search parameters are not those it was written by.

        Returns how many resources were indexed. Without it an older store would be searched incompletely, in silence.
        """
        state, digest = table_of(SearchIndexState), definitions_digest()
        with self.writing() as changes:
            known = changes.connection.scalar(sa.select(state.c.digest).where(state.c.name == "parameters"))
            if known == digest:
                return 0
            number = changes.reindex()
            changes.connection.execute(sa.delete(state).where(state.c.name == "parameters"))
            changes.connection.execute(sa.insert(state).values(name="parameters", digest=digest))
            return number

    @contextmanager
    def frozen(self) -> Iterator[Frozen]:
        """One state of everything, for statements of :meth:`selecting` of any view; nothing else may be open."""
        with freeze(self._engine, self._clock, _LOCK) as found:
            yield found

    def selecting(
        self, resource_type: str, alternatives: Sequence[Sequence[Criterion]] = (), *, deleted: bool = False
    ) -> sa.Select[Any]:
        """Statement of the visible resources of a type that meet the criteria of any alternative, if there are some.

        With ``deleted`` those that are gone, as far as is known that they were visible. Raises InputError.
        """
        where: list[sa.ColumnElement[bool]] = [self._resource.c.deleted.is_(deleted)]
        if alternatives:
            now = self._clock()
            met = [self._view.reach.conditions(resource_type, one, self._resource, now) for one in alternatives]
            where.append(sa.or_(*(sa.and_(sa.true(), *one) for one in met)))
        return self._view.select(resource_type).where(*where)

    def shows(self, changes: Writing, resource_type: str, resource_id: str) -> bool:
        """True when a live resource of this id is visible here, in the middle of these changes."""
        chosen = self._view.live(resource_type).where(self._resource.c.id == resource_id)
        return changes.connection.execute(chosen).first() is not None

    def matches_in(self, changes: Writing, resource_type: str, criteria: Sequence[Criterion]) -> list[StoredResource]:
        """At most two visible resources that meet the criteria, in the middle of these changes."""
        where = self._view.reach.conditions(resource_type, criteria, self._resource, self._clock())
        chosen = self._view.live(resource_type).where(*where).order_by(self._resource.c.key).limit(2)
        return [stored(row) for row in changes.connection.execute(chosen)]

    def read(self, resource_type: str, resource_id: str) -> StoredResource:
        """Return the current version; raises NotFoundError, and DeletedError for a deleted resource."""
        found = self._found(resource_type, resource_id)
        if found is None:
            raise _not_found(resource_type)
        if found.deleted:
            raise DeletedError(f"this {resource_type} was deleted")
        return found

    def _found(self, resource_type: str, resource_id: str) -> StoredResource | None:
        """The current version, which may be a deletion; None when there is none that is seen."""
        return next(iter(self.current(resource_type, [resource_id])), None)

    def current(self, resource_type: str, ids: Sequence[str]) -> list[StoredResource]:
        """The current versions, deletions among them, of those ids that are seen, in no given order.

        At most :data:`~fhir_gateway.db.by_id.MOST_AT_ONCE` ids, in one statement that is kept for the next time.
        """
        if self.audience.grants:  # what they say may depend on the time
            with snapshot(self._engine) as connection:
                chosen = self._view.select(resource_type).where(self._resource.c.id.in_(ids))
                return [stored(row) for row in connection.execute(chosen)]
        return [
            StoredResource(resource_type, one, version, instant(updated), bool(deleted), bytes(body))
            for one, version, updated, deleted, body in self._by_id(resource_type).rows(ids)
        ]

    def _by_id(self, resource_type: str) -> ById:
        """The statement for some ids of a type, as far as this audience sees."""
        key = (resource_type, *self._view.statement_key)
        found: ById | None = self._lookups.get(key)
        if found is None:
            row = self._resource.c
            chosen = sa.select(row.id, row.version, row.last_updated, row.deleted, row.body)
            chosen = chosen.where(row.type == resource_type, *self._view.visible(resource_type))
            found = self._keep(key, ById(self._engine, chosen, row.id))
        return found

    def _keep(self, key: tuple[Any, ...], made: Kept) -> Kept:
        if len(self._lookups) >= _MOST_LOOKUPS:
            self._lookups.clear()
        self._lookups[key] = made
        return made

    def read_many(self, references: Iterable[tuple[str, str]]) -> list[StoredResource]:
        """Return the resources of (type, id) pairs that exist, in no given order."""
        by_type: dict[str, list[str]] = {}
        for resource_type, resource_id in references:
            by_type.setdefault(resource_type, []).append(resource_id)
        with snapshot(self._engine) as connection:
            return [
                stored(row)
                for resource_type, ids in by_type.items()
                for some in slices(list(dict.fromkeys(ids)))
                for row in connection.execute(self._view.live(resource_type).where(self._resource.c.id.in_(some)))
            ]

    def vread(self, resource_type: str, resource_id: str, version: int) -> StoredResource:
        """Return one version; a deletion has ``deleted`` set. Raises NotFoundError when there was no such version."""
        earlier = self._version
        with snapshot(self._engine) as connection:
            row = connection.execute(self._view.select(resource_type).where(self._resource.c.id == resource_id)).first()
            if row is not None and row.version != version:
                chosen = sa.select(earlier).where(earlier.c.type == resource_type, earlier.c.id == resource_id)
                row = connection.execute(chosen.where(earlier.c.version == version)).first()
                if row is not None and not self._view.showing(connection, [stored(row)]):
                    row = None
        if row is None:
            raise _not_found(resource_type)
        return stored(row)

    def history(self, resource_type: str, resource_id: str) -> list[StoredResource]:
        """Return all versions, newest first; raises NotFoundError when there never was such a resource."""
        found: list[StoredResource] = []
        page = self.versions([resource_type], resource_id=resource_id)
        while page.next is not None:
            found += page.resources
            page = self.versions([resource_type], resource_id=resource_id, after=page.next)
        return [*found, *page.resources]

    def versions(
        self,
        resource_types: Sequence[str],
        resource_id: str | None = None,
        since: int | None = None,
        at: tuple[int, int] | None = None,
        count: int = 100,
        after: str | None = None,
    ) -> Versions:
        """One page of the versions of a resource, or of all resources of some types, newest first.

        ``since`` (microseconds) leaves out what is older; ``at`` (a range) what was not in force at any time of it.
        Of an earlier version is seen what the audience would see if it were the present one.
        Raises NotFoundError for a single resource that never was.
        """
        with snapshot(self._engine) as connection:
            if resource_id is not None:
                known = self._view.select(resource_types[0]).where(self._resource.c.id == resource_id)
                if connection.execute(known).first() is None:
                    raise _not_found(resource_types[0])
            return versions(
                connection,
                {one: self._view.visible(one) for one in resource_types},
                lambda rows: self._view.showing(connection, rows),
                resource_id,
                since,
                at,
                count,
                after,
            )

    def permits(self, resource: Mapping[str, Any]) -> bool:
        """True when a resource meets what the grants of the audience say; for what is not read from here."""
        return self._view.permits(resource)

    def search(
        self,
        resource_type: str,
        criteria: Sequence[Criterion] = (),
        count: int = 100,
        after: str | None = None,
        sort: str | None = None,
        total: bool = True,
    ) -> Page:
        """Return one page of the resources that meet all criteria.

        ``criteria`` are (name with modifier, value) pairs as in a query string; ``sort`` is a list, by comma, of
        ``_id``, ``_lastUpdated`` and search parameters, each descending with a leading ``-``; by default resources
        come in the order of their creation. ``after`` is ``Page.next`` of the page before: pages neither repeat nor
        lose a resource that stays as it is while the client pages. ``count`` 0 gives the total only.
        Raises InputError for a parameter, modifier or value that is not supported.
        """
        if after is None and count:
            page = self._first_page(resource_type, criteria, count, sort)
            if page is not None and (page.next is None or not total):  # a total is counted of the same state
                return page if total else replace(page, total=None)
        resource = self._resource
        where, orders, statement = self._searching(resource_type, criteria, sort)
        if after is not None:
            values, key = decode(after, sort, [order for order, _ in orders])
            statement = statement.where(beyond(orders, resource.c.key, values, key))
        with snapshot(self._engine) as connection:
            rows = [tuple(row) for row in connection.execute(statement.limit(count + 1))] if count else []
            number: int | None = None
            if total and count and after is None and len(rows) <= count:  # all of them are here
                number = len(rows)
            elif total:
                number = connection.scalar(sa.select(sa.func.count()).select_from(resource).where(*where))
        return page_of(resource_type, rows, count, sort, number)

    def _searching(
        self, resource_type: str, criteria: Sequence[Criterion], sort: str | None
    ) -> tuple[list[sa.ColumnElement[bool]], list[tuple[sa.ColumnElement[Any], bool]], sa.Select[Any]]:
        """Conditions of a search, what it is sorted by (and whether descending), and its statement."""
        resource = self._resource
        where = self._view.reach.conditions(resource_type, criteria, resource, self._clock())
        where += [resource.c.type == resource_type, resource.c.deleted.is_(False), *self._view.visible(resource_type)]
        names = [name for name in (sort or "").split(",") if name] or [""]
        orders: list[tuple[sa.ColumnElement[Any], bool]] = [
            (
                sort_value(resource_type, name.lstrip("-"), resource, self._index) if name else resource.c.key,
                name.startswith("-"),
            )
            for name in names
        ]
        labels = [order.label(f"sort_{number}") for number, (order, _) in enumerate(orders)]
        ends = [order.desc() if descending else order.asc() for order, descending in orders]
        ends.append(resource.c.key.desc() if orders[0][1] else resource.c.key.asc())
        row = resource.c
        chosen = sa.select(row.id, row.version, row.last_updated, row.body, row.key, *labels)
        return where, orders, chosen.where(*where).order_by(*ends)

    def _first_page(
        self, resource_type: str, criteria: Sequence[Criterion], count: int, sort: str | None
    ) -> Page | None:
        """The first page of a plain search, by a statement that is kept; None for any other."""
        shape = None if self.audience.grants else shape_of(resource_type, criteria, self._base_url)
        if shape is None:
            return None
        key = (resource_type, shape.criteria, sort, *self._view.statement_key)
        found: KeptSearch | None = self._lookups.get(key)
        if found is None:
            found = self._keep(
                key, KeptSearch(self._engine, self._searching(resource_type, shape.criteria, sort)[2], shape)
            )
        rows = list(found.rows(shape, count + 1))
        return page_of(resource_type, rows, count, sort, len(rows) if len(rows) <= count else None)

    def ids(self, resource_type: str, criteria: Sequence[Criterion] = ()) -> list[str]:
        """Return the ids of all resources that meet the criteria, in the order of their creation."""
        resource = self._resource
        where = self._view.reach.conditions(resource_type, criteria, resource, self._clock())
        where += self._view.visible(resource_type)
        chosen = sa.select(resource.c.id).where(resource.c.type == resource_type, resource.c.deleted.is_(False), *where)
        with snapshot(self._engine) as connection:
            return list(connection.scalars(chosen.order_by(resource.c.key)))

    def stamps(self, resource_type: str) -> list[str]:
        """Id and version of each resource of a type that is seen, without reading what it says: whether any changed."""
        row = self._resource.c
        chosen = sa.select(row.id, row.version).where(row.type == resource_type, row.deleted.is_(False))
        with snapshot(self._engine) as connection:
            found = connection.execute(chosen.where(*self._view.visible(resource_type)))
            return sorted(f"{one.id}/{one.version}" for one in found)

    def counts(self) -> dict[str, int]:
        """Return the number of live resources of each type: an overview for the operator, of everything there is."""
        if not self.audience.unlimited:
            raise AuthorizationError("a limited audience is not told how much there is")
        resource = self._resource
        grouped = sa.select(resource.c.type, sa.func.count()).where(resource.c.deleted.is_(False))
        with snapshot(self._engine) as connection:
            return {
                row[0]: row[1]
                for row in connection.execute(grouped.group_by(resource.c.type).order_by(resource.c.type))
            }


def _not_found(resource_type: str) -> NotFoundError:
    return NotFoundError(f"no such {resource_type}")
