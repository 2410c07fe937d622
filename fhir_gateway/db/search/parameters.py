"""The search parameters we index, as data: a name, a kind and where its elements are.

A new parameter is one line; a new resource type is one small entry. Sources: R4 search parameter registry
(https://hl7.org/fhir/R4/searchparameter-registry.html) and, for ``category`` and ``subject-organization``, the
Da Vinci Value-Based Performance Reporting guide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from fhir_gateway.db.search import values
from fhir_gateway.db.search.elements import Elements, extension, path, targets_of
from fhir_gateway.db.search.values import Entry, Kind

#: To be raised when the same definitions come to index something else.
EDITION = 1


_CATEGORY = "http://hl7.org/fhir/StructureDefinition/measurereport-category"
_SUBJECT_ORGANIZATION = "http://hl7.org/fhir/us/davinci-vbpr/StructureDefinition/organization-subject"


@dataclass(frozen=True, slots=True)
class SearchParameter:
    """A search parameter of one resource type."""

    name: str
    kind: Kind  # canonical: R4 calls it a reference too, by url and not by id
    elements: Elements
    system: str | None = None  # of the codes, when the element is a plain code
    target: str | None = None  # only references to this type count
    same_as: str | None = None  # another name of the same parameter: nothing is indexed twice

    @property
    def declared(self) -> str:
        """The type that R4 gives the parameter."""
        return "reference" if self.kind == "canonical" else self.kind

    def targets(self, resource_type: str) -> frozenset[str]:
        """Types that the references point to; empty when they may point to any type."""
        if self.target is not None:
            return frozenset({self.target})
        if self.kind == "canonical" and not self.elements.paths:
            return frozenset({"Library", "Measure"})  # relatedArtifact of measures: what they are made of
        return frozenset().union(*(targets_of(resource_type, one) for one in self.elements.paths))

    def entries(self, resource: Mapping[str, Any], base_url: str | None) -> Iterator[Entry]:
        """Yield the index entries of a resource; raises ValueError when an element is malformed."""
        for element in self.elements(resource):
            if self.kind == "token":
                yield from values.tokens(element, self.system)
            elif self.kind == "reference":
                for entry in values.references(element, base_url):
                    if self.target is None or entry[0] == self.target:
                        yield entry
            elif self.kind == "string":
                yield from values.strings(element)
            elif self.kind == "date":
                yield from values.dates(element)
            elif self.kind == "composite":
                yield from values.composites(element, base_url)
            else:
                yield from values.uris(element)


def _token(name: str, *paths: str, system: str | None = None) -> SearchParameter:
    return SearchParameter(name, "token", path(*paths or (name,)), system=system)


def _string(name: str, *paths: str) -> SearchParameter:
    return SearchParameter(name, "string", path(*paths or (name,)))


def _reference(name: str, *paths: str, target: str | None = None) -> SearchParameter:
    return SearchParameter(name, "reference", path(*paths or (name,)), target=target)


def _date(name: str, *paths: str) -> SearchParameter:
    return SearchParameter(name, "date", path(*paths or (name,)))


def _uri(name: str, *paths: str) -> SearchParameter:
    return SearchParameter(name, "uri", path(*paths or (name,)))


def _related(name: str) -> SearchParameter:
    """A parameter of canonicals in ``relatedArtifact`` of the type that has the parameter's name."""

    def elements(resource: Mapping[str, Any]) -> Iterator[Any]:
        for one in resource["relatedArtifact"]:
            if one.get("type") == name and "resource" in one:
                yield one["resource"]

    return SearchParameter(name, "canonical", Elements(frozenset({"relatedArtifact"}), elements))


_EVERY_TYPE = (
    _uri("_profile", "meta.profile"),
    _token("_tag", "meta.tag"),
    _token("_security", "meta.security"),
    _uri("_source", "meta.source"),
)

_PERSON_NAME = (
    _string("name"),
    _string("family", "name.family"),
    _string("given", "name.given"),
)

_CANONICAL = (
    _uri("url"),
    _token("version"),
    _string("name"),
    _string("title"),
    _token("status", system="http://hl7.org/fhir/publication-status"),
    _token("identifier"),
    _date("date"),
    _date("effective", "effectivePeriod"),
    _string("publisher"),
    _token("jurisdiction"),
    _token("topic"),
    _token("context", "useContext.valueCodeableConcept"),
    _token("context-type", "useContext.code"),
    *map(_related, ("composed-of", "depends-on", "derived-from", "predecessor", "successor")),
)

#: Of definitions (profiles, value sets and so on), which R4 defines once for all of them.
_DEFINITION = (
    _uri("url"),
    _token("version"),
    _string("name"),
    _string("title"),
    _token("status", system="http://hl7.org/fhir/publication-status"),
    _date("date"),
    _string("publisher"),
)

_ADDRESS = _string("address")  # US Core asks for it where a patient looks for a place

