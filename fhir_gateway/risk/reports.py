"""Coding gaps as RA resources: one MeasureReport for each member and model version, in a Bundle for each member."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from fhir_gateway.risk.models import CMS_HCC, CodingGaps, ConditionCategory, RiskModel

RA = "http://hl7.org/fhir/us/davinci-ra/"
_EXTENSION = f"{RA}StructureDefinition/"
_CATEGORY = "http://hl7.org/fhir/StructureDefinition/measurereport-category"
_CATEGORY_SYSTEM = "http://hl7.org/fhir/CodeSystem/measurereport-category"
_ICD_10_CM = "http://hl7.org/fhir/sid/icd-10-cm"


def report_id(gaps: CodingGaps) -> str:
    """Id of a report: the same member, model, period and moment have the same."""
    start, end = gaps.period
    text = f"{gaps.person} {gaps.model.canonical} {start} {end} {gaps.generated.isoformat()}"
    return f"ra-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def coding_gap_report(gaps: CodingGaps, reporter: Mapping[str, Any]) -> dict[str, Any]:
    """The ``ra-measurereport`` of one member; ``reporter`` is a Reference. Raises ResourceError (``gaps.check``)."""
    gaps.check()
    extension: list[dict[str, Any]] = [{"url": _CATEGORY, "valueCodeableConcept": _concept(_CATEGORY_SYSTEM, "ra")}]
    if gaps.deadline is not None:
        extension.append(_extension("ra-clinicalDataCollectionDeadline", valueDate=gaps.deadline.isoformat()))
    report: dict[str, Any] = {
        "resourceType": "MeasureReport",
        "id": report_id(gaps),
        "meta": {"profile": [f"{_EXTENSION}ra-measurereport"]},
        "extension": extension,
        "status": "complete",
        "type": "individual",
        "measure": gaps.model.canonical,
        "subject": {"reference": f"Patient/{gaps.person}"},
        "date": gaps.generated.isoformat(timespec="seconds"),
        "reporter": dict(reporter),
        "period": {"start": gaps.period[0].isoformat(), "end": gaps.period[1].isoformat()},
    }
    groups = [_group(number, one, gaps) for number, one in enumerate(gaps.categories, 1)]
    if groups:
        report["group"] = groups
    evidence: dict[str, list[str]] = {}
    for number, one in enumerate(gaps.categories, 1):
        for reference in one.evidence:
            evidence.setdefault(reference, []).append(_group_id(number))
    if evidence:
        report["evaluatedResource"] = [
            {"extension": [_extension("ra-groupReference", valueString=one) for one in fed], "reference": reference}
            for reference, fed in evidence.items()
        ]
    return report


def model_measure(model: RiskModel, title: str, published: date) -> dict[str, Any]:
    """The ``ra-model-measure`` that reports of a model refer to."""
    return {
        "resourceType": "Measure",
        "id": model.measure_id,
        "meta": {"profile": [f"{_EXTENSION}ra-model-measure"]},
        "url": model.url,
        "identifier": [{"system": model.identifier[0], "value": model.identifier[1]}],
        "version": model.version,
        "name": f"{model.identifier[1].replace('-', '')}{model.version}",
        "title": title,
        "status": "active",
        "date": published.isoformat(),
        "description": f"{title}: condition categories of the model, for coding gap reports.",
    }


def report_bundle(
    base_url: str,
    patient: Mapping[str, Any],
    reports: Sequence[Mapping[str, Any]],
    evidence: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The ``ra-measurereport-bundle`` of one member: the Patient is there even when nothing is reported of him."""
    resources = [patient, *reports, *evidence]
    return {
        "resourceType": "Bundle",
        "meta": {"profile": [f"{_EXTENSION}ra-measurereport-bundle"]},
        "type": "collection",
        "entry": [{"fullUrl": f"{base_url}/{one['resourceType']}/{one['id']}", "resource": one} for one in resources],
    }


def _group_id(number: int) -> str:
    return f"group-{number:03d}"


def _group(number: int, category: ConditionCategory, gaps: CodingGaps) -> dict[str, Any]:
    extension = [_coded("ra-ccType", "cc-type", category.cc_type)]
    extension += [
        _extension("ra-dxCode", valueCodeableConcept=_concept(_ICD_10_CM, code)) for code in category.diagnoses
    ]
    if category.evidence_status is not None:
        extension.append(_coded("ra-evidenceStatus", "evidence-status", category.evidence_status))
    if category.evidence_date is not None:
        extension.append(_extension("ra-evidenceStatusDate", valueDate=category.evidence_date.isoformat()))
    if category.hierarchical_status is not None:
        extension.append(_coded("ra-hierarchicalStatus", "hierarchical-status", category.hierarchical_status))
    coding = {
        "system": gaps.model.code_system,
        "version": gaps.model.version,
        "code": category.code,
        "display": category.display,
    }
    text = f"HCC {category.code}: {category.display}" if gaps.model.code_system == CMS_HCC else category.display
    return {"id": _group_id(number), "extension": extension, "code": {"coding": [coding], "text": text}}


def _coded(name: str, system: str, code: str) -> dict[str, Any]:
    return _extension(name, valueCodeableConcept=_concept(f"{RA}CodeSystem/{system}", code))


def _concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def _extension(name: str, **value: Any) -> dict[str, Any]:
    return {"url": _EXTENSION + name, **value}
