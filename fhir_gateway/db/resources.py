"""The FHIR resources that the gateway serves, as stored JSON with versions and a search index.

A resource is kept as the exact bytes that are sent to clients, ``meta.versionId`` and ``meta.lastUpdated`` included.
Putting a body that differs from the stored one only in those two makes no new version, so that a run repeated on the
same inputs leaves the store as it was. Earlier versions stay readable.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fhir_gateway.db.audience import EVERYONE, Audience
from fhir_gateway.db.engine import snapshot, table_of, transaction
from fhir_gateway.db.resource_tables import ResourceRow, ResourceVersionRow, SearchIndexRow
from fhir_gateway.db.search.criteria import Criterion, conditions, sort_value
from fhir_gateway.db.search.dates import instant, microseconds
from fhir_gateway.db.search.matching import matches
from fhir_gateway.db.search.paging import beyond, decode, encode
from fhir_gateway.db.search.parameters import index_entries
from fhir_gateway.errors import AuthorizationError, Location, NotFoundError, ResourceError
from fhir_gateway.r4.spec import resource_types

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_CHUNK = 5_000  # resources looked up and written at a time; keeps memory level for any number of resources
_LOCK = "fhir_resource"


@dataclass(frozen=True, slots=True)
class StoredResource:
    """One version of a resource; ``body`` is empty when that version is a deletion."""

    type: str
    id: str
    version: int
    last_updated: str  # FHIR instant
    deleted: bool
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the body parsed."""
        parsed: dict[str, Any] = orjson.loads(self.body)
        return parsed


