"""Who is meant: members, providers and entries named in operations on attribution lists, found in what is served."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import orjson

from fhir_gateway.attribution import entries
from fhir_gateway.attribution.entries import Entry, Key
from fhir_gateway.attribution.roster import NPI_SYSTEM, TIN_SYSTEM
from fhir_gateway.db.audience import Audience
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.errors import InputError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribution_runs import attributions_folder

_MOST = 20
"""Resources that one identifier may find; more is no identifier."""


class Refused(InputError):
    """The request is understood, and the list's rules say no; the message says which."""

    code, status, issue_type = "refused", 422, "business-rule"


@dataclass(frozen=True, slots=True)
class Identifier:
    """An identifier as a token of search."""

    value: str
    system: str | None = None

    @property
    def token(self) -> str:
        """For a search parameter, escaped."""
        value = _escaped(self.value)
        return value if self.system is None else f"{_escaped(self.system)}|{value}"


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider as the lists know him: the reference of an entry, its other names, and his numbers."""

    reference: Mapping[str, Any]
    names: frozenset[str]
    practices: frozenset[str]  # names of the organizations he works for
    npis: frozenset[str]
    tins: frozenset[str]


@dataclass(frozen=True, slots=True)
class Named:
    """Whom an operation is about, and from when to when."""

    member_id: Identifier | None = None
    patient: str | None = None
    provider_npi: Identifier | None = None
    provider: str | None = None
    coverage: str | None = None
    period: Mapping[str, str] | None = None

    @property
    def names_provider(self) -> bool:
        """True when it names a provider at all."""
        return self.provider_npi is not None or self.provider is not None

    def person(self, gateway: Gateway) -> str | None:
        """The member it names; None when nobody is found."""
        return member(gateway.resources, self.member_id, self.patient)

    def party(self, gateway: Gateway, contract: str) -> Provider | None:
        """The provider it names, as the lists of a contract know him; None when he is not known here."""
        return provider(gateway, contract, self.provider_npi, self.provider)


def member(store: ResourceStore, named: Identifier | None, reference: str | None) -> str | None:
    """The person of a member number or reference; None when nobody is found. Refused when several are."""
    if reference is not None:
        kind, _, resource_id = reference.partition("/")
        found = {resource_id} if kind == "Patient" and store.read_many([("Patient", resource_id)]) else set()
    elif named is None:
        found = set()
    else:
        found = set(store.ids("Patient", [("identifier", named.token)]))
        for one in store.search("Coverage", [("identifier", named.token)], _MOST, total=False).resources:
            of = one.json().get("beneficiary", {}).get("reference", "")
            if of.startswith("Patient/"):
                found.add(of.removeprefix("Patient/"))
    if len(found) > 1:
        raise Refused("memberId: several members have this number; name its system")
    return next(iter(found), None)


def may_add(gateway: Gateway, audience: Audience, person: str, contract: str, tins: Iterable[str]) -> bool:
    """Whether a client may put a person on a list: one it sees already, or whom the list's practices have seen.

    Being on a list shows a person's data to the practice; whoever could add anybody could read everybody.
    """
    if audience.everybody or gateway.resources.seen_by(audience).read_many([("Patient", person)]):
        return True
    practices = sorted(tins)
    rows = _services(
        gateway, contract, "SELECT count(*) FROM seen WHERE member = ? AND list_contains(?, tin)", person, practices
    )
    return bool(rows and rows[0][0])


def provider(gateway: Gateway, contract: str, npi: Identifier | None, reference: str | None) -> Provider | None:
    """The provider of an NPI or reference; None when he is not known here."""
    store = gateway.resources
    if reference is not None:
        kind, _, resource_id = reference.partition("/")
        wanted = [(kind, resource_id)] if kind in ("Organization", "Practitioner", "PractitionerRole") else []
        found = [one.json() for one in store.read_many(wanted)]
    elif npi is not None:
        criteria = [("identifier", Identifier(npi.value, npi.system or NPI_SYSTEM).token)]
        found = [
            one.json()
            for kind in ("Practitioner", "Organization")
            for one in store.search(kind, criteria, _MOST, total=False).resources
        ]
    else:
        found = []
    if not found:
        return None
    first = {"reference": f"{found[0]['resourceType']}/{found[0]['id']}"}
    around = [*found, *_around(store, found)]
    npis = {number for one in found + _people(around) for number in _numbers(one, NPI_SYSTEM)}
    tins = {number for one in around for number in _numbers(one, TIN_SYSTEM)}
    for number in sorted(npis):
        tins |= {
            row[0]
            for row in _services(gateway, contract, "SELECT DISTINCT tin FROM seen WHERE npi = ?", number)
            if row[0]
        }
    names = {f"{one['resourceType']}/{one['id']}" for one in found} | npis
    if any(one["resourceType"] == "Organization" for one in found):
        names |= tins
    organizations = {f"Organization/{one['id']}" for one in around if one["resourceType"] == "Organization"}
    for tin in sorted(tins):
        organizations |= {
            f"Organization/{one}"
            for one in store.ids("Organization", [("identifier", Identifier(tin, TIN_SYSTEM).token)])
        }
    return Provider(first, frozenset(names), frozenset(organizations | tins), frozenset(npis), frozenset(tins))


def coverage_of(store: ResourceStore, person: str) -> str | None:
    """The coverage of a member that ends last."""
    found = store.search("Coverage", [("beneficiary", f"Patient/{person}")], 50, total=False).resources
    last = max(found, key=lambda one: (one.json().get("period", {}).get("end", "9999"), one.id), default=None)
    return None if last is None else f"Coverage/{last.id}"


def matches(present: Mapping[Key, Entry], person: str | None, given: Provider | None, named: Named) -> list[Key]:
    """Entries of a member by provider and coverage; of a clinician whom no entry names, those of his practices."""
    mine = [key for key in present if key[0] == f"Patient/{person}"]
    if given is not None:
        exact = [key for key in mine if key[1] in given.names]
        mine = exact or [key for key in mine if key[1] in given.practices]
    if named.coverage is not None:
        mine = [
            key
            for key in mine
            if entries.extension(present[key], entries.COVERAGE).get("valueReference", {}).get("reference")
            == named.coverage
        ]
    return mine


def _people(resources: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [one for one in resources if one["resourceType"] == "Practitioner"]


def _around(store: ResourceStore, found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Organizations (and of a role its Practitioner) that the roles of a provider name."""
    roles = [one for one in found if one["resourceType"] == "PractitionerRole"]
    for one in _people(found):
        criteria = [("practitioner", f"Practitioner/{one['id']}")]
        roles += [role.json() for role in store.search("PractitionerRole", criteria, _MOST, total=False).resources]
    wanted = []
    for role in roles:
        for name in ("organization", "practitioner"):
            kind, _, resource_id = role.get(name, {}).get("reference", "").partition("/")
            if kind in ("Organization", "Practitioner"):
                wanted.append((kind, resource_id))
    return [one.json() for one in store.read_many(wanted)]


