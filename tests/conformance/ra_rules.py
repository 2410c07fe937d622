"""Rules of Da Vinci Risk Adjustment on coding gap reports, as a checker that lists what is broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

RA = "http://hl7.org/fhir/us/davinci-ra/StructureDefinition/"
CATEGORY = "http://hl7.org/fhir/StructureDefinition/measurereport-category"


def problems(report: Mapping[str, Any], model_version: str) -> list[str]:
    """Broken rules of a report of one patient by one version of a model."""
    return [*_header(report), *_groups(report, model_version), *_links(report)]


def _values(node: Mapping[str, Any], name: str) -> list[Any]:
    url = name if "/" in name else RA + name
    found = (one for one in node.get("extension", ()) if one["url"] == url)
    return [value for one in found for key, value in one.items() if key.startswith("value")]


def _codes(node: Mapping[str, Any], name: str) -> list[str]:
    return [coding.get("code") for concept in _values(node, name) for coding in concept.get("coding", ())]


def _header(report: Mapping[str, Any]) -> Iterator[str]:
    if _codes(report, CATEGORY) != ["ra"]:
        yield "category is not ra"
    if report.get("type") not in ("individual", "data-collection"):
        yield "type is not individual or data-collection"
    if not str(report.get("subject", {}).get("reference", "")).startswith("Patient/"):
        yield "subject is no Patient"
    if any(len(report.get("period", {}).get(end, "")) < 10 for end in ("start", "end")):
        yield "period is not of days (ra-1)"
    yield from (f"{name} is missing" for name in ("date", "reporter", "measure", "status") if name not in report)


def _groups(report: Mapping[str, Any], version: str) -> Iterator[str]:
    groups = report.get("group", ())
    ids = [group.get("id") for group in groups]
    if None in ids or len(set(ids)) != len(ids):
        yield "group ids are not unique"
    for group in groups:
        kinds, statuses = _codes(group, "ra-ccType"), _codes(group, "ra-evidenceStatus")
        if len(kinds) != 1:
            yield f"group {group.get('id')}: no ccType"
        if kinds == ["net-new"] and not set(statuses) <= {"closed-gap", "pending"}:
            yield f"group {group.get('id')}: net-new is closed or pending"
        if any(coding.get("version") != version for coding in group.get("code", {}).get("coding", ())):
            yield f"group {group.get('id')}: the code is of another version of the model"
        for day in _values(group, "ra-evidenceStatusDate"):
            if day > report.get("date", "")[:10]:
                yield f"group {group.get('id')}: the status is younger than the report"


def _links(report: Mapping[str, Any]) -> Iterator[str]:
    ids = {group.get("id") for group in report.get("group", ())}
    for evidence in report.get("evaluatedResource", ()):
        named = _values(evidence, "ra-groupReference")
        if not named:
            yield "evidence belongs to no group"
        yield from (f"evidence of a group {one} that is not there" for one in named if one not in ids)
