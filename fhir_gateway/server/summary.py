"""Subsets of a resource: ``_summary`` and ``_elements`` (R4 search.html 3.1.1.5.8 and 3.1.1.5.9).

A subset carries the tag ``SUBSETTED``, so that nobody stores it as the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from fhir_gateway.errors import InputError, Location
from fhir_gateway.r4.exact import parsed
from fhir_gateway.r4.models import summary_elements
from fhir_gateway.r4.spec import type_definition

_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
_ALWAYS = frozenset({"resourceType", "id", "meta", "implicitRules"})

#: Elements marked as summary in the R4 definitions. Left out although marked: ``Library.content`` (the whole ELM).
#: Kept although not marked: ``Group.extension``, because ATR requires the list's status and contract period there.
_SUMMARY: Mapping[str, frozenset[str]] = {
    name: frozenset(elements.split())
    for name, elements in {
        "AuditEvent": "type subtype action recorded outcome outcomeDesc purposeOfEvent",
        "CapabilityStatement": "url version name title status experimental date publisher contact useContext "
        "jurisdiction kind instantiates imports software implementation fhirVersion format patchFormat "
        "implementationGuide rest messaging document",
        "CodeSystem": "url identifier version name title status experimental date publisher contact useContext "
        "jurisdiction caseSensitive valueSet hierarchyMeaning compositional versionNeeded content supplements count "
        "filter property",
        "Coverage": "identifier status type policyHolder subscriber subscriberId beneficiary dependent relationship "
        "period payor order network",
        "Group": "extension identifier active type actual code name quantity managingEntity",
        "Library": "url identifier version name title status experimental type date publisher contact description "
        "useContext jurisdiction effectivePeriod",
        "Location": "identifier status operationalStatus name description mode type physicalType managingOrganization",
        "Measure": "url identifier version name title status experimental date publisher contact description "
        "useContext jurisdiction effectivePeriod disclaimer scoring compositeScoring type riskAdjustment "
        "rateAggregation rationale clinicalRecommendationStatement improvementNotation definition guidance",
        "MeasureReport": "identifier status type measure subject date reporter period improvementNotation",
        "OperationDefinition": "url version name title status kind experimental date publisher contact useContext "
        "jurisdiction affectsState code base resource system type instance",
        "Organization": "identifier active type name partOf",
        "Patient": "identifier active name telecom gender birthDate deceasedBoolean deceasedDateTime address "
        "managingOrganization link",
        "Practitioner": "identifier active name telecom address gender birthDate",
        "PractitionerRole": "identifier active period practitioner organization code specialty location telecom",
        "Provenance": "target recorded",
        "RelatedPerson": "identifier active patient relationship name telecom gender birthDate address",
        "SearchParameter": "url version name status experimental date publisher contact description useContext "
        "jurisdiction code base type",
        "StructureDefinition": "url identifier version name title status experimental date publisher contact "
        "useContext jurisdiction keyword fhirVersion kind abstract context contextInvariant type baseDefinition "
        "derivation",
        "Subscription": "status contact end reason criteria error channel",
        "ValueSet": "url identifier version name title status experimental date publisher contact useContext "
        "jurisdiction immutable",
    }.items()
}


class Subset:
    """Which part of a resource a request wants; the whole when ``whole`` is true."""

    def __init__(self, summary: str | None = None, elements: str | None = None) -> None:
        if summary not in (None, "", "true", "false", "text", "data", "count"):
            raise InputError("not a summary mode", location=Location(path="_summary", rule="value"))
        names = frozenset(name.strip().rpartition(".")[2] for name in (elements or "").split(",") if name.strip())
        if names and summary in ("true", "text", "data", "count"):
            raise InputError("_elements and _summary exclude each other", location=Location(path="_elements"))
        self.count_only = summary == "count"
        self._mode = summary if summary in ("true", "text", "data") else None
        self._names = names
        self.whole = self._mode is None and not names

    def apply(self, content: bytes) -> bytes:
        """The wanted part of a stored resource; the very same bytes when that is the whole."""
        if self.whole:
            return content
        resource: dict[str, Any] = parsed(content.decode())
        kept = {name: value for name, value in resource.items() if self._keeps(resource["resourceType"], name)}
        meta = dict(kept.get("meta", {}))
        meta["tag"] = [*meta.get("tag", []), _SUBSETTED]
        kept["meta"] = meta
        return orjson.dumps(kept)

    def _keeps(self, resource_type: str, name: str) -> bool:
        element = name.removeprefix("_")
        if element in _ALWAYS:
            return True
        if self._mode == "data":
            return element != "text"
        defined = type_definition(resource_type).elements.get(element)
        if defined is not None and defined.required:  # every subset is a resource of its type
            return True
        if self._mode == "text":
            return element == "text"
        if self._mode == "true":
            return element in _summary(resource_type)
        return element in self._names or (defined is not None and defined.choice in self._names)


def _summary(resource_type: str) -> frozenset[str]:
    found = _SUMMARY.get(resource_type)
    return summary_elements(resource_type) if found is None else found
