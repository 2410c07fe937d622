"""Clinical and claims resources out of the lake: read and search for whose person is known.

A search names persons (``patient``, ``subject``, also by chain) or ids, and its criteria are matched one by one, as the
resources of a few persons are few. One that names nobody goes from person to person, page by page, in no other order;
for everybody's resources there is ``$export``.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from fhir_gateway.db.audience import Audience
from fhir_gateway.db.history import page_of_versions
from fhir_gateway.db.resources import ResourceStore, StoredResource, Versions
from fhir_gateway.db.search.clinical import patient_parameters
from fhir_gateway.db.search.criteria import Criterion
from fhir_gateway.db.search.matching import check, matches
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.db.search.values import reference_parts
from fhir_gateway.errors import AuthorizationError, DeletedError, InputError, Location
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.clinical import ClinicalRows, codes_of
from fhir_gateway.jobs.clinical_changes import ClinicalChanges, Place
from fhir_gateway.server.catalog import Found
from fhir_gateway.server.clinical_history import Asked, Step, steps
from fhir_gateway.server.problems import TooCostly, UnknownResource
from fhir_gateway.server.search import Query

#: Persons whose resources one search may be about.
MOST_PERSONS = 500
#: Persons whose resources one request of a search that names nobody looks at, and how many of them together.
MOST_SCANNED, _CHUNK = 5000, 250
_COMMA = re.compile(r"(?<!\\),")


class ClinicalCatalog:
    """The resources as one audience sees them: those about persons that it sees, as far as its scopes go."""

    def __init__(
        self,
        gateway: Gateway,
        base_url: str,
        store: ResourceStore | None = None,
        searchable: Callable[[str], bool] | None = None,
    ) -> None:
        """``store`` is what the audience sees of what is stored, where persons are."""
        self._gateway = gateway
        self._base_url = base_url
        self._store = store or gateway.resources
        self._searchable = searchable
        self._codes: dict[str, frozenset[tuple[str, str]]] = {}  # of one search: a catalog is made for each request

    def seen_by(self, audience: Audience, searchable: Callable[[str], bool] | None = None) -> ClinicalCatalog:
        """What the audience may see."""
        store = self._gateway.resources.seen_by(audience, searchable)
        return ClinicalCatalog(self._gateway, self._base_url, store, searchable)

    def read(self, resource_type: str, resource_id: str) -> StoredResource:
        """The present version; raises UnknownResource, and DeletedError for one that is gone."""
        found, last = self._written(resource_type, resource_id)
        if found[0] is not last:
            raise DeletedError(f"this {resource_type} was deleted")
        return last

    def vread(self, resource_type: str, resource_id: str, version: int) -> StoredResource:
        """One version; raises UnknownResource."""
        for one in self._versions(resource_type, resource_id):
            if one.version == version:
                return one
        raise UnknownResource(f"there is no such version of a {resource_type}")

    def history(
        self,
        resource_type: str,
        resource_id: str,
        since: int | None,
        at: tuple[int, int] | None,
        count: int,
        after: str | None,
    ) -> Versions:
        """One page of its versions: what the lake got from its source, and that it is gone. Raises UnknownResource."""
        return page_of_versions(self._versions(resource_type, resource_id), since, at, count, after)

    def changes(
        self,
        resource_types: Sequence[str],
        since: int | None,
        at: tuple[int, int] | None,
        size: int,
        after: Place | None,
    ) -> Iterator[Step]:
        """The versions of all resources of some types, newest first, by the rules of :meth:`history`; lazily."""
        audience = self._store.audience
        return steps(
            ClinicalChanges(ClinicalRows(self._gateway)),
            resource_types,
            lambda kind: not audience.everybody or bool(audience.restriction(kind)),
            None if audience.everybody else self._listed,
            self._seen,
            Asked(since, at, size, after),
        )

    def _versions(self, resource_type: str, resource_id: str) -> list[StoredResource]:
        """The versions that may be seen, newest first; raises UnknownResource when there are none."""
        found, _ = self._written(resource_type, resource_id)
        return self._seen(found)

    def _seen(self, found: Sequence[StoredResource]) -> list[StoredResource]:
        """Of all versions those that may be seen: none where the last one is hidden.

        Of what was about somebody else once, or did not meet a restriction, that is not seen.
        """
        last = _last(found)
        if last is None or not self._shows(last):
            return []
        return [one for one in found if one.deleted or one is last or self._shows(one)]

    def _written(self, resource_type: str, resource_id: str) -> tuple[list[StoredResource], StoredResource]:
        """All versions, newest first, and the last that is no deletion, which decides who sees that there are some."""
        found = ClinicalRows(self._gateway).versions_of(resource_type, resource_id)
        last = _last(found)
        if last is None or not self._shows(last):
            raise UnknownResource(f"there is no such {resource_type}")
        return found, last

    def search(self, query: Query) -> Found:
        """One page of the resources about the persons that the search names; InputError when it names none."""
        kind, now = query.resource_type, datetime.now(UTC)
        rows = ClinicalRows(self._gateway)
        persons, others = self._persons(kind, query.criteria)
        check(kind, [one for one in others if not one[0].endswith(":in")])
        if persons is None:
            ids = [one for name, value in query.criteria if name == "_id" for one in _COMMA.split(value)]
            if not ids:
                return self._everybody(query, rows, others)
            found: Iterable[StoredResource] = filter(None, (rows.of_id(kind, one) for one in dict.fromkeys(ids)))
            found = (one for one in found if not one.deleted)
        else:
            found = rows.of_members(kind, self._visible(persons))
        met = [one for one in found if self._shows(one) and self._meets(one.json(), others, now)]
        met = _sorted(met, query.sort, self._base_url)
        start = _offset(query.after)
        page = tuple(met[start : start + query.count])
        end = start + len(page)
        total = len(met) if query.count_total else query.total
        return Found(page, total, str(end) if page and end < len(met) else None)

    def _everybody(self, query: Query, rows: ClinicalRows, criteria: Sequence[Criterion]) -> Found:
        """One page of a search that names nobody: person by person, as far as one request may look.

        A page may have fewer matches than asked for, and none, and yet a next one. TooCostly where a sort or a count
        would have to look at everybody.
        """
        kind, now = query.resource_type, datetime.now(UTC)
        listed = None if self._store.audience.everybody else self._listed
        members = rows.members() if listed is None else sorted(listed)
        whole = len(members) <= MOST_SCANNED
        if query.sort or (query.count == 0 and not whole):
            raise TooCostly(
                f"this search of {kind} names whose: {' or '.join(sorted(patient_parameters(kind)))}, or _id"
            )
        first, _, taken = (query.after or "").partition(":")
        place, passed = bisect_left(members, first), _offset(taken or None)
        page: list[StoredResource] = []
        total, ends = 0, min(len(members), place + MOST_SCANNED)
        while place < ends:
            chunk = members[place : min(place + _CHUNK, ends)]
            number: Counter[str] = Counter()
            for one in rows.of_members(kind, chunk):
                resource = one.json()
                if not (self._store.permits(resource) and self._meets(resource, criteria, now)):
                    continue
                person = self._store.audience.person(resource, self._base_url) or ""
                number[person] += 1
                total += 1
                if query.count == 0 or (person == first and number[person] <= passed):
                    continue
                if len(page) == query.count:
                    return Found(tuple(page), query.total, f"{person}:{number[person] - 1}")
                page.append(one)
            place += len(chunk)
        following = None if place >= len(members) else f"{members[place]}:0"
        known = total if query.count_total and query.after is None and following is None else query.total
        return Found(tuple(page), known, following)

    def _meets(self, resource: Mapping[str, Any], criteria: Sequence[Criterion], now: datetime) -> bool:
        """True when the resource meets all criteria, those with the modifier ``in`` among them."""
        plain = [(name, value) for name, value in criteria if not name.endswith(":in")]
        return matches(resource, plain, self._base_url, now) and all(
            self._is_in(resource, name.removesuffix(":in"), value) for name, value in criteria if name.endswith(":in")
        )

    def _is_in(self, resource: Mapping[str, Any], name: str, value_set: str) -> bool:
        parameter = search_parameters(str(resource["resourceType"])).get(name)
        if parameter is None or parameter.kind != "token":
            raise InputError("in is a modifier of codes", location=Location(path=name, rule="modifier"))
        if value_set not in self._codes:
            self._codes[value_set] = codes_of(self._gateway, value_set)
        codes = self._codes[value_set]
        return any((system, code) in codes for system, code, *_ in parameter.entries(resource, self._base_url))

    def _persons(self, kind: str, criteria: Sequence[Criterion]) -> tuple[set[str] | None, list[Criterion]]:
        """Whose resources are meant (None: it is not said), and the criteria that are left to be matched."""
        naming = patient_parameters(kind)
        persons: set[str] | None = None
        others: list[Criterion] = []
        for name, value in criteria:
            head, dot, rest = name.partition(".")
            code, _, modifier = head.partition(":")
            if code == "_has":
                raise InputError(f"_has is not supported for {kind}", location=Location(path="_has"))
            if code not in naming:
                if dot:
                    raise InputError(f"only {' and '.join(sorted(naming))} of {kind} can be chained")
                others.append((name, value))
                continue
            if dot:
                found = self._chained(rest, value)
            elif modifier in ("", "Patient"):
                found = {self._person(one) for one in _COMMA.split(value)}
            elif modifier == "identifier":
                found = self._chained("identifier", value)
            else:
                raise InputError(f"{name}: this modifier is not supported here", location=Location(path=code))
            persons = found if persons is None else persons & found
        return persons, others

    def _person(self, text: str) -> str:
        target, value = reference_parts(text, self._base_url)
        return value if target in (None, "Patient") else ""

    def _chained(self, name: str, value: str) -> set[str]:
        if self._searchable is not None and not self._searchable("Patient"):
            raise AuthorizationError("a chain into Patient needs system/Patient.s")
        return set(self._store.ids("Patient", [(name, value)]))

    def _visible(self, persons: Iterable[str]) -> list[str]:
        """Of some persons those whom the audience sees."""
        wanted = sorted(one for one in persons if one)
        if len(wanted) > MOST_PERSONS:
            raise TooCostly(f"the search is about more than {MOST_PERSONS} persons: ask for $export")
        if self._store.audience.everybody:
            return wanted
        return wanted if self._listed is None else sorted(self._listed.intersection(wanted))

    @cached_property
    def _listed(self) -> frozenset[str] | None:
        """The persons that the audience sees, asked once for each request; None where it sees everybody."""
        found = self._store.members()
        return None if found is None else frozenset(found)

    def _shows(self, one: StoredResource) -> bool:
        resource = one.json()
        person = self._store.audience.person(resource, self._base_url)
        seen = self._store.audience.everybody if person is None else bool(self._visible([person]))
        return seen and self._store.permits(resource)


def _last(versions: Sequence[StoredResource]) -> StoredResource | None:
    """The newest that is no deletion."""
    return next((one for one in versions if not one.deleted), None)


def _offset(after: str | None) -> int:
    if after is None:
        return 0
    if not after.isdigit():
        raise InputError("this page cannot be continued", location=Location(path="_page", rule="value"))
    return int(after)


def _sorted(found: list[StoredResource], sort: str | None, base_url: str) -> list[StoredResource]:
    """By each key of ``_sort``, the last first, as sorting is stable; what has no value comes last (R4 3.1.1.5.1)."""
    for key in reversed((sort or "").split(",") if sort else []):
        name, descending = key.removeprefix("-"), key.startswith("-")
        values = {one.id: _value(one, name, base_url) for one in found}
        present = sorted((one for one in found if values[one.id]), key=lambda one: values[one.id], reverse=descending)
        found = present + [one for one in found if not values[one.id]]
    return found


def _value(one: StoredResource, name: str, base_url: str) -> str:
    if name in ("_id", "_lastUpdated"):
        return one.id if name == "_id" else one.last_updated
    parameter = search_parameters(one.type).get(name)
    if parameter is None:
        raise InputError("not a search parameter of the type", location=Location(path="_sort", rule="value"))
    entries = list(parameter.entries(one.json(), base_url))
    if not entries:
        return ""
    _, value, _, low, _ = entries[0]
    return f"{low + (1 << 62):020d}" if low is not None else str(value or "")
