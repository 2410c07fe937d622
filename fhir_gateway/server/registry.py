"""What the FHIR face serves: types with their profiles, and operations; routes, metadata and OpenAPI read it here.

A new type is one line here (and its search parameters in :mod:`fhir_gateway.db.search.parameters`); a new operation is
one line and its module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fhir_gateway.db.search.parameters import search_parameters

ATR = "http://hl7.org/fhir/us/davinci-atr/StructureDefinition/"
DEQM = "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/"
VBPR = "http://hl7.org/fhir/us/davinci-vbpr/StructureDefinition/"

_OURS = "https://fhir-gateway.example/fhir/SearchParameter/"  # defined in profiles/
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


def definition(resource_type: str, name: str) -> str:
    """Canonical of a search parameter's definition."""
    own = _DEFINITIONS.get((resource_type, name))
    if own:
        return own
    if name.startswith("_"):
        return f"http://hl7.org/fhir/SearchParameter/Resource-{name[1:]}"
    return "http://hl7.org/fhir/SearchParameter/" + _SHARED.get((resource_type, name), f"{resource_type}-{name}")


#: Parameters that shape a result rather than select it (R4 search.html 3.1.1.5).
RESULT_PARAMETERS = ("_count", "_elements", "_format", "_pretty", "_sort", "_summary", "_total")


@dataclass(frozen=True, slots=True)
class Operation:
    """A FHIR operation: its code, the canonical of its definition, and its parameters."""

    code: str
    definition: str
    parameters: tuple[tuple[str, str], ...]  # name, description
    documentation: str


@dataclass(frozen=True, slots=True)
class ServedType:
    """A resource type that clients may read and search."""

    name: str
    documentation: str
    profiles: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()

    def parameters(self) -> Iterator[tuple[str, str]]:
        """Search parameters as (name, kind), each once under its main name, sorted by name."""
        found = {"_id": "token", "_lastUpdated": "date"}
        for parameter in search_parameters(self.name).values():
            if parameter.same_as is None:
                found[parameter.name] = parameter.kind
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

_TYPES = (
    ServedType("Coverage", "Coverage of members, as pulled, with the person as beneficiary."),
    ServedType("Group", "Attribution lists: one ATR Group for each contract.", (ATR + "atr-group",)),
    ServedType("Library", "Logic of the measures: CQL with its compiled ELM."),
    ServedType(
        "Measure", "Measures that can be evaluated, and contracts.", (VBPR + "vbp-measure",), (EVALUATE_MEASURE,)
    ),
    ServedType(
        "MeasureReport",
        "Results: individual and summary reports of measures, and settlements as performance reports.",
        (
            DEQM + "indv-measurereport-deqm",
            DEQM + "summary-measurereport-deqm",
            VBPR + "vbp-performance-measurereport",
            VBPR + "vbp-quality-measurereport",
        ),
    ),
    ServedType("Organization", "Payers and provider organizations."),
    ServedType("Patient", "Persons: one for all Patient resources that describe the same human."),
    ServedType("Practitioner", "Practitioners that members are attributed to."),
    ServedType("PractitionerRole", "Roles of practitioners in organizations."),
)

SERVED: Mapping[str, ServedType] = MappingProxyType({served.name: served for served in _TYPES})
