"""Every type that is exported, and where its rows come from. A type is one line; it may have several sources."""

from __future__ import annotations

from functools import partial

from fhir_gateway.db.search.clinical import CLINICAL
from fhir_gateway.jobs.exports import clinical, individual
from fhir_gateway.jobs.exports.models import Level, Source
from fhir_gateway.jobs.exports.stored import EVERYWHERE, SYSTEM, stored

SOURCES: tuple[Source, ...] = (
    stored("CommunicationRequest"),
    stored("Contract", SYSTEM),
    stored("Coverage"),
    stored("Group"),
    stored("Library", SYSTEM),
    stored("Location"),
    stored("Measure", SYSTEM),
    stored("MeasureReport"),
    Source("MeasureReport", EVERYWHERE, plan=individual.plan, later=individual.later),
    stored("Organization"),
    stored("Patient"),
    stored("Practitioner"),
    stored("PractitionerRole"),
    stored("Provenance"),
    stored("RelatedPerson"),
    stored("RiskAssessment"),
    *(Source(name, EVERYWHERE, plan=partial(clinical.plan, name), later=clinical.later) for name in sorted(CLINICAL)),
)
#: Served types that are not exported, and why.
NOT_EXPORTED = {
    "AuditEvent": "who looked at what is searched, and is kept apart from what they looked at",
    "Subscription": "a client's own, read and searched by it",
    "CapabilityStatement": "says what this server does, and holds no data",
    "CodeSystem": "definitions come with the software",
    "OperationDefinition": "definitions come with the software",
    "SearchParameter": "definitions come with the software",
    "StructureDefinition": "definitions come with the software",
    "ValueSet": "definitions come with the software",
}


def sources_of(resource_type: str, level: Level) -> list[Source]:
    """The sources of a type on a level."""
    return [one for one in SOURCES if one.type == resource_type and level in one.levels]


def types_of(level: Level) -> list[str]:
    """The types that are exported on a level, sorted."""
    return sorted({one.type for one in SOURCES if level in one.levels})
