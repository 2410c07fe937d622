"""How served resources are written: versions, the search index, and one transaction for many changes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fhir_gateway.db.audience import deciding
from fhir_gateway.db.engine import table_of
from fhir_gateway.db.resource_tables import (
    WATCHED,
    ResourceChangeRow,
    ResourceRow,
    ResourceVersionRow,
    SearchIndexRow,
)
from fhir_gateway.db.search.dates import instant
from fhir_gateway.db.search.parameters import index_entries
from fhir_gateway.db.search.values import LONGEST
from fhir_gateway.errors import Location, ResourceError
from fhir_gateway.r4 import exact
from fhir_gateway.r4.spec import resource_types

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_CHUNK = 5_000  # resources looked up and written at a time; keeps memory level for any number of resources


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


def stored(row: sa.Row[Any]) -> StoredResource:
    """A row of the current or of an earlier version."""
    return StoredResource(row.type, row.id, row.version, instant(row.last_updated), row.deleted, bytes(row.body))


class Writing:
    """Changes in one transaction; nothing is visible before it ends, and nothing is kept when it fails.

    ``now`` is when all of them happen, in microseconds. Who may write is the caller's to ask.
    """

    def __init__(self, engine: Engine, connection: Connection, base_url: str | None, now: int) -> None:
        self.connection = connection
        self._base_url = base_url
        self.now = now
        self._resource = table_of(ResourceRow)
        self._version = table_of(ResourceVersionRow)
        self._index = table_of(SearchIndexRow)
        self._insert_entries = _positional_insert(engine, self._index)
        self._next_key = 1 + (connection.scalar(sa.select(sa.func.max(self._resource.c.key))) or 0)

    def current(self, resource_type: str, resource_id: str) -> StoredResource | None:
        """The present version, which may be a deletion; None when there never was such a resource."""
        row = self._row(resource_type, resource_id)
        return None if row is None else stored(row)

    def put(self, resource: Mapping[str, Any]) -> StoredResource:
        """Create or update one resource and return it as stored."""
        self.put_many([resource])
        row = self._row(resource["resourceType"], resource["id"])
        if row is None:
            raise RuntimeError("a resource is gone within the transaction that wrote it")
        return stored(row)

    def put_many(self, resources: Iterable[Mapping[str, Any]]) -> PutOutcome:
        """Create or update resources; of equal ids the last one wins. Raises ResourceError."""
        created = updated = unchanged = 0
        iterator = iter(resources)
        while chunk := list(islice(iterator, _CHUNK)):
            made, changed, same = self._put_chunk(chunk)
            created, updated, unchanged = created + made, updated + changed, unchanged + same
        return PutOutcome(created, updated, unchanged)

    def delete(self, resource_type: str, resource_id: str) -> StoredResource | None:
        """Delete a resource and return the deletion; None when there is nothing to delete. Its versions stay."""
        row = self._row(resource_type, resource_id)
        if row is None or row.deleted:
            return None
        self._keep([row])
        gone = {"version": row.version + 1, "last_updated": self.now, "deleted": True, "digest": b"", "body": b""}
        self.connection.execute(sa.update(self._resource).where(self._resource.c.key == row.key).values(gone))
        entry = self._index.c
        kept = entry.parameter.in_(deciding(resource_type))
        self.connection.execute(sa.delete(self._index).where(entry.key == row.key, sa.not_(kept)))
        return StoredResource(resource_type, resource_id, row.version + 1, instant(self.now), True, b"")

    def reindex(self) -> int:
        """Write the search index of all live resources anew; returns their number."""
        resource, done, last = self._resource, 0, -1
        while True:
            batch = sa.select(resource.c.key, resource.c.body).where(
                resource.c.key > last, resource.c.deleted.is_(False)
            )
            rows = self.connection.execute(batch.order_by(resource.c.key).limit(_CHUNK)).all()
            if not rows:
                return done
            of_key: sa.BindParameter[int] = sa.bindparam("of_key")
            keys = [{"of_key": row.key} for row in rows]
            self.connection.execute(sa.delete(self._index).where(self._index.c.key == of_key), keys)
            self._insert([entry for row in rows for entry in self._entries(row.key, orjson.loads(row.body))])
            done, last = done + len(rows), rows[-1].key

    def _row(self, resource_type: str, resource_id: str) -> sa.Row[Any] | None:
        resource = self._resource
        chosen = sa.select(resource).where(resource.c.type == resource_type, resource.c.id == resource_id)
        return self.connection.execute(chosen).first()

    def _put_chunk(self, chunk: list[Mapping[str, Any]]) -> tuple[int, int, int]:
        wanted = {(_checked(one), one["id"]): one for one in chunk}
        present = self._present(wanted)
        created: list[dict[str, Any]] = []
        updated: list[dict[str, Any]] = []
        replaced: list[sa.Row[Any]] = []
        entries: list[tuple[Any, ...]] = []
        for identity, resource in wanted.items():
            digest, row = _digest(resource), present.get(identity)
            if row is not None and not row.deleted and row.digest == digest:
                continue
            version = row.version + 1 if row is not None else 1
            key = row.key if row is not None else self._next_key + len(created)
            values = {
                "version": version,
                "last_updated": self.now,
                "deleted": False,
                "digest": digest,
                "body": _stamped(resource, version, self.now),
            }
            if row is None:
                created.append({"key": key, "type": identity[0], "id": identity[1]} | values)
            else:
                updated.append({"of_key": key} | values)
                replaced.append(row)
            entries.extend(self._entries(key, resource))
        self._keep(replaced)
        if created:
            self.connection.execute(sa.insert(self._resource), created)
            self._next_key += len(created)
        if updated:
            of_key: sa.BindParameter[int] = sa.bindparam("of_key")
            self.connection.execute(sa.delete(self._index).where(self._index.c.key == of_key), updated)
            settable: dict[str, sa.BindParameter[object]] = {
                name: sa.bindparam(name) for name in ("version", "last_updated", "deleted", "digest", "body")
            }
            self.connection.execute(
                sa.update(self._resource).where(self._resource.c.key == of_key).values(settable), updated
            )
        self._insert(entries)
        self._note(
            [*created, *({"type": row.type, "id": row.id} | one for row, one in zip(replaced, updated, strict=True))]
        )
        return len(created), len(updated), len(chunk) - len(created) - len(updated)

    def _note(self, changes: Iterable[Mapping[str, Any]]) -> None:
        """Note changes of watched types for who subscribed, in the transaction that makes them: none is lost."""
        names = ("type", "id", "version")
        noted = [{name: one[name] for name in names} for one in changes if one["type"] in WATCHED]
        if noted:
            self.connection.execute(sa.insert(table_of(ResourceChangeRow)), noted)

    def _present(self, wanted: Mapping[tuple[str, str], object]) -> dict[tuple[str, str], sa.Row[Any]]:
        found: dict[tuple[str, str], sa.Row[Any]] = {}
        by_type: dict[str, list[str]] = {}
        for resource_type, resource_id in wanted:
            by_type.setdefault(resource_type, []).append(resource_id)
        resource = self._resource
        for resource_type, ids in by_type.items():
            for some in slices(ids):
                chosen = sa.select(resource).where(resource.c.type == resource_type, resource.c.id.in_(some))
                for row in self.connection.execute(chosen):
                    found[resource_type, row.id] = row
        return found

    def _entries(self, key: int, resource: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        try:
            for parameter, (system, value, *rest) in index_entries(resource, self._base_url):
                yield key, parameter, system, value[:LONGEST] if value else value, *rest
        except ValueError as error:
            raise ResourceError(
                f"an indexed date is malformed ({error})", location=Location(path=resource["resourceType"])
            ) from error

    def _insert(self, entries: list[tuple[Any, ...]]) -> None:
        if entries:
            self.connection.exec_driver_sql(self._insert_entries, entries)

    def _keep(self, rows: Sequence[sa.Row[Any]]) -> None:
        names = [column.name for column in self._version.columns]
        if rows:
            kept = [{name: getattr(row, name) for name in names} for row in rows]
            self.connection.execute(sa.insert(self._version), kept)


def slices(ids: list[str], size: int = 1000) -> Iterator[list[str]]:
    """Cut a list into pieces that fit one statement's parameters."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _positional_insert(engine: Engine, table: sa.Table) -> str:
    """Return an INSERT for the driver itself: a resource has ten entries, and naming each value doubles their cost."""
    quote = engine.dialect.identifier_preparer.quote
    names = [quote(column.name) for column in table.columns if not column.primary_key]
    mark = "?" if engine.dialect.paramstyle == "qmark" else "%s"
    values = ", ".join([mark] * len(names))
    return f"INSERT INTO {quote(table.name)} ({', '.join(names)}) VALUES ({values})"  # noqa: S608  # our own names


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
    return hashlib.sha256(exact.dumps(body, orjson.OPT_SORT_KEYS)).digest()


def _stamped(resource: Mapping[str, Any], version: int, now: int) -> bytes:
    meta = resource.get("meta", {}) | {"versionId": str(version), "lastUpdated": instant(now)}
    head = {"resourceType": resource["resourceType"], "id": resource["id"], "meta": meta}
    return exact.dumps(head | {name: value for name, value in resource.items() if name not in head})
