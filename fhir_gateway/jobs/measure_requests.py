"""What DEQM operations are asked for: measures, a period, subjects, and how to answer; one Bundle after the other.

A request is plain JSON, so that it can be carried out now, while the client waits, or later by a worker.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any, Self
from zoneinfo import ZoneInfo

import orjson

from fhir_gateway.db.audience import Audience
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.publish import REPORTER, reporter
from fhir_gateway.jobs.subjects import Subjects
from fhir_gateway.lake.buckets import bucket_of
from fhir_gateway.measures.dialect import DIALECTS, Family
from fhir_gateway.measures.package import MeasurePackage

Resource = dict[str, Any]
Pair = tuple[str, str]
#: Members that are evaluated, and whose Bundles are made, at a time.
CHUNK = 500


@dataclass(frozen=True, slots=True)
class MeasureRequest:
    """One call of ``$evaluate``, ``$care-gaps`` or ``$collect-data``.

    ``measures`` are canonicals with versions; ``subject``, ``provider`` and ``reporter`` are (type, id). ``group`` is a
    Group that came with the request, ``reporter_resource`` the provider that did. ``readable`` are the types that the
    caller's scopes let come along; None is all of them. ``report_type`` is of ``$evaluate``; ``statuses`` and
    ``document`` are of ``$care-gaps``.
    """

    measures: tuple[str, ...]
    period: Pair
    now: str
    zone: str
    family: Family = "us"
    subject: Pair | None = None
    group: Resource | None = None
    provider: Pair | None = None
    reporter: Pair | None = None
    reporter_resource: Resource | None = None
    locations: tuple[str, ...] = ()
    readable: tuple[str, ...] | None = None
    report_type: str = "individual"
    statuses: tuple[str, ...] = ()
    document: bool = True

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Self:
        """The request that was written as JSON."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in payload.items()
        }
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return orjson.loads(orjson.dumps(self))  # type: ignore[no-any-return]

    @property
    def days(self) -> tuple[date, date]:
        """First and last day of the period."""
        return date.fromisoformat(self.period[0]), date.fromisoformat(self.period[1])

    @property
    def instant(self) -> datetime:
        """The instant of the evaluation, in the zone that periods are meant in."""
        return datetime.fromisoformat(self.now).astimezone(ZoneInfo(self.zone))


class Asking:
    """A request together with who asks: what it means among the resources that they see."""

    def __init__(self, gateway: Gateway, request: MeasureRequest, audience: Audience) -> None:
        self.gateway, self.request = gateway, request
        self.store: ResourceStore = gateway.resources.seen_by(audience)
        self.base_url = f"{gateway.settings.public_url.rstrip('/')}/fhir"

    def packages(self) -> list[MeasurePackage]:
        """The measures; NotFoundError."""
        return [self.gateway.measures.by_canonical(one) for one in self.request.measures]

    def members(self) -> list[str] | None:
        """Person ids it is about, None for everybody; NotFoundError for what is not here."""
        return self._members

    @cached_property
    def _members(self) -> list[str] | None:
        request, subjects = self.request, Subjects(self.store)
        if request.group is not None:
            return subjects.of_group(request.group, request.days)
        if request.reporter_resource is not None and request.subject is None and request.provider is None:
            return subjects.of_provider_resource(request.reporter_resource, request.days)
        return subjects.of(request.subject, request.days, request.provider)

    def everyone(self) -> list[str]:
        """The persons by name, also when they are everybody."""
        members = self.members()
        return self.gateway.lake.members().to_pylist() if members is None else members

    def count(self) -> int:
        """How many persons it is about."""
        members = self.members()
        return (self.gateway.resources.search("Patient", count=0).total or 0) if members is None else len(members)

    def may_read(self, resource_type: str) -> bool:
        """Whether resources of a type may come along."""
        return self.request.readable is None or resource_type in self.request.readable

    @property
    def reporter(self) -> dict[str, str]:
        """Reference to the one who reports: as the client says, or we ourselves."""
        if self.request.reporter_resource is not None:
            return {"reference": _named(self.request.reporter_resource)}
        kind, identity = self.request.reporter or ("Organization", REPORTER)
        return {"reference": f"{kind}/{identity}"}

    def reporting(self) -> list[Resource]:
        """The resource of the one who reports."""
        given = self.request.reporter_resource
        if given is not None:
            return [given | {"id": _named(given).partition("/")[2]}]
        if self.request.reporter is None:
            return [reporter(self.gateway)]
        if not self.may_read(self.request.reporter[0]):
            return []
        return [one.json() for one in self.store.read_many([self.request.reporter])]

    def located(self, report: Resource) -> Resource:
        """The report with the locations that the client named."""
        extensions = [
            {"url": DIALECTS[self.request.family].location, "valueReference": {"reference": one}}
            for one in self.request.locations
        ]
        return report | {"extension": [*report.get("extension", ()), *extensions]} if extensions else report

    def bundle(self, kind: str, resources: Iterable[Resource], key: str) -> Resource:
        """A Bundle of resources, each once, by their addresses here; ``key`` tells it apart from others of the call."""
        distinct = {f"{one['resourceType']}/{one['id']}": one for one in resources}
        identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.base_url} {self.request.now} {kind} {key}"))
        return {
            "resourceType": "Bundle",
            "id": identity,
            "identifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{identity}"},
            "type": kind,
            "timestamp": self.request.instant.isoformat(timespec="milliseconds"),
            "entry": [{"fullUrl": f"{self.base_url}/{name}", "resource": one} for name, one in distinct.items()],
        }


#: Called between pieces of work; it may end them.
Check = Callable[[], None]


def nothing_to_check() -> None:
    """For who waits: the work goes on to its end."""


def chunks(members: Iterable[str], buckets: int) -> Iterator[list[str]]:
    """Members in pieces that are evaluated at a time: those of a bucket of the lake follow each other."""
    ordered = sorted(members, key=lambda member: (bucket_of(member, buckets), member))
    return (ordered[start : start + CHUNK] for start in range(0, len(ordered), CHUNK))


def require(store: ResourceStore, pair: Pair) -> Pair:
    """The pair, when there is such a resource; NotFoundError."""
    try:
        store.read(*pair)
    except NotFoundError:
        raise NotFoundError(f"there is no such {pair[0]}") from None
    return pair


def _named(resource: Resource) -> str:
    """Reference of a resource that a client gave, which may have no id."""
    identity = resource.get("id") or uuid.uuid5(uuid.NAMESPACE_OID, orjson.dumps(resource).decode()).hex
    return f"{resource['resourceType']}/{identity}"
