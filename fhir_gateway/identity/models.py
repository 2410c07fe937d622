"""What identity matching knows and reports: the rules, pairs to review, and the history of persons."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal


def _national_systems() -> MappingProxyType[str, str]:
    return MappingProxyType(
        {
            "http://hl7.org/fhir/sid/us-mbi": "mbi",
            "http://terminology.hl7.org/NamingSystem/cmsMBI": "mbi",
            "urn:oid:2.16.840.1.113883.4.927": "mbi",
            "http://hl7.org/fhir/sid/us-medicare": "hicn",
            "http://hl7.org/fhir/sid/us-hicn": "hicn",
            "urn:oid:2.16.840.1.113883.4.572": "hicn",
            "http://hl7.org/fhir/sid/us-ssn": "ssn",
            "urn:oid:2.16.840.1.113883.4.1": "ssn",
        }
    )


@dataclass(frozen=True, slots=True)
class IdentityRules:
    """Which identifiers name one person.

    ``national_systems`` maps the spellings of a system to one name; their values are compared without punctuation.
    ``type_codes`` are identifier types (HL7 v2 table 0203 and CARIN) whose values are unique within their system. A
    subscriber number (``SN``) is not among them: a family shares it.
    ``max_per_source``: an identifier that more patients of one source share names nobody.
    """

    national_systems: MappingProxyType[str, str] = field(default_factory=_national_systems)
    type_codes: frozenset[str] = frozenset(
        {"MR", "MB", "MC", "MA", "SS", "DL", "PPN", "HC", "JHN", "NI", "NIIP", "PI", "PN", "PT", "um", "pat"}
    )
    placeholders: frozenset[str] = frozenset(
        {"UNKNOWN", "UNK", "NONE", "NULL", "NA", "NOTAPPLICABLE", "NOTKNOWN", "PENDING", "TEST", "TBD", "REFUSED"}
        | {"123456789", "078051120", "219099999"}  # SSNs of specimen cards, never issued to a person by SSA
    )
    max_per_source: int = 10


ReviewRule = Literal["birthDate", "gender", "chain", "shared-identifier", "linkage"]
ReviewStatus = Literal["open", "accepted", "rejected", "closed"]


@dataclass(frozen=True, slots=True)
class Review:
    """A link that was not made, for somebody to decide. ``digest`` is its id.

    ``birthDate`` and ``gender``: an identifier of ``system`` is shared by these two patients whose element contradicts.
    ``chain``: the link would have joined patients that contradict each other through others.
    ``shared-identifier``: ``patients`` patients of ``source`` share one identifier; no second patient is named.
    ``linkage``: the two are alike (``weight`` in bits, ``evidence`` by comparison), but not enough to link them.
    ``closed``: what gave rise to it is no longer so.
    """

    digest: str
    rule: ReviewRule
    system: str
    source: str
    patient_id: str | None
    other_source: str | None
    other_patient_id: str | None
    patients: int
    noticed_at: str
    status: ReviewStatus = "open"
    weight: float | None = None
    evidence: str | None = None
    decided_by: str | None = None
    decided_at: str | None = None


@dataclass(frozen=True, slots=True)
class PersonChange:
    """A change to persons that had been handed out.

    ``merge``: ``other`` turned out to be ``person`` and is no longer used. ``split``: patients of ``person`` turned out
    to be ``other``. ``reason`` names identifier systems, a rule, or what somebody gave as reason; ``by`` is who
    decided, None when a rule did; ``evidence`` names what agreed and how well. No values of patients are in it.
    """

    kind: Literal["merge", "split"]
    person: str
    other: str
    reason: str
    changed_at: str
    by: str | None = None
    evidence: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody decided about two patients (source, patient id); ``revoked_at`` None: it holds.

    One ``act`` may be about several pairs; it is revoked as a whole.
    """

    act: int
    first: tuple[str, str]
    second: tuple[str, str]
    verdict: Literal["same", "different"]
    decided_by: str
    reason: str
    review: str | None
    decided_at: str
    revoked_by: str | None
    revoked_reason: str | None
    revoked_at: str | None
