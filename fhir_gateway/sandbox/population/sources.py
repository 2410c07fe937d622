"""Ids, namespaces and provider resources of the two sources; the same person or provider has different ids in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fhir_gateway.sandbox.population.calendar import day
from fhir_gateway.sandbox.population.codes import QUALIFICATIONS, SPECIALTIES
from fhir_gateway.sandbox.population.columns import Coded, Column, Instants, Ints, Numbered, TextArray, words
from fhir_gateway.sandbox.population.directory import ACO, KINDS, PAYER, PRACTICE, Directory
from fhir_gateway.sandbox.population.identifiers import scatter
from fhir_gateway.sandbox.population.names import CITIES, FAMILIES, MEN, WOMEN
from fhir_gateway.sandbox.population.render import Raw, Sheet, Template, Text

#: Namespace of identifiers that the sandbox makes up.
NAMESPACE = "https://sandbox.fhir-gateway.example"
MEMBER_ID = f"{NAMESPACE}/payer/member-id"
UNIQUE_MEMBER_ID = f"{NAMESPACE}/payer/unique-member-id"
MEDICAL_RECORD = f"{NAMESPACE}/ehr/medical-record-number"
CLAIM_ID = f"{NAMESPACE}/payer/claim-id"
CLAIM_GROUP = f"{NAMESPACE}/payer/claim-group"
MBI = "http://hl7.org/fhir/sid/us-mbi"
NPI = "http://hl7.org/fhir/sid/us-npi"
TIN = "urn:oid:2.16.840.1.113883.4.4"
IDENTIFIER_TYPE = "http://terminology.hl7.org/CodeSystem/v2-0203"

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
C4BB = "http://hl7.org/fhir/us/carin-bb/StructureDefinition/C4BB-"
C4BB_CODES = "http://hl7.org/fhir/us/carin-bb/CodeSystem/"

_SPACE = 999_999_937
#: Events, claims and versions of one batch have numbers below this.
BATCH_SPACE = 10_000_000


def typed(code: str, system: str, value: Template) -> Template:
    """An Identifier with a type of HL7 table 0203."""
    return {"type": {"coding": [{"system": IDENTIFIER_TYPE, "code": code}]}, "system": system, "value": value}


def meta(profile: str) -> Template:
    """Meta with the column ``updated`` and one profile."""
    return {"lastUpdated": Text("updated"), "profile": [profile]}


@dataclass(frozen=True, slots=True)
class Ids:
    """How one source names things: ``prefix`` keeps the two sources apart."""

    prefix: str
    seed: int

    def patients(self, numbers: Ints) -> Numbered:
        """Patient ids of persons; -1 is absent."""
        key = self.seed * 2 + (1 if self.prefix == "p" else 0)
        scattered = np.where(numbers < 0, -1, scatter(np.maximum(numbers, 0), _SPACE, key))
        return Numbered(f"{self.prefix}pat", scattered, 9)

    def organizations(self, directory: Directory) -> TextArray:
        """Table of organization ids."""
        return words(f"{self.prefix}org{n + 1}" for n in range(len(directory.kind)))

    def practitioners(self, directory: Directory) -> TextArray:
        """Table of practitioner ids."""
        shift = 100 if self.prefix == "p" else 1
        return words(f"{self.prefix}prac{n + shift}" for n in range(len(directory.organization)))


EHR_PREFIX, PAYER_PREFIX = "e", "p"


def member_ids(numbers: Ints) -> Numbered:
    """Member ids of the health plan; -1 is absent."""
    return Numbered("W", np.where(numbers < 0, -1, scatter(np.maximum(numbers, 0), _SPACE, 77)), 9)


def updated(days: Ints, hour: int = 2) -> Instants:
    """``meta.lastUpdated`` on a day."""
    return Instants(days * 1440 + hour * 60)


def provider_sheets(ids: Ids, directory: Directory, year: int, *, us_core: bool) -> dict[str, list[Sheet]]:
    """Organization, Practitioner and PractitionerRole of a source (and Location, on the EHR)."""
    shown = directory.on_ehr | ~us_core
    orgs = np.flatnonzero(shown)
    people = np.flatnonzero(shown[directory.organization])
    number = np.arange(len(people))
    organization_ids, practitioner_ids = ids.organizations(directory), ids.practitioners(directory)
    employer = directory.organization[people]
    female = directory.female[people]
    given = words((*WOMEN, *MEN))
    common: dict[str, Column] = {
        "updated": updated(np.full(max(len(orgs), len(people)), day(year - 1))),
        "id": Coded(practitioner_ids, people),
        "npi": Numbered("", directory.practitioner_npi[people]),
        "family": Coded(words(FAMILIES), directory.family[people] % len(FAMILIES)),
        "given": Coded(
            given,
            np.where(female, directory.given[people] % len(WOMEN), len(WOMEN) + directory.given[people] % len(MEN)),
        ),
        "gender": Coded(words(("male", "female")), female.astype(np.int64)),
        "role": Numbered(f"{ids.prefix}role", number + 1),
        "organization": Coded(organization_ids, employer),
        "location": Coded(words(f"{ids.prefix}loc{n + 1}" for n in range(len(directory.kind))), employer),
        "specialty": Coded(QUALIFICATIONS.fragments, directory.specialty[people]),
    }
    practitioner = {
        "resourceType": "Practitioner",
        "id": Text("id"),
        "meta": meta(f"{US_CORE}practitioner" if us_core else f"{C4BB}Practitioner|2.0.0"),
        "identifier": [typed("NPI", NPI, Text("npi"))],
        "active": True,
        "name": [{"family": Text("family"), "given": [Text("given")]}],
        "gender": Text("gender"),
    }
    role: Template = {
        "resourceType": "PractitionerRole",
        "id": Text("role"),
        "meta": meta(f"{US_CORE}practitionerrole"),
        "active": True,
        "practitioner": {"reference": Text("id", "Practitioner/")},
        "organization": {"reference": Text("organization", "Organization/")},
        "specialty": [Raw("specialty")],
        "telecom": [{"system": "phone", "value": "1-555-010-0100", "use": "work"}],  # US Core pd-1: how to reach them
    }
    if us_core:
        role["location"] = [{"reference": Text("location", "Location/")}]
    sheets = {
        "Organization": [_organizations(ids, directory, orgs, year, us_core=us_core)],
        "Practitioner": [Sheet(practitioner, len(people), common)],
        "PractitionerRole": [Sheet(role, len(people), common)],
    }
    if us_core:
        sheets["Location"] = [_locations(ids, directory, orgs, year)]
    return sheets


def _organization_type(kind: Ints) -> Ints:
    """0 provider, 1 payer, 2 other."""
    return np.where(kind == PAYER, 1, np.where(kind == ACO, 2, 0))


def _organizations(ids: Ids, directory: Directory, orgs: Ints, year: int, *, us_core: bool) -> Sheet:
    system = "http://terminology.hl7.org/CodeSystem/organization-type"
    types = [("prov", "Healthcare Provider"), ("pay", "Payer"), ("other", "Other")]
    kind = _organization_type(directory.kind[orgs])
    template = {
        "resourceType": "Organization",
        "id": Text("id"),
        "meta": meta(f"{US_CORE}organization" if us_core else f"{C4BB}Organization|2.0.0"),
        "identifier": [typed("NPI", NPI, Text("npi")), typed("TAX", TIN, Text("tin"))],
        "active": True,
        "type": [{"coding": [{"system": system, "code": Text("code"), "display": Text("display")}]}],
        "name": Text("name"),
        "telecom": [{"system": "phone", "value": Text("phone")}],
        "address": [{"city": Text("city"), "state": "AZ", "postalCode": Text("zip"), "country": "US"}],
    }
    return Sheet(
        template,
        len(orgs),
        {
            "updated": updated(np.full(len(orgs), day(year - 1))),
            "id": Coded(ids.organizations(directory), orgs),
            "npi": Numbered("", directory.organization_npi[orgs]),
            "tin": Numbered("", directory.organization_tin[orgs], 9),
            "code": Coded(words(code for code, _ in types), kind),
            "display": Coded(words(display for _, display in types), kind),
            "name": Coded(words(directory.name), orgs),
            "phone": Numbered("602-555-", 100 + orgs % 9_900, 4),
            "city": Coded(words(city for city, _ in CITIES), orgs % len(CITIES)),
            "zip": Coded(words(code for _, code in CITIES), orgs % len(CITIES)),
        },
    )


def _locations(ids: Ids, directory: Directory, orgs: Ints, year: int) -> Sheet:
    template = {
        "resourceType": "Location",
        "id": Text("id"),
        "meta": meta(f"{US_CORE}location"),
        "status": "active",
        "name": Text("name"),
        "address": {"city": Text("city"), "state": "AZ", "postalCode": Text("zip"), "country": "US"},
        "managingOrganization": {"reference": Text("organization", "Organization/")},
    }
    return Sheet(
        template,
        len(orgs),
        {
            "updated": updated(np.full(len(orgs), day(year - 1))),
            "id": Numbered(f"{ids.prefix}loc", orgs + 1),
            "name": Coded(words(directory.name), orgs),
            "organization": Coded(ids.organizations(directory), orgs),
            "city": Coded(words(city for city, _ in CITIES), orgs % len(CITIES)),
            "zip": Coded(words(code for _, code in CITIES), orgs % len(CITIES)),
        },
    )


def roster(directory: Directory, seed: int) -> dict[str, object]:
    """Practices and other organizations as ``roster.json`` lists them, see ``docs/develop/sandbox.md``."""
    inside, outside = Ids(EHR_PREFIX, seed), Ids(PAYER_PREFIX, seed)
    tables = {
        "ehr": (inside.organizations(directory).to_pylist(), inside.practitioners(directory).to_pylist()),
        "payer": (outside.organizations(directory).to_pylist(), outside.practitioners(directory).to_pylist()),
    }

    def organization(n: int) -> dict[str, object]:
        on_ehr = bool(directory.on_ehr[n])
        sources = ("ehr", "payer") if on_ehr else ("payer",)
        return {
            "name": directory.name[n],
            "kind": KINDS[directory.kind[n]],
            "tin": f"{directory.organization_tin[n]:09}",
            "npi": str(directory.organization_npi[n]),
            "on_ehr": on_ehr,
            "references": {source: f"Organization/{tables[source][0][n]}" for source in sources},
            "settlement_organization": directory.name[directory.settles_with[n]],
            "providers": [
                {
                    "npi": str(directory.practitioner_npi[p]),
                    "specialty": SPECIALTIES[directory.specialty[p]].cms,
                    "taxonomy": SPECIALTIES[directory.specialty[p]].taxonomy,
                    "references": {source: f"Practitioner/{tables[source][1][p]}" for source in sources},
                }
                for p in np.flatnonzero(directory.organization == n).tolist()
            ],
        }

    everything = [organization(n) for n in range(len(directory.kind))]
    practices = [entry for entry in everything if entry["kind"] == KINDS[PRACTICE]]
    return {
        "practices": practices,
        "settlement_organizations": [entry for entry in everything if entry["kind"] == KINDS[ACO]],
        "others": [entry for entry in everything if entry["kind"] not in (KINDS[PRACTICE], KINDS[ACO])],
    }