def _numbers(resource: Mapping[str, Any], system: str) -> set[str]:
    return {one["value"] for one in resource.get("identifier", ()) if one.get("system") == system and "value" in one}


def numbers_of_list(group: Mapping[str, Any]) -> tuple[frozenset[str], frozenset[str]]:
    """TINs and NPIs that a list is for."""
    return frozenset(_numbers(group, TIN_SYSTEM)), frozenset(_numbers(group, NPI_SYSTEM))


def _services(gateway: Gateway, contract: str, query: str, *values: Any) -> list[Any]:
    """Rows of who saw whom, by the newest attribution of a contract; none before there was one."""
    newest = _newest(attributions_folder(gateway, contract))
    if newest is None:
        return []
    with duckdb.connect() as connection:
        connection.from_parquet(str(newest)).create_view("seen")
        return connection.execute(query, list(values)).fetchall()


def _newest(folder: Path) -> Path | None:
    found = []
    for header in folder.glob("*/header.json"):
        services = header.with_name("services.parquet")
        if services.exists():
            stated = orjson.loads(header.read_bytes())
            found.append((stated["lake_version"], stated["computed"], services))
    return max(found)[2] if found else None


def _escaped(text: str) -> str:
    return re.sub(r"([\\,|$])", r"\\\1", text)