_CATEGORY_PARAMETER = SearchParameter("category", "token", extension(_CATEGORY, "valueCodeableConcept"))
_SUBJECT_PARAMETER = SearchParameter(
    "subject-organization",
    "reference",
    extension(_SUBJECT_ORGANIZATION, "valueReference", at="subject"),
    target="Organization",
)

_BY_TYPE: Mapping[str, tuple[SearchParameter, ...]] = {
    # Not indexed: rows of the audit trail (server.audit_events), which say the same in SQL of their own.
    "AuditEvent": (
        _token("action", system="http://hl7.org/fhir/audit-event-action"),
        _string("address", "agent.network.address"),
        _reference("agent", "agent.who"),
        _token("altid", "agent.altId"),
        _date("date", "recorded"),
        _reference("entity", "entity.what"),
        _token("outcome", system="http://hl7.org/fhir/audit-event-outcome"),
        _reference("patient", "entity.what", target="Patient"),
        _token("subtype"),
        _token("type"),
    ),
    "CapabilityStatement": (*_DEFINITION, _token("fhirversion", "fhirVersion"), _token("mode", "rest.mode")),
    "CommunicationRequest": (
        _token("identifier"),
        _token("category"),
        _token("status", system="http://hl7.org/fhir/request-status"),
        _token("priority", system="http://hl7.org/fhir/request-priority"),
        _reference("subject"),
        _reference("patient", "subject", target="Patient"),
        _date("authored", "authoredOn"),
        _date("occurrence", "occurrenceDateTime"),
        _reference("recipient"),
        _reference("sender"),
    ),
    "CodeSystem": (*_DEFINITION, _token("identifier"), _token("code", "concept.code"), _uri("system", "url")),
    "Coverage": (
        _token("identifier"),
        _reference("beneficiary"),
        _reference("patient", "beneficiary", target="Patient"),
        _reference("payor"),
        _reference("subscriber"),
        _reference("policy-holder", "policyHolder"),
        _string("dependent"),
        _token("class-type", "class.type"),
        _string("class-value", "class.value"),  # the plan identifier of an ATR Coverage
        _token("status", system="http://hl7.org/fhir/fm-status"),
        _token("type"),
    ),
    "Group": (
        _token("identifier"),
        _token("type", system="http://hl7.org/fhir/group-type"),
        _token("actual"),
        _token("code"),
        _reference("member", "member.entity"),
        _token("characteristic", "characteristic.code"),
        _token("value", "characteristic.valueCodeableConcept", "characteristic.valueBoolean"),
        SearchParameter("characteristic-value", "composite", path("characteristic")),
        _token("exclude", "characteristic.exclude"),
        _reference("characteristic-reference", "characteristic.valueReference"),  # ATR contracts; not in base R4
        _reference("managing-entity", "managingEntity"),
        _string("name"),  # not in base R4; US clients of ATR ask for it
    ),
    "Contract": (
        _token("identifier"),
        _uri("url"),
        _token("status", system="http://hl7.org/fhir/contract-status"),
        _reference("subject"),
    ),
    "Library": (*_CANONICAL, _token("type"), _token("content-type", "content.contentType")),
    "Location": (
        _token("identifier"),
        _string("name", "name", "alias"),
        _ADDRESS,
        _string("address-city", "address.city"),
        _string("address-state", "address.state"),
        _string("address-postalcode", "address.postalCode"),
        _token("status", system="http://hl7.org/fhir/location-status"),
        _token("type"),
        _reference("organization", "managingOrganization"),
        _reference("partof", "partOf"),
    ),
    "Measure": _CANONICAL,
    "MeasureReport": (
        SearchParameter("measure", "canonical", path("measure"), target="Measure"),
        _reference("subject"),
        _reference("patient", "subject", target="Patient"),
        _date("date"),
        _date("period"),
        _reference("reporter"),
        _token("status", system="http://hl7.org/fhir/measure-report-status"),
        _token("type", system="http://hl7.org/fhir/measure-report-type"),  # not in base R4
        _reference("evaluated-resource", "evaluatedResource"),
        _token("identifier"),
        _CATEGORY_PARAMETER,
        _SUBJECT_PARAMETER,
        # The guide's CapabilityStatement spells these three differently from its SearchParameters.
        SearchParameter("measurereport-category", "token", _CATEGORY_PARAMETER.elements, same_as="category"),
        SearchParameter(
            "measurereport-subject-organization",
            "reference",
            _SUBJECT_PARAMETER.elements,
            target="Organization",
            same_as="subject-organization",
        ),
        SearchParameter("evaluatedResource", "reference", path("evaluatedResource"), same_as="evaluated-resource"),
    ),
    "OperationDefinition": (
        *_DEFINITION,
        _token("code"),
        _token("kind", system="http://hl7.org/fhir/operation-kind"),
        _token("system"),
        _token("type"),
        _token("instance"),
    ),
    "Organization": (
        _token("identifier"),
        _string("name", "name", "alias"),
        _ADDRESS,
        _token("type"),
        _token("active"),
        _reference("partof", "partOf"),
    ),
    "Patient": (
        _token("identifier"),
        *_PERSON_NAME,
        _date("birthdate", "birthDate"),
        _date("death-date", "deceasedDateTime"),
        _token("gender", system="http://hl7.org/fhir/administrative-gender"),
        _token("active"),
        _reference("general-practitioner", "generalPractitioner"),
        _reference("organization", "managingOrganization"),
    ),
    "Practitioner": (_token("identifier"), *_PERSON_NAME, _token("active")),
    "PractitionerRole": (
        _token("identifier"),
        _reference("practitioner"),
        _reference("organization"),
        _reference("location"),
        _token("specialty"),
        _token("role", "code"),
        _token("active"),
    ),
    "Provenance": (
        _reference("target"),
        _reference("patient", "target", target="Patient"),
        _date("recorded"),
        _token("agent-type", "agent.type"),
    ),
    "RelatedPerson": (
        _token("identifier"),
        _string("name"),
        _reference("patient"),
        _token("relationship"),
        _token("active"),
    ),
    "RiskAssessment": (
        _token("identifier"),
        _reference("subject"),
        _reference("patient", "subject", target="Patient"),
        _date("date", "occurrenceDateTime"),
        _reference("encounter"),
        _token("method"),
        _token("risk", "prediction.qualitativeRisk"),
    ),
    "SearchParameter": (*_DEFINITION, _token("code"), _token("base"), _token("type")),
    "StructureDefinition": (
        *_DEFINITION,
        _uri("type"),
        SearchParameter("base", "canonical", path("baseDefinition")),
        _token("derivation"),
        _token("kind"),
        _token("abstract"),
    ),
    "ValueSet": (*_DEFINITION, _token("identifier"), _uri("reference", "compose.include.system")),
    "Subscription": (
        _token("status", system="http://hl7.org/fhir/subscription-status"),
        _string("criteria"),
        _token("type", "channel.type", system="http://hl7.org/fhir/subscription-channel-type"),
        _token("payload", "channel.payload"),
        _uri("url", "channel.endpoint"),
        _token("contact"),
    ),
}


