"""What the FHIR face serves: types with their profiles, and operations; routes, metadata and OpenAPI read it here.

A new type is one line here (and its search parameters in :mod:`fhir_gateway.db.search.parameters`); a new operation is
one line and its module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fhir_gateway.db.search.clinical import CLINICAL, clinical_definition
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.server.operation_definitions import (
    ATTRIBUTION_OPERATIONS,
    CHECK_CLAIMS,
    DENIALS,
    PAYMENT_ROWS,
    RA_EVALUATE_MEASURE,
    RA_REPORT,
    STRATIFY,
    SUBMIT_REMARK_DATA,
    SUBSCRIPTION_EVENTS,
    SUBSCRIPTION_STATUS,
    SUBSCRIPTIONS,
)
from fhir_gateway.server.operation_definitions import Operation as Operation

ATR = "http://hl7.org/fhir/us/davinci-atr/StructureDefinition/"
DEQM = "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/"
VBPR = "http://hl7.org/fhir/us/davinci-vbpr/StructureDefinition/"

_BASE = "https://fhir-gateway.example/fhir/"  # what lies below it is defined in profiles/
_OURS = _BASE + "SearchParameter/"
#: Definitions of parameters that R4 does not have; R4's own are named by their rule.
_DEFINITIONS: Mapping[tuple[str, str], str] = {
    ("Group", "characteristic-reference"): _OURS + "group-characteristic-reference",
    ("Group", "name"): _OURS + "group-name",
    ("MeasureReport", "category"): "http://hl7.org/fhir/us/davinci-vbpr/SearchParameter/measurereport-category",
    (
        "MeasureReport",
        "subject-organization",
    ): "http://hl7.org/fhir/us/davinci-vbpr/SearchParameter/measurereport-subject-organization",
    ("MeasureReport", "type"): _OURS + "measurereport-type",
}
#: R4 defines these once for several types, under another id than ``[type]-[name]``.
_SHARED: Mapping[tuple[str, str], str] = {
    ("Patient", "birthdate"): "individual-birthdate",
    ("Patient", "family"): "individual-family",
    ("Patient", "gender"): "individual-gender",
    ("Patient", "given"): "individual-given",
    ("Practitioner", "family"): "individual-family",
    ("Practitioner", "given"): "individual-given",
}


#: Types of definitions, all of them our own; R4 defines these parameters once for all of them.
DEFINITIONS = frozenset(
    "CapabilityStatement CodeSystem OperationDefinition SearchParameter StructureDefinition ValueSet".split()
)
_CONFORMANCE = frozenset({"date", "identifier", "name", "publisher", "status", "title", "url", "version"})


def definition(resource_type: str, name: str) -> str:
    """Canonical of a search parameter's definition."""
    own = _DEFINITIONS.get((resource_type, name))
    if own:
        return own
    if resource_type in DEFINITIONS and name in _CONFORMANCE:
        return f"http://hl7.org/fhir/SearchParameter/conformance-{name}"
    if name.startswith("_"):
        return f"http://hl7.org/fhir/SearchParameter/Resource-{name[1:]}"
    shared = _SHARED.get((resource_type, name)) or clinical_definition(resource_type, name)
    return "http://hl7.org/fhir/SearchParameter/" + (shared or f"{resource_type}-{name}")


#: Parameters that shape a result rather than select it (R4 search.html 3.1.1.5).
RESULT_PARAMETERS = ("_count", "_elements", "_format", "_pretty", "_sort", "_summary", "_total")


@dataclass(frozen=True, slots=True)
class ServedType:
    """A resource type that clients may read and search."""

    name: str
    documentation: str
    profiles: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()
    writes: frozenset[str] = frozenset()  # create, update, patch, delete: of what clients wrote themselves
    own_writes: frozenset[str] = frozenset()  # the same through routes of a module of the type's own; not in Bundles

    def parameters(self) -> Iterator[tuple[str, str]]:
        """Search parameters as (name, kind), each once under its main name, sorted by name."""
        found = {"_id": "token", "_lastUpdated": "date"}
        for parameter in search_parameters(self.name).values():
            if parameter.same_as is None:
                found[parameter.name] = parameter.declared
        return iter(sorted(found.items()))


