"""Search parameters of clinical and claims resources, which stay in the lake and are matched one by one.

They are about one patient each, and a search names whose it wants; nothing of them is in the index. Source: R4 search
parameter registry (https://hl7.org/fhir/R4/searchparameter-registry.html).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from fhir_gateway.db.search.elements import path
from fhir_gateway.db.search.parameters import SearchParameter
from fhir_gateway.db.search.values import Kind
from fhir_gateway.r4.spec import patient_element

#: By type: name, kind, and the paths where they are not the name; the parameters of the patient are added to each.
_SAID: Mapping[str, str] = {
    "AllergyIntolerance": "code:token clinical-status:token=clinicalStatus date:date=recordedDate",
    "CarePlan": "category:token status:token date:date=period",
    "CareTeam": "category:token status:token date:date=period",
    "Claim": "status:token use:token created:date provider:reference encounter:reference=item.encounter",
    "Communication": "category:token status:token sent:date encounter:reference",
    "Condition": "category:token code:token clinical-status:token=clinicalStatus encounter:reference "
    "verification-status:token=verificationStatus onset-date:date=onsetDateTime|onsetPeriod recorded-date:date="
    "recordedDate",
    "DeviceRequest": "code:token=codeCodeableConcept status:token intent:token authored-on:date=authoredOn "
    "encounter:reference",
    "DiagnosticReport": "category:token code:token status:token date:date=effectiveDateTime|effectivePeriod "
    "encounter:reference",
    "DocumentReference": "category:token type:token status:token date:date",
    "Encounter": "class:token status:token type:token date:date=period service-provider:reference=serviceProvider",
    "ExplanationOfBenefit": "status:token created:date provider:reference claim:reference coverage:reference="
    "insurance.coverage encounter:reference=item.encounter",
    "Goal": "category:token lifecycle-status:token=lifecycleStatus target-date:date=target.dueDate",
    "Immunization": "vaccine-code:token=vaccineCode status:token date:date=occurrenceDateTime",
    "MedicationAdministration": "code:token=medicationCodeableConcept status:token "
    "effective-time:date=effectiveDateTime|effectivePeriod",
    "MedicationDispense": "code:token=medicationCodeableConcept status:token whenhandedover:date=whenHandedOver",
    "MedicationRequest": "code:token=medicationCodeableConcept status:token intent:token authoredon:date=authoredOn "
    "encounter:reference",
    "MedicationStatement": "code:token=medicationCodeableConcept status:token "
    "effective:date=effectiveDateTime|effectivePeriod",
    "Observation": "category:token code:token status:token encounter:reference "
    "date:date=effectiveDateTime|effectivePeriod|effectiveInstant",
    "Procedure": "category:token code:token status:token date:date=performedDateTime|performedPeriod "
    "encounter:reference",
    "QuestionnaireResponse": "status:token authored:date encounter:reference",
    "ServiceRequest": "category:token code:token status:token intent:token authored:date=authoredOn "
    "encounter:reference",
    "Task": "code:token status:token intent:token authored-on:date=authoredOn encounter:reference",
}
#: Clinical and claims resources that are served out of the lake.
CLINICAL = frozenset(_SAID)
#: Types whose resources have one version for ever.
ONE_VERSION = frozenset({"AuditEvent"})
#: Types that are served and never in the index: no chain leads there.
ELSEWHERE = CLINICAL | ONE_VERSION
_CLINICAL = (
    "AllergyIntolerance CarePlan CareTeam Condition DeviceRequest DiagnosticReport DocumentReference Encounter Goal "
    "Immunization MedicationAdministration MedicationDispense MedicationRequest MedicationStatement Observation "
    "Procedure ServiceRequest"
)
#: Ids of the definitions that R4 shares between types, by name; other names are defined by ``[type]-[name]``.
_SHARED: Mapping[str, tuple[str, str]] = {
    "code": (
        "clinical-code",
        "AllergyIntolerance Condition DeviceRequest DiagnosticReport MedicationAdministration MedicationDispense "
        "MedicationRequest MedicationStatement Observation Procedure ServiceRequest",
    ),
    "date": (
        "clinical-date",
        "AllergyIntolerance CarePlan CareTeam DiagnosticReport Encounter Immunization Observation Procedure",
    ),
    "encounter": (
        "clinical-encounter",
        "DeviceRequest DiagnosticReport DocumentReference Observation Procedure ServiceRequest",
    ),
    "patient": (
        "clinical-patient",
        _CLINICAL,
    ),
    "identifier": (
        "clinical-identifier",
        _CLINICAL,
    ),
    "type": ("clinical-type", "AllergyIntolerance DocumentReference Encounter"),
}
_MEDICATIONS = "MedicationAdministration MedicationDispense MedicationRequest MedicationStatement".split()


def patient_parameters(resource_type: str) -> frozenset[str]:
    """Names of the parameters that say whose resources of a type are wanted."""
    element = patient_element(resource_type)
    return frozenset({"patient", "subject"} if element in ("subject", "for") else {"patient"})


@cache
def clinical_parameters(resource_type: str) -> tuple[SearchParameter, ...]:
    """Parameters of a clinical type; of any other there are none."""
    said = _SAID.get(resource_type)
    element = patient_element(resource_type) if said else None
    if said is None or element is None:
        return ()
    found = [SearchParameter("identifier", "token", path("identifier"))]
    found.append(SearchParameter("patient", "reference", path(element), target="Patient"))
    if "subject" in patient_parameters(resource_type):
        found.append(SearchParameter("subject", "reference", path(element)))
    for one in said.split():
        name, _, rest = one.partition(":")
        kind, _, paths = rest.partition("=")
        found.append(SearchParameter(name, _KINDS[kind], path(*(paths or name).split("|"))))
    return tuple(found)


_KINDS: Mapping[str, Kind] = MappingProxyType({"token": "token", "date": "date", "reference": "reference"})


def clinical_definition(resource_type: str, name: str) -> str | None:
    """Id of the definition that R4 shares between types; None where the type has one of its own."""
    if resource_type in _MEDICATIONS and name in ("status", "encounter"):
        return f"medications-{name}" if name == "status" or resource_type == "MedicationRequest" else None
    if resource_type == "MedicationRequest" and name == "date":
        return "medications-date"
    shared = _SHARED.get(name)
    return shared[0] if shared and resource_type in shared[1].split() else None