def active_entries(resource: Mapping[str, Any]) -> Iterator[Any]:
    """Whom the active entries of a list are about, as references."""
    for entry in resource["member"]:
        if not entry.get("inactive"):
            yield entry.get("entity")


#: Indexed for ``db.audience``, not for searches: a name that no query can have.
_UNSEARCHED: Mapping[str, tuple[SearchParameter, ...]] = {
    "Group": (SearchParameter("-active-member", "reference", Elements(frozenset({"member"}), active_entries)),),
}


@cache
def search_parameters(resource_type: str) -> Mapping[str, SearchParameter]:
    """Return the indexed parameters of a type by name; types without an entry have those of every type.

    ``_id`` and ``_lastUpdated`` are answered from the resource's row and are not listed.
    """
    from fhir_gateway.db.search.clinical import clinical_parameters  # which is written in terms of this module

    own = _BY_TYPE.get(resource_type) or clinical_parameters(resource_type) or (_token("identifier"),)
    return MappingProxyType({one.name: one for one in (*own, *_EVERY_TYPE)})


@cache
def _indexed(resource_type: str) -> tuple[tuple[str, SearchParameter], ...]:
    parameters = (*search_parameters(resource_type).values(), *_UNSEARCHED.get(resource_type, ()))
    return tuple((f"{resource_type}.{one.name}", one) for one in parameters if one.same_as is None)


def index_entries(resource: Mapping[str, Any], base_url: str | None) -> Iterator[tuple[str, Entry]]:
    """Yield (``Type.parameter``, entry) for all parameters of a resource, without repetitions.

    A Reference that has an ``identifier`` also gives a token under ``Type.parameter:identifier``.
    """
    for name, parameter in _indexed(resource["resourceType"]):
        if parameter.elements.roots.isdisjoint(resource):  # most parameters of most resources: worth a look ahead
            continue
        seen: dict[Entry, None] = dict.fromkeys(parameter.entries(resource, base_url))
        for entry in seen:
            yield name, entry
        if parameter.kind == "reference":
            for element in parameter.elements(resource):
                if isinstance(element, dict) and isinstance(element.get("identifier"), dict):
                    for entry in values.tokens(element["identifier"]):
                        yield f"{name}:identifier", entry


@cache
def definitions_digest() -> str:
    """Changes with everything that decides what is indexed; :data:`EDITION` stands for what no data says."""
    told = [
        (kind, one.name, one.kind, one.elements.paths, sorted(one.elements.roots), one.system, one.target, one.same_as)
        for kind in sorted({*_BY_TYPE, *_UNSEARCHED, "Basic"})
        for one in (*search_parameters(kind).values(), *_UNSEARCHED.get(kind, ()))
    ]
    return hashlib.sha256(repr((EDITION, told)).encode()).hexdigest()