EVALUATE_MEASURE = Operation(
    "evaluate-measure",
    "http://hl7.org/fhir/OperationDefinition/Measure-evaluate-measure",
    (
        ("measure", "canonical (url or url|version) or id of a Measure; on the type level only"),
        ("periodStart", "first day, month or year of the measurement period"),
        ("periodEnd", "last day, month or year of the measurement period"),
        ("reportType", "subject, subject-list or population"),
        ("subject", "Patient/id or Group/id; everyone without it"),
        ("practitioner", "only members whose attribution list entry names this practitioner"),
    ),
    "Evaluates a measure now: for one member (individual report), for the members of a Group, or for everyone "
    "(summary report). Runs while the client waits.",
)

_PERIOD = (
    ("periodStart", "first day, month or year of the measurement period"),
    ("periodEnd", "last day, month or year of the measurement period"),
)
_MEASURES = (
    ("measureId", "id of a Measure; repeatable; on the type level only, like the other names of measures"),
    ("measureIdentifier", "business identifier of a Measure, value or system|value; repeatable"),
    ("measureUrl", "canonical of a Measure, url or url|version; repeatable"),
    ("measure", "canonical or id of a Measure; repeatable"),
)
_WHOM = (
    ("subject", "Patient/id, Group/id, or a provider, whose patients are meant; everyone without it"),
    ("subjectGroup", "a Group resource of Patients, in a Parameters body"),
)
_UV = (
    ("provider", "UV: who reports; without a subject its patients are meant"),
    ("providerResource", "UV: who reports, as a resource in a Parameters body"),
    ("location", "UV: reference to a Location, noted in the reports; repeatable"),
)
_PROGRAM = (
    ("programIdentifier", "identifier of a contract, or a program that Measures name: its measures"),
    ("programUrl", "url of a contract: its measures"),
)
EVALUATE = Operation(
    "evaluate",
    "http://hl7.org/fhir/us/davinci-deqm/OperationDefinition/evaluate",
    (
        *_PERIOD,
        *_MEASURES,
        *_PROGRAM,
        ("reportType", "subject, subject-list or population; UV: individual, subject-list or summary"),
        *_WHOM,
        ("practitioner", "only patients whose attribution list entry names this practitioner"),
        ("reporter", "reference to who reports"),
        *_UV,
    ),
    "Evaluates measures now (DEQM US 5.0.0 and UV 1.0.0): a Bundle for each subject with its individual reports and "
    "the resources they are about, or one Bundle of the reports over all of them.",
    "Parameters",
    also=("http://hl7.org/fhir/uv/deqm/OperationDefinition/evaluate",),
)
CARE_GAPS = Operation(
    "care-gaps",
    "http://hl7.org/fhir/us/davinci-deqm/OperationDefinition/care-gaps",
    (
        *_PERIOD,
        *_MEASURES,
        *_PROGRAM,
        ("program", "as programIdentifier (DEQM 3)"),
        ("topic", "code or system|code of Measure.topic; repeatable"),
        ("status", "open-gap, closed-gap, prospective-gap, not-applicable; repeatable"),
        *_WHOM,
        ("practitioner", "patients of this practitioner"),
        ("organization", "patients of this organization, which reports"),
        ("organizationResource", "an Organization resource that reports, in a Parameters body"),
        ("isDocument", "false for Bundles without a Composition"),
        *_UV,
    ),
    "Gaps in care (DEQM US 5.0.0, UV 1.0.0, and the parameters of 3.0.0): a Bundle for each subject that has one of "
    "the statuses, with its reports, a DetectedIssue for each group, and of open gaps the criteria that are not met.",
    "Parameters",
    also=("http://hl7.org/fhir/uv/deqm/OperationDefinition/care-gaps",),
)
COLLECT_DATA = Operation(
    "collect-data",
    "http://hl7.org/fhir/us/davinci-deqm/OperationDefinition/collect-data",
    (
        *_PERIOD,
        *_MEASURES,
        *_WHOM,
        ("practitioner", "only patients whose attribution list entry names this practitioner"),
        ("organization", "who reports; without a subject its patients are meant"),
        ("organizationResource", "an Organization resource that reports, in a Parameters body"),
        *_UV,
    ),
    "The data of interest of measures: a Bundle for each subject with a data exchange report for each measure and the "
    "resources that the measures' data requirements select.",
    "Parameters",
    also=("http://hl7.org/fhir/uv/deqm/OperationDefinition/collect-data",),
    update_types=("snapshot",),
)
SUBMIT_DATA = Operation(
    "submit-data",
    "http://hl7.org/fhir/us/davinci-deqm/OperationDefinition/submit-data",
    (
        ("bundle", "a transaction or batch Bundle with data exchange reports and their data; repeatable"),
        ("measureReport", "the data exchange report (DEQM 3)"),
        ("resource", "a resource of its data (DEQM 3); repeatable"),
    ),
    "Takes in data exchange reports and their data as $import does; answers with a response Bundle for each Bundle.",
    "Parameters",
    update_types=("incremental", "snapshot"),
)
DATA_REQUIREMENTS = Operation(
    "data-requirements",
    "http://hl7.org/fhir/OperationDefinition/Measure-data-requirements",
    (*_PERIOD, *_MEASURES),
    "What a measure needs: a module definition with its data requirements, parameters and what it depends on, computed "
    "from its compiled logic.",
    "Library",
)
MEASURE_OPERATIONS = (EVALUATE_MEASURE, EVALUATE, CARE_GAPS, COLLECT_DATA, SUBMIT_DATA, DATA_REQUIREMENTS)

