"""Whom a request is about: a Patient, the members of a Group, or the patients of a provider, as an audience sees them.

Who is whose patient is said by the attribution lists: the active entries (ATR: ``inactive`` and ``member.period``) of
the lists that the audience sees, and the provider that each of them names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from typing import Any

from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.errors import InputError, Location, NotFoundError

PROVIDERS = ("Practitioner", "PractitionerRole", "Organization", "Location")
SUBJECTS = ("Patient", "Group", *PROVIDERS)

_ATTRIBUTED = "http://hl7.org/fhir/us/davinci-atr/StructureDefinition/ext-attributedProvider"
Period = tuple[date, date]
Resource = Mapping[str, Any]


class Subjects:
    """Persons behind subjects, over the resources that one audience sees."""

    def __init__(self, store: ResourceStore) -> None:
        """``store`` as the audience sees it."""
        self._store = store

    def of(
        self, subject: tuple[str, str] | None, period: Period, provider: tuple[str, str] | None = None
    ) -> list[str] | None:
        """Person ids of a (type, id) of :data:`SUBJECTS`, or of nobody in particular; None when that is everyone.

        With a ``provider`` (of :data:`PROVIDERS`) only those that are its patients, of a Group by that list alone.
        NotFoundError when there is no such resource for the audience.
        """
        if subject is not None and subject[0] == "Patient":
            return self.patients([subject[1]])
        if subject is not None and subject[0] == "Group":
            group = self._stored(*subject)
            return self._of_provider(provider, period, [group]) if provider else self._seen(set(_active(group, period)))
        found = None if subject is None else self._of_provider(subject, period)
        if provider is None:
            return self._store.members() if subject is None else found
        theirs = self._of_provider(provider, period)
        return theirs if found is None else sorted(set(found) & set(theirs))

    def patients(self, persons: list[str]) -> list[str]:
        """These persons, who must all be here; NotFoundError otherwise."""
        wanted = sorted(set(persons))
        missing = len(wanted) - len(self._store.read_many(("Patient", person) for person in wanted))
        if missing:
            raise NotFoundError("there is no such Patient" if len(wanted) == 1 else f"{missing} Patients are not here")
        return wanted

    def of_group(self, group: Resource, period: Period) -> list[str]:
        """Members of a Group that came with the request; NotFoundError when one of them is not here."""
        entries = group.get("member", [])
        if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
            raise InputError("a member of the Group has no entity", location=Location(path="Group.member.entity"))
        others = [reference for entry in entries if not (reference := _entity(entry)).startswith("Patient/")]
        if others:
            raise InputError("the Group's members are not all Patients", location=Location(path="Group.member.entity"))
        return self.patients(list(_active(group, period)))

    def of_provider_resource(self, provider: Resource, period: Period) -> list[str]:
        """Patients of a provider that came with the request: of those served who have one of its identifiers."""
        kind, numbers = str(provider.get("resourceType")), _numbers(provider)
        known = {
            one for system, value in numbers for one in self._store.ids(kind, [("identifier", f"{system}|{value}")])
        }
        found = {member for one in known for member in self._of_provider((kind, one), period)}
        for group in self._lists():
            found.update(_active(group, period, lambda entry: _is_named(entry, frozenset(), numbers)))
        return self._seen(found)

    def _of_provider(
        self, provider: tuple[str, str], period: Period, lists: Iterable[Resource] | None = None
    ) -> list[str]:
        """Patients that ``lists`` (default: all that are seen) give a provider.

        Of an organization: those attributed to it, to a practitioner with a role in it, or whose list it manages.
        """
        kind, identity = provider
        numbers = _numbers(self._stored(kind, identity))
        names = self._names(kind, identity)
        members: set[str] = set()
        for group in self._lists() if lists is None else lists:
            if group.get("managingEntity", {}).get("reference") == f"{kind}/{identity}":
                members.update(_active(group, period))
            else:
                members.update(_active(group, period, lambda one: _is_named(one, names, numbers)))
        return self._seen(members)

    def _names(self, kind: str, identity: str) -> frozenset[str]:
        """References that mean a provider: itself, and the roles and practitioners behind it."""
        names = {f"{kind}/{identity}"}
        if kind == "PractitionerRole":
            practitioner = self._stored(kind, identity).get("practitioner", {}).get("reference")
            names |= {practitioner} if practitioner else set()
        elif kind in ("Practitioner", "Organization"):
            for role in self._store.ids("PractitionerRole", [(kind.lower(), f"{kind}/{identity}")]):
                names.add(f"PractitionerRole/{role}")
                if kind == "Organization":
                    names |= self._names("PractitionerRole", role)
        elif kind == "Location":
            for role in self._store.ids("PractitionerRole"):
                resource = self._stored("PractitionerRole", role)
                if any(one.get("reference") == f"Location/{identity}" for one in resource.get("location", ())):
                    names |= {f"PractitionerRole/{role}"} | self._names("PractitionerRole", role)
        return frozenset(names)

    def _lists(self) -> Iterator[Resource]:
        for identity in self._store.ids("Group"):
            yield self._store.read("Group", identity).json()

    def _stored(self, kind: str, identity: str) -> Resource:
        try:
            return self._store.read(kind, identity).json()
        except NotFoundError:
            raise NotFoundError(f"there is no such {kind}") from None

    def _seen(self, members: set[str]) -> list[str]:
        """Those whom the audience sees."""
        visible = self._store.members()
        return sorted(members if visible is None else members & set(visible))


def _active(group: Resource, period: Period, named: Callable[[Resource], bool] | None = None) -> Iterator[str]:
    """Patients on a list who are active in the period, of entries that are ``named`` so."""
    for entry in group.get("member", ()):
        reference = _entity(entry)
        span = entry.get("period", {})
        if entry.get("inactive") or not reference.startswith("Patient/"):
            continue
        if span.get("start", "")[:10] > period[1].isoformat() or span.get("end", "9999")[:10] < period[0].isoformat():
            continue
        if named is None or named(entry):
            yield reference.removeprefix("Patient/")


def _is_entry(entry: Any) -> bool:
    entity = entry.get("entity") if isinstance(entry, dict) else None
    span = entry.get("period", {}) if isinstance(entry, dict) else None
    return (
        isinstance(entity, dict)
        and isinstance(entity.get("reference"), str)
        and isinstance(span, dict)
        and all(isinstance(span.get(end, ""), str) for end in ("start", "end"))
    )


def _entity(entry: Resource) -> str:
    """Reference of an entry, relative: an absolute one counts by its last two parts."""
    return "/".join(str(entry.get("entity", {}).get("reference", "")).split("/")[-2:])


def _is_named(entry: Resource, names: frozenset[str], numbers: frozenset[tuple[str, str]]) -> bool:
    for extension in entry.get("extension", ()):
        if extension.get("url") == _ATTRIBUTED:
            provider = extension.get("valueReference", {})
            number = provider.get("identifier", {})
            if provider.get("reference") in names or (number.get("system"), number.get("value")) in numbers:
                return True
    return False


def _numbers(resource: Resource) -> frozenset[tuple[str, str]]:
    """Business identifiers of a provider: an entry of a list may have nothing else to name it by."""
    pairs = ((one.get("system"), one.get("value")) for one in resource.get("identifier", ()))
    return frozenset((system, value) for system, value in pairs if system and value)
