"""DEQM gaps in care as resources: DetectedIssue, detailed GuidanceResponse, and the Composition over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fhir_gateway.measures.dialect import DIALECTS, Family
from fhir_gateway.measures.gap_reasons import Reason
from fhir_gateway.measures.module_definition import data_requirement
from fhir_gateway.measures.package import MeasurePackage

Resource = dict[str, Any]
_CRITERIA = "http://hl7.org/fhir/StructureDefinition/cqf-criteriaReference"
_CARE_GAP = {
    "coding": [
        {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "CAREGAP", "display": "Care Gaps"}
    ]
}
_REPORT = {"coding": [{"system": "http://loinc.org", "code": "96315-7", "display": "Gaps in care report"}]}


def detected_issue(
    identity: str,
    subject: str,
    status: str,
    report: str,
    group: str,
    guidance: str | None,
    implicated: Iterable[str],
    *,
    family: Family = "us",
) -> Resource:
    """The gap of one group: its status, the report that shows it, and the GuidanceResponse that says what is missing.

    ``implicated`` are references to the resources that came nearest.
    """
    dialect = DIALECTS[family]
    coding = {"system": dialect.gap_statuses, "code": status}
    criterion = {"url": _CRITERIA, "valueString": group}
    issue: Resource = {
        "resourceType": "DetectedIssue",
        "id": identity,
        "meta": {"profile": [dialect.gaps_issue]},
        "modifierExtension": [{"url": dialect.gap_status, "valueCodeableConcept": {"coding": [coding]}}],
        "status": "final",
        "code": _CARE_GAP,
        "patient": {"reference": subject},
    }
    if named := [{"reference": one} for one in dict.fromkeys(implicated)]:
        issue["implicated"] = named
    issue["evidence"] = [{"detail": [{"extension": [criterion], "reference": report}]}]
    if guidance is not None:
        issue["evidence"].append({"detail": [{"reference": guidance}]})
    return issue


def guidance_response(
    identity: str,
    package: MeasurePackage,
    subject: str,
    now: str,
    reasons: Sequence[Reason],
    served: Mapping[str, str],
    *,
    family: Family = "us",
) -> Resource:
    """What is missing: a reason for each criterion, the nearest evidence, and the data that would close the gap.

    ``served`` leads from ``Type/id`` of evidence to the reference it is served under.
    """
    dialect = DIALECTS[family]
    codes: list[Resource] = []
    needs: dict[str, Resource] = {}
    for one in reasons:
        about = f"{one.criterion.definition}: {one.criterion.text}" if one.criterion.text else one.criterion.definition
        code: Resource = {"coding": [{"system": dialect.reasons, "code": one.code}], "text": about}
        if one.evidence is not None and one.path is not None and one.evidence.reference in served:
            reference = {"url": "reference", "valueReference": {"reference": served[one.evidence.reference]}}
            path = {"url": "path", "valueString": f"{one.evidence.resource_type}.{one.path}"}
            code["extension"] = [{"url": dialect.reason_detail, "extension": [reference, path]}]
        codes.append(code)
        for need in one.needs:
            if need.resource_type != "Patient":
                needs.setdefault(str((need.resource_type, need.profile, need.code_filter)), data_requirement(need))
    missing = any(one.code != "Present" for one in reasons)
    found: Resource = {
        "resourceType": "GuidanceResponse",
        "id": identity,
        "meta": {"profile": [dialect.gaps_guidance]},
        "moduleCanonical": f"{package.url}|{package.version}",
        "status": "data-required" if missing else "success",
        "subject": {"reference": subject},
        "occurrenceDateTime": now,
        "reasonCode": codes,
    }
    if notes := list(dict.fromkeys(_nearest(one) for one in reasons if one.evidence is not None)):
        found["note"] = [{"text": note} for note in notes]
    return found | ({"dataRequirement": list(needs.values())} if needs else {})


def _nearest(reason: Reason) -> str:
    """The nearest evidence in words: what, when, with which value, and what it failed."""
    one = reason.evidence
    assert one is not None  # noqa: S101 - of reasons with evidence
    parts = [one.what or one.resource_type, *([one.start] if one.start else [])]
    parts += [f"value {one.value}"] if one.value is not None else []
    parts += [f"does not meet: {one.failed.text}"] if one.failed is not None and one.failed.text else []
    return f"nearest to {reason.criterion.definition}: {', '.join(parts)}"


def composition(
    identity: str,
    subject: str,
    now: str,
    author: Mapping[str, str],
    sections: Sequence[tuple[str, str, Sequence[str]]],
    *,
    family: Family = "us",
) -> Resource:
    """The document's Composition; a section is (title, reference of the report, references of its DetectedIssues)."""
    custodian = {"custodian": dict(author)} if author["reference"].startswith("Organization/") else {}
    return {
        "resourceType": "Composition",
        "id": identity,
        "meta": {"profile": [DIALECTS[family].gaps_composition]},
        "status": "final",
        "type": _REPORT,
        "subject": {"reference": subject},
        "date": now,
        "author": [dict(author)],
        "title": "Gaps in care report",
        **custodian,
        "section": [
            {"title": title, "focus": {"reference": report}, "entry": [{"reference": issue} for issue in issues]}
            for title, report, issues in sections
        ],
    }
