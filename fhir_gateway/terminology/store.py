"""Imported terminology in the control plane: ValueSets, CodeSystems and ConceptMaps, every version and revision kept.

One row is one content of one ``url|version``. The same content imported again changes nothing; other content under
the same ``url|version`` is refused unless it is said to replace, and then the old row stays, marked (ADR 0128).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlmodel import Field, SQLModel

from fhir_gateway.db.engine import snapshot, table_of, transaction
from fhir_gateway.errors import ConfigurationError, ConflictError, TerminologyError
from fhir_gateway.terminology.canonical import canonical_json, split_canonical, version_order
from fhir_gateway.terminology.reading import Resource, codes_of, count_codes, effective_period, problem_of

#: Types that are kept.
TYPES = ("ValueSet", "CodeSystem", "ConceptMap")
_LOCK = "terminology"


class TerminologyRow(SQLModel, table=True):
    """A terminology resource: ``body`` is its canonical JSON, deflated; ``version`` is empty when it has none.

    ``effective_from`` and ``effective_to`` are days, both in it; None is open. ``replaced_at``: another content of the
    same ``url|version`` counts since then.
    """

    __tablename__ = "terminology_resource"
    __table_args__ = (sa.UniqueConstraint("resource_type", "url", "version", "digest", name="uq_terminology_resource"),)

    id: int | None = Field(default=None, primary_key=True)
    resource_type: str
    url: str
    version: str
    digest: str
    origin: str
    imported_at: str
    effective_from: str | None = None
    effective_to: str | None = None
    replaced_at: str | None = None
    codes: int
    body: bytes


RESOURCE = table_of(TerminologyRow)


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored content of a terminology resource, without its body."""

    resource_type: str
    url: str
    version: str
    digest: str
    origin: str
    imported_at: str
    effective_from: str | None
    effective_to: str | None
    replaced_at: str | None
    codes: int

    @property
    def canonical(self) -> str:
        """``url|version``, or the url when there is no version."""
        return f"{self.url}|{self.version}" if self.version else self.url

    def in_force(self, on: date) -> bool:
        """Whether its effective period holds that day."""
        day = on.isoformat()
        return (self.effective_from or "") <= day <= (self.effective_to or "9999-12-31")


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did, as canonicals."""

    stored: tuple[str, ...]
    unchanged: tuple[str, ...]
    replaced: tuple[str, ...]


class TerminologyStore:
    """The terminology of a gateway, in its control plane."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine = engine
        self._clock = clock

    def put(
        self,
        resources: Iterable[tuple[str, Resource]],
        *,
        effective: tuple[date | None, date | None] | None = None,
        replace: bool = False,
    ) -> Imported:
        """Keep (origin, resource) pairs, all or none.

        ``effective`` (first and last day, None: open) takes the place of what the resources say of themselves.
        TerminologyError when one has no url or no content; ConflictError when another content has the ``url|version``
        and ``replace`` does not allow it.
        """
        done: dict[str, list[str]] = {"stored": [], "unchanged": [], "replaced": []}
        with transaction(self._engine, lock=_LOCK) as connection:
            for origin, resource in resources:
                if resource.get("resourceType") in TYPES:
                    done[self._put(connection, origin, resource, effective, replace)].append(_canonical(resource))
        return Imported(*(tuple(done[field.name]) for field in fields(Imported)))

    def entries(self, resource_type: str | None = None, url: str | None = None) -> list[Entry]:
        """What is stored, by type, url and version; what was replaced comes too."""
        columns = [RESOURCE.c[field.name] for field in fields(Entry)]
        statement = sa.select(*columns)
        if resource_type is not None:
            statement = statement.where(RESOURCE.c.resource_type == resource_type)
        if url is not None:
            statement = statement.where(RESOURCE.c.url == url)
        with snapshot(self._engine) as connection:
            found = [Entry(*row) for row in connection.execute(statement)]
        return sorted(found, key=lambda one: (one.resource_type, one.url, version_order(one.version), one.imported_at))

    def entry(self, resource_type: str, reference: str, on: date | None = None) -> Entry | None:
        """The content that ``reference`` (``url`` or ``url|version``) means; None when nothing is stored under the url.

        With a version, that one. Without, the one in force on the day ``on``: of several the one whose effective
        period began last, then the newest version; without ``on`` the newest. TerminologyError when the url is stored,
        but not in that version, or none of it is in force then.
        """
        url, version = split_canonical(reference)
        stored = [one for one in self.entries(resource_type, url) if one.replaced_at is None]
        if not stored:
            return None
        found = [one for one in stored if one.version == version] if version else stored
        if on is not None and version is None:
            found = sorted(
                (one for one in found if one.in_force(on)),
                key=lambda one: (one.effective_from or "", version_order(one.version)),
            )
        if not found:
            here = ", ".join(
                f"{one.version or 'none'} ({one.effective_from or ''} to {one.effective_to or ''})" for one in stored
            )
            when = f" in force on {on.isoformat()}" if on is not None and version is None else ""
            raise TerminologyError(f"{resource_type} {reference} is not stored{when}; stored in version {here}")
        return found[-1]

    def find(self, resource_type: str, reference: str, on: date | None = None) -> tuple[Entry, dict[str, Any]] | None:
        """As :meth:`entry`, with the resource."""
        entry = self.entry(resource_type, reference, on)
        if entry is None:
            return None
        with snapshot(self._engine) as connection:
            body = connection.scalar(
                sa.select(RESOURCE.c.body).where(
                    RESOURCE.c.resource_type == resource_type,
                    RESOURCE.c.url == entry.url,
                    RESOURCE.c.version == entry.version,
                    RESOURCE.c.digest == entry.digest,
                )
            )
        found: dict[str, Any] = orjson.loads(zlib.decompress(body or b""))
        return entry, found

    def lookup(self, system: str, code: str, on: date) -> Entry | None:
        """The code system content in force on a day that has ``code``; None when the code was not in it then.

        TerminologyError when no version of ``system`` is stored, or in force on that day.
        """
        found = self.find("CodeSystem", system, on)
        if found is None:
            raise TerminologyError(f"code system {system} is not stored")
        entry, resource = found
        return entry if code in codes_of(resource) else None

    def in_force(self, resource_type: str, on: date) -> Iterator[tuple[Entry, dict[str, Any]]]:
        """Of each url of a type what is in force on a day, if anything."""
        for url in sorted({one.url for one in self.entries(resource_type) if one.replaced_at is None}):
            if any(one.in_force(on) for one in self.entries(resource_type, url) if one.replaced_at is None):
                found = self.find(resource_type, url, on)
                if found is not None:
                    yield found

    def revision(self) -> str:
        """Changes whenever anything stored does."""
        latest = sa.select(sa.func.max(RESOURCE.c.imported_at), sa.func.max(RESOURCE.c.replaced_at))
        with snapshot(self._engine) as connection:
            return " ".join(str(one) for one in connection.execute(latest).one())

    def set_effective(self, reference: str, start: date | None, end: date | None) -> int:
        """Date all that is stored under ``reference`` (``url`` or ``url|version``) anew; returns how many."""
        _check_period(start, end)
        url, version = split_canonical(reference)
        statement = sa.update(RESOURCE).where(RESOURCE.c.url == url)
        if version is not None:
            statement = statement.where(RESOURCE.c.version == version)
        days = {"effective_from": _day(start), "effective_to": _day(end), "imported_at": self._clock().isoformat()}
        with transaction(self._engine, lock=_LOCK) as connection:
            return connection.execute(statement.values(**days)).rowcount

    def _put(
        self,
        connection: Connection,
        origin: str,
        resource: Resource,
        effective: tuple[date | None, date | None] | None,
        replace: bool,
    ) -> str:
        """Store one; says under which count of :class:`Imported` it falls."""
        canonical = _canonical(resource)
        if problem := problem_of(resource):
            raise TerminologyError(f"{resource['resourceType']} {canonical} from {origin}: {problem}")
        body = canonical_json(resource)
        digest = hashlib.sha256(body).hexdigest()
        if effective is not None:
            _check_period(*effective)
            start, end = map(_day, effective)
        else:
            start, end = effective_period(resource)
        same = sa.and_(
            RESOURCE.c.resource_type == resource["resourceType"],
            RESOURCE.c.url == resource["url"],
            RESOURCE.c.version == (resource.get("version") or ""),
        )
        rows = connection.execute(sa.select(RESOURCE.c.digest, RESOURCE.c.replaced_at).where(same)).all()
        current = next((row.digest for row in rows if row.replaced_at is None), None)
        if current == digest:
            return "unchanged"
        now = self._clock().isoformat()
        if current is not None:
            if not replace:
                raise ConflictError(
                    f"{resource['resourceType']} {canonical} is stored with another content (sha256 {current[:12]}, "
                    f"now {digest[:12]}); say --replace to count the new one from now on"
                )
            connection.execute(sa.update(RESOURCE).where(same, RESOURCE.c.digest == current).values(replaced_at=now))
        if digest in {row.digest for row in rows}:  # an old content is back
            connection.execute(
                sa.update(RESOURCE).where(same, RESOURCE.c.digest == digest).values(replaced_at=None, imported_at=now)
            )
            return "replaced"
        connection.execute(
            sa.insert(RESOURCE).values(
                resource_type=resource["resourceType"],
                url=resource["url"],
                version=resource.get("version") or "",
                digest=digest,
                origin=origin,
                imported_at=now,
                effective_from=start,
                effective_to=end,
                codes=count_codes(resource),
                body=zlib.compress(body),
            )
        )
        return "stored" if current is None else "replaced"


def _canonical(resource: Mapping[str, Any]) -> str:
    version = resource.get("version")
    return f"{resource.get('url')}|{version}" if version else str(resource.get("url"))


def _day(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def _check_period(start: date | None, end: date | None) -> None:
    if start is not None and end is not None and end < start:
        raise ConfigurationError("the effective period ends before it begins")