_BULK = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/"
_EXPORTED = (
    ("_outputFormat", "application/fhir+ndjson, application/ndjson or ndjson"),
    ("_since", "instant: only what changed after it"),
    ("_until", "instant: only what changed before it"),
    ("_type", "types by comma; without it all that the token covers"),
    ("_typeFilter", "a search such as Patient?gender=female; repeated for a type they are alternatives"),
)
_BULK_EXPORTED = (
    *_EXPORTED,
    ("_elements", "root elements by comma, such as id or Patient.name; required ones are always there"),
    ("allowPartialManifests", "accepted; manifests are whole"),
    ("includeAssociatedData", "LatestProvenanceResources or RelevantProvenanceResources: Provenance too"),
    ("organizeOutputBy", "Patient: files of blocks, one for each patient"),
)
_PATIENTS = ("patient", "reference to a patient, repeatable; in the body of a POST")
EXPORT = Operation(
    "export", _BULK + "export", _BULK_EXPORTED, "Everything that the token covers, as files of NDJSON.", "Manifest"
)
PATIENT_EXPORT = Operation(
    "export",
    _BULK + "patient-export",
    (*_BULK_EXPORTED, _PATIENTS),
    "Patients, what is about them, and who cares for them and pays, as files of NDJSON.",
    "Manifest",
)
GROUP_EXPORT = Operation(
    "export",
    _BULK + "group-export",
    (*_BULK_EXPORTED, _PATIENTS),
    "The active members of a list, what is about them, and whom the list leads to, as files of NDJSON. With _since, of "
    "members who joined later only what changed after it.",
    "Manifest",
)
DAVINCI_DATA_EXPORT = Operation(
    "davinci-data-export",
    "http://hl7.org/fhir/us/davinci-atr/OperationDefinition/davinci-data-export",
    (
        (
            "exportType",
            "hl7.fhir.us.davinci-atr (default), or hl7.fhir.us.davinci-pdex#provider-delta, -download, -snapshot",
        ),
        ("patient", "reference to a member, repeatable; others are ignored and named in the error file"),
        *_EXPORTED[1:4],
        ("_typeFilter", "searches by comma, such as Patient?gender=female"),
        ("resourceTypes", "as _type, spelled as in the guide's examples"),
    ),
    "A list with its members, their coverage and the providers and payers that it leads to, as files of NDJSON.",
    "Manifest",
)
EVERYTHING = Operation(
    "everything",
    "http://hl7.org/fhir/OperationDefinition/Patient-everything",
    (("_type", "types by comma"), ("_since", "instant: only what changed after it")),
    "What is served about a patient, or about all of them while they are few, in one searchset.",
    "Bundle",
)
VALIDATE = Operation(
    "validate",
    "http://hl7.org/fhir/OperationDefinition/Resource-validate",
    (("mode", "create, update or delete: whether that would be accepted"), ("profile", "canonical; repeatable")),
    "Whether a resource is valid by R4, by the profiles it declares and by those asked for; what could not be checked "
    "is told as information.",
    "OperationOutcome",
)
IMPORT = Operation(
    "import",
    _BASE + "OperationDefinition/import",
    (),
    "Takes in NDJSON or a Bundle of what a sender knows.",
    "Parameters",
)
#: Operations of the whole system, and those of every type.
SYSTEM_OPERATIONS = (EXPORT, IMPORT)
TYPE_OPERATIONS = (VALIDATE,)