@dataclass(frozen=True, slots=True)
class PutOutcome:
    """How many resources a put created, updated, or found as they already were."""

    created: int
    updated: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a search: matches, their number on all pages (None when not asked for), and where to go on."""

    resources: tuple[StoredResource, ...]
    total: int | None
    next: str | None


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
    ) -> None:
        self._engine = engine
        self.audience = audience
        self._base_url = base_url.rstrip("/") if base_url else None
        self._clock = clock
        self._resource = table_of(ResourceRow)
        self._version = table_of(ResourceVersionRow)
        self._index = table_of(SearchIndexRow)
        self._insert_entries = _positional_insert(engine, self._index)

    def seen_by(self, audience: Audience) -> ResourceStore:
        """The same resources as ``audience`` may read them: what it may not see does not exist, nor does writing."""
        if audience.unlimited:
            return self
        return ResourceStore(self._engine, self._base_url, self._clock, audience)

    def members(self) -> list[str] | None:
        """Ids of the persons that the audience sees (on its lists, and as its grants say); None when not limited."""
        if self.audience.restriction("Patient"):
            return self.ids("Patient")
        if self.audience.everybody:
            return None
        with snapshot(self._engine) as connection:
            return list(connection.scalars(self.audience.members(self._index)))

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
        created = updated = unchanged = 0
        now = microseconds(self._clock()) // 1000 * 1000
        with transaction(self._engine, lock=_LOCK) as connection:
            next_key = 1 + (connection.scalar(sa.select(sa.func.max(self._resource.c.key))) or 0)
            iterator = iter(resources)
            while chunk := list(islice(iterator, _CHUNK)):
                made, changed, same = self._put_chunk(connection, chunk, next_key, now)
                created, updated, unchanged, next_key = (
                    created + made,
                    updated + changed,
                    unchanged + same,
                    next_key + made,
                )
        return PutOutcome(created, updated, unchanged)

    def delete(self, resource_type: str, resource_id: str) -> None:
        """Delete a resource; its versions stay. Raises NotFoundError when there is none."""
        if not self.audience.unlimited:
            raise AuthorizationError("resources are not deleted through what a limited audience sees")
        now = microseconds(self._clock()) // 1000 * 1000
        with transaction(self._engine, lock=_LOCK) as connection:
            row = connection.execute(self._select(resource_type).where(self._resource.c.id == resource_id)).first()
            if row is None or row.deleted:
                raise _not_found(resource_type)
            self._keep(connection, [row])
            connection.execute(
                sa.update(self._resource)
                .where(self._resource.c.key == row.key)
                .values(version=row.version + 1, last_updated=now, deleted=True, digest=b"", body=b"")
            )
            connection.execute(sa.delete(self._index).where(self._index.c.key == row.key))

    def read(self, resource_type: str, resource_id: str) -> StoredResource:
        """Return the current version; raises NotFoundError, also for a deleted resource."""
        with snapshot(self._engine) as connection:
            row = connection.execute(self._select(resource_type).where(self._resource.c.id == resource_id)).first()
        if row is None or row.deleted:
            raise _not_found(resource_type)
        return _stored(row)

    def read_many(self, references: Iterable[tuple[str, str]]) -> list[StoredResource]:
        """Return the resources of (type, id) pairs that exist, in no given order."""
        by_type: dict[str, list[str]] = {}
        for resource_type, resource_id in references:
            by_type.setdefault(resource_type, []).append(resource_id)
        with snapshot(self._engine) as connection:
            return [
                _stored(row)
                for resource_type, ids in by_type.items()
                for some in _slices(list(dict.fromkeys(ids)))
                for row in connection.execute(self._live(resource_type).where(self._resource.c.id.in_(some)))
            ]

    def vread(self, resource_type: str, resource_id: str, version: int) -> StoredResource:
        """Return one version; a deletion has ``deleted`` set. Raises NotFoundError when there was no such version."""
        for stored in self.history(resource_type, resource_id):
            if stored.version == version:
                return stored
        raise _not_found(resource_type)

    def history(self, resource_type: str, resource_id: str) -> list[StoredResource]:
        """Return all versions, newest first; raises NotFoundError when there never was such a resource."""
        version = self._version
        with snapshot(self._engine) as connection:
            row = connection.execute(self._select(resource_type).where(self._resource.c.id == resource_id)).first()
            if row is None:
                raise _not_found(resource_type)
            earlier = sa.select(version).where(version.c.type == resource_type, version.c.id == resource_id)
            rows = connection.execute(earlier.order_by(version.c.version.desc())).all()
        versions = [_stored(row), *map(_stored, rows)]
        if not self.audience.restriction(resource_type):
            return versions
        return [one for one in versions if not one.deleted and self.permits(one.json())]

    def permits(self, resource: Mapping[str, Any]) -> bool:
        """True when a resource meets what the grants of the audience say; for what is not read from here."""
        now = self._clock()
        return all(
            any(matches(resource, criteria, self._base_url, now) for criteria in alternatives)
            for alternatives in self.audience.restriction(resource["resourceType"])
        )

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

        ``criteria`` are (name with modifier, value) pairs as in a query string; ``sort`` is ``_id``,
        ``_lastUpdated`` or a date or string parameter, descending with a leading ``-``; by default resources come in
        the order of their creation. ``after`` is ``Page.next`` of the page before: pages neither repeat nor lose a
        resource that stays as it is while the client pages. ``count`` 0 gives the total only.
        Raises InputError for a parameter, modifier or value that is not supported.
        """
        resource = self._resource
        where = conditions(resource_type, criteria, resource, self._index, self._base_url, self._clock())
        where += [resource.c.type == resource_type, resource.c.deleted.is_(False), *self._visible(resource_type)]
        descending = bool(sort and sort.startswith("-"))
        name = (sort or "").lstrip("-")
        order = sort_value(resource_type, name, resource, self._index) if name else resource.c.key
        statement = self._select(resource_type, order.label("sort_value")).where(*where)
        if after is not None:
            statement = statement.where(beyond(order, resource.c.key, decode(after, sort, order), descending))
        ends = (order.desc(), resource.c.key.desc()) if descending else (order, resource.c.key)
        with snapshot(self._engine) as connection:
            number = (
                connection.scalar(sa.select(sa.func.count()).select_from(resource).where(*where)) if total else None
            )
            rows = connection.execute(statement.order_by(*ends).limit(count + 1)).all() if count else []
        last = rows[count - 1] if len(rows) > count else None
        return Page(
            tuple(map(_stored, rows[:count])),
            number,
            encode(sort, last.sort_value, last.key) if last is not None else None,
        )

    def ids(self, resource_type: str, criteria: Sequence[Criterion] = ()) -> list[str]:
        """Return the ids of all resources that meet the criteria, in the order of their creation."""
        resource = self._resource
        where = conditions(resource_type, criteria, resource, self._index, self._base_url, self._clock())
        where += self._visible(resource_type)
        chosen = sa.select(resource.c.id).where(resource.c.type == resource_type, resource.c.deleted.is_(False), *where)
        with snapshot(self._engine) as connection:
            return list(connection.scalars(chosen.order_by(resource.c.key)))

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

    def _select(self, resource_type: str, *more: sa.ColumnElement[Any]) -> sa.Select[Any]:
        visible = self._visible(resource_type)
        return sa.select(self._resource, *more).where(self._resource.c.type == resource_type, *visible)

    def _visible(self, resource_type: str) -> list[sa.ColumnElement[bool]]:
        condition = self.audience.condition(resource_type, self._resource, self._index)
        found = [] if condition is None else [condition]
        for alternatives in self.audience.restriction(resource_type):
            met = [
                sa.and_(*conditions(resource_type, one, self._resource, self._index, self._base_url, self._clock()))
                for one in alternatives
            ]
            found.append(sa.or_(*met))
        return found

    def _live(self, resource_type: str) -> sa.Select[Any]:
        return self._select(resource_type).where(self._resource.c.deleted.is_(False))

    def _put_chunk(
        self, connection: Connection, chunk: list[Mapping[str, Any]], next_key: int, now: int
    ) -> tuple[int, int, int]:
        wanted = {(_checked(one), one["id"]): one for one in chunk}
        stored = self._current(connection, wanted)
        created: list[dict[str, Any]] = []
        updated: list[dict[str, Any]] = []
        replaced: list[sa.Row[Any]] = []
        entries: list[tuple[Any, ...]] = []
        for identity, resource in wanted.items():
            digest, row = _digest(resource), stored.get(identity)
            if row is not None and not row.deleted and row.digest == digest:
                continue
            version = row.version + 1 if row is not None else 1
            key = row.key if row is not None else next_key + len(created)
            values = {
                "version": version,
                "last_updated": now,
                "deleted": False,
                "digest": digest,
                "body": _stamped(resource, version, now),
            }
            if row is None:
                created.append({"key": key, "type": identity[0], "id": identity[1]} | values)
            else:
                updated.append({"of_key": key} | values)
                replaced.append(row)
            entries.extend(self._entries(key, resource))
        self._keep(connection, replaced)
        if created:
            connection.execute(sa.insert(self._resource), created)
        if updated:
            of_key: sa.BindParameter[int] = sa.bindparam("of_key")
            connection.execute(sa.delete(self._index).where(self._index.c.key == of_key), updated)
            settable: dict[str, sa.BindParameter[object]] = {
                name: sa.bindparam(name) for name in ("version", "last_updated", "deleted", "digest", "body")
            }
            connection.execute(
                sa.update(self._resource).where(self._resource.c.key == of_key).values(settable), updated
            )
        if entries:
            connection.exec_driver_sql(self._insert_entries, entries)
        return len(created), len(updated), len(chunk) - len(created) - len(updated)

    def _current(
        self, connection: Connection, wanted: Mapping[tuple[str, str], object]
    ) -> dict[tuple[str, str], sa.Row[Any]]:
        found: dict[tuple[str, str], sa.Row[Any]] = {}
        by_type: dict[str, list[str]] = {}
        for resource_type, resource_id in wanted:
            by_type.setdefault(resource_type, []).append(resource_id)
        for resource_type, ids in by_type.items():
            for some in _slices(ids):
                for row in connection.execute(self._select(resource_type).where(self._resource.c.id.in_(some))):
                    found[resource_type, row.id] = row
        return found

    def _entries(self, key: int, resource: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        try:
            for parameter, entry in index_entries(resource, self._base_url):
                yield key, parameter, *entry
        except ValueError as error:
            raise ResourceError(
                f"an indexed date is malformed ({error})", location=Location(path=resource["resourceType"])
            ) from error

    def _keep(self, connection: Connection, rows: Sequence[sa.Row[Any]]) -> None:
        names = [column.name for column in self._version.columns]
        if rows:
            connection.execute(sa.insert(self._version), [{name: getattr(row, name) for name in names} for row in rows])


def _slices(ids: list[str], size: int = 1000) -> Iterator[list[str]]:
    """Cut a list into pieces that fit one statement's parameters."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _positional_insert(engine: Engine, table: sa.Table) -> str:
    """Return an INSERT for the driver itself: a resource has ten entries, and naming each value doubles their cost."""
    quote = engine.dialect.identifier_preparer.quote
    names = [quote(column.name) for column in table.columns if not column.primary_key]
    mark = "?" if engine.dialect.paramstyle == "qmark" else "%s"
    values = ", ".join([mark] * len(names))
    return f"INSERT INTO {quote(table.name)} ({', '.join(names)}) VALUES ({values})"  # noqa: S608  # our own names


def _not_found(resource_type: str) -> NotFoundError:
    return NotFoundError(f"no such {resource_type}")


def _checked(resource: Mapping[str, Any]) -> str:
    resource_type, resource_id = resource.get("resourceType"), resource.get("id")
    if not isinstance(resource_type, str) or resource_type not in _types():
        raise ResourceError("not a resource type of R4", location=Location(path="resourceType"))
    if not isinstance(resource_id, str) or not _ID.fullmatch(resource_id):
        raise ResourceError("not a FHIR id", location=Location(path=f"{resource_type}.id"))
    return resource_type


def _types() -> frozenset[str]:
    return frozenset(resource_types())


def _digest(resource: Mapping[str, Any]) -> bytes:
    body = dict(resource)
    meta = {name: value for name, value in body.pop("meta", {}).items() if name not in ("versionId", "lastUpdated")}
    if meta:
        body["meta"] = meta
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()


def _stamped(resource: Mapping[str, Any], version: int, now: int) -> bytes:
    meta = resource.get("meta", {}) | {"versionId": str(version), "lastUpdated": instant(now)}
    head = {"resourceType": resource["resourceType"], "id": resource["id"], "meta": meta}
    return orjson.dumps(head | {name: value for name, value in resource.items() if name not in head})


def _stored(row: sa.Row[Any]) -> StoredResource:
    return StoredResource(row.type, row.id, row.version, instant(row.last_updated), row.deleted, bytes(row.body))