#: What clients may do to types that they write.
WRITES = frozenset({"create", "update", "patch", "delete"})


def _sent(name: str, documentation: str, operations: tuple[Operation, ...] = ()) -> ServedType:
    """A type that sources send, clients that write it among them."""
    how = "Clients write as senders do: each is a source of its own and changes what it wrote itself."
    return ServedType(name, f"{documentation} {how}", operations=operations, writes=WRITES)


_TYPES = (
    ServedType(
        "AuditEvent",
        "Accesses: who asked for what, when, why, how it ended, and whose data was answered. Needs a scope that names "
        "the type; clients that do not see everybody's data see their own accesses.",
    ),
    ServedType(
        "CommunicationRequest",
        "Outreach: whom to call for what; alerts of admissions, emergency visits and gaps. Open ones are active.",
    ),
    ServedType(
        "Contract", "Contracts for people and contract systems; the Measure of the same id says what they pay by."
    ),
    _sent("Coverage", "Coverage of members, as pulled, with the person as beneficiary."),
    ServedType(
        "Group",
        "Attribution lists: one ATR Group for each contract. Clients may keep lists of their own, which open nothing.",
        (ATR + "atr-group",),
        (*ATTRIBUTION_OPERATIONS, DAVINCI_DATA_EXPORT, GROUP_EXPORT),
        writes=WRITES,
    ),
    ServedType("Library", "Logic of the measures: CQL with its compiled ELM."),
    ServedType(
        "Measure",
        "Measures that can be evaluated, and contracts.",
        (VBPR + "vbp-measure",),
        (*MEASURE_OPERATIONS, RA_EVALUATE_MEASURE, SUBMIT_REMARK_DATA, STRATIFY),
    ),
    ServedType(
        "MeasureReport",
        "Results: individual and summary reports of measures, and settlements as performance reports. Individual "
        "reports are rendered when asked for and have no part in the history of the type. Clients may send reports of "
        "their own, and change and delete those; to the gateway's own individual reports they may add remarks.",
        (
            DEQM + "indv-measurereport-deqm",
            DEQM + "summary-measurereport-deqm",
            VBPR + "vbp-performance-measurereport",
            VBPR + "vbp-quality-measurereport",
            _BASE + "StructureDefinition/recomputable-measurereport",
        ),
        (RA_REPORT, PAYMENT_ROWS),
        writes=WRITES,
    ),
    _sent("Location", "Places of care."),
    _sent("Organization", "Payers and provider organizations."),
    ServedType(
        "Patient",
        "Persons: one for all Patient resources of the same human; what a client writes becomes part of one.",
        (),
        (PATIENT_EXPORT, EVERYTHING),
        writes=WRITES,
    ),
    _sent("Practitioner", "Practitioners that members are attributed to."),
    _sent("PractitionerRole", "Roles of practitioners in organizations."),
    ServedType("Provenance", "Decisions about attribution lists: who changed them, when and why."),
    _sent("RelatedPerson", "Persons who are related to members, such as subscribers."),
    ServedType(
        "RiskAssessment",
        "Published risk scores and ranks of work lists; a partial score is preliminary. Nothing is paid by them.",
    ),
    ServedType(
        "Subscription",
        "Who is told of new versions of lists and reports: topic-based subscriptions as backported to R4, by "
        "rest-hook. Each client sees its own.",
        (SUBSCRIPTIONS + "StructureDefinition/backport-subscription", ATR + "atr-list-change-subscription"),
        (SUBSCRIPTION_STATUS, SUBSCRIPTION_EVENTS),
        own_writes=frozenset({"create", "update", "delete"}),
    ),
    *(
        _sent(
            name,
            "As its source sent it, about the person as served. A search names whose: patient, or _id of some.",
            {"Claim": (CHECK_CLAIMS,), "ExplanationOfBenefit": (DENIALS,)}.get(name, ()),
        )
        for name in sorted(CLINICAL)
    ),
    ServedType("CapabilityStatement", "What this server does, as /metadata says it."),
    *(
        ServedType(name, f"{what} that this server defines; those of guides are named by canonical.")
        for name, what in (
            ("CodeSystem", "Code systems"),
            ("OperationDefinition", "Operations"),
            ("SearchParameter", "Search parameters"),
            ("StructureDefinition", "Profiles and extensions"),
            ("ValueSet", "Value sets"),
        )
    ),
)

SERVED: Mapping[str, ServedType] = MappingProxyType({served.name: served for served in _TYPES})
