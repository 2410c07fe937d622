"""Rules of VBPR 1.1.0 that profiles and text put on our resources, as a checker that lists what is broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

VBPR = "http://hl7.org/fhir/us/davinci-vbpr/StructureDefinition/"
CATEGORY = "http://hl7.org/fhir/StructureDefinition/measurereport-category"
#: Payment streams that may carry an incentive: quality incentive payments and their children.
QUALITY_STREAMS = {"qip", "aha", "cdm", "p4r", "p4p", "sip", "sst", "ubip"}


def extensions(element: Mapping[str, Any], url: str) -> list[dict[str, Any]]:
    return [e for e in element.get("extension", ()) if e["url"] in (url, VBPR + url)]


def check_performance_report(
    report: Mapping[str, Any],
    contract: Mapping[str, Any],
    quality_reports: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """Broken rules of a performance report; ``quality_reports`` by reference."""
    return [
        *_header(report, contract),
        *_groups(report.get("group", ())),
        *_links(report, contract, quality_reports or {}),
    ]


def _header(report: Mapping[str, Any], contract: Mapping[str, Any]) -> Iterable[str]:
    categories = [
        coding.get("code")
        for e in extensions(report, CATEGORY)
        for coding in e.get("valueCodeableConcept", {}).get("coding", ())
    ]
    if categories != ["vbp"]:
        yield "category is not vbp"
    if report.get("type") != "summary":
        yield "type is not summary"
    if report.get("status") not in ("complete", "pending", "error"):
        yield "status"
    subject = extensions(report.get("subject", {}), "organization-subject")
    if len(subject) != 1 or "valueReference" not in subject[0]:
        yield "subject has no organization-subject"
    yield from (f"{name} is missing" for name in ("reporter", "date", "period", "measure") if not report.get(name))
    if "improvementNotation" in report:
        yield "improvementNotation is forbidden"
    if report.get("measure") != f"{contract['url']}|{contract['version']}":
        yield "measure is not the contract's versioned canonical"


def _groups(groups: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    names = Counter(group.get("id") for group in groups)
    yield from (f"group id {name} is used {count} times" for name, count in names.items() if count > 1)
    for group in groups:
        where = f"group {group.get('id')}"
        if not group.get("code", {}).get("coding"):
            yield f"{where}: no code"
        if "population" in group:
            yield f"{where}: population is not used"
        for stream in extensions(group, "payment-stream"):
            parts = {e["url"]: e for e in stream.get("extension", ())}
            if "type" not in parts:
                yield f"{where}: payment stream without type"
            elif "incentive" in parts:
                code = parts["type"]["valueCodeableConcept"]["coding"][0]["code"]
                if code not in QUALITY_STREAMS:
                    yield f"{where}: incentive outside the quality streams"
        yield from (f"{where}: {fault}" for fault in _score(group))
        for stratifier in group.get("stratifier", ()):
            has_components = any(stratum.get("component") for stratum in stratifier.get("stratum", ()))
            if has_components == bool(stratifier.get("code")):
                yield f"{where}: stratifier.code and stratum.component exclude each other"


def _score(group: Mapping[str, Any]) -> Iterable[str]:
    score = group.get("measureScore")
    if score is None:
        return
    alternates = extensions(score, "alternate-measurescore")
    if ("value" in score) == bool(alternates) or len(alternates) > 1:
        yield "measureScore has a value and an alternate, or neither"
    if "value" in score and not score.get("code"):
        yield "measureScore has no unit"
    for alternate in alternates:
        money = alternate.get("valueMoney")
        if money is not None and len(money.get("currency", "")) != 3:
            yield "money without currency"


def _links(
    report: Mapping[str, Any], contract: Mapping[str, Any], quality_reports: Mapping[str, Mapping[str, Any]]
) -> Iterable[str]:
    names = {group.get("id") for group in report.get("group", ())}
    components = {a["resource"] for a in contract.get("relatedArtifact", ()) if a["type"] == "composed-of"}
    for evaluated in report.get("evaluatedResource", ()):
        reference = evaluated["reference"]
        for link in extensions(evaluated, "group-reference"):
            if link.get("valueString") not in names:
                yield f"{reference}: group-reference to no group"
        quality = quality_reports.get(reference)
        if quality is None:
            continue
        if quality.get("type") != "summary":
            yield f"{reference}: type is not summary"
        if "|" not in quality.get("measure", "") or quality["measure"] not in components:
            yield f"{reference}: measure is no component of the contract"
        if quality.get("period") != report.get("period"):
            yield f"{reference}: another period"
        for score in extensions(quality, "score"):
            if "valueDecimal" not in score:
                yield f"{reference}: score is no decimal"


def check_contract(measure: Mapping[str, Any]) -> list[str]:
    """Broken rules of a contract Measure."""
    needed = ("url", "version", "name", "status", "experimental", "publisher", "description")
    found = [f"{name} is missing" for name in needed if name not in measure]
    found += [
        f"{name} is forbidden" for name in ("scoring", "compositeScoring", "improvementNotation") if name in measure
    ]
    for artifact in measure.get("relatedArtifact", ()):
        if artifact["type"] != "composed-of":
            continue
        if len(extensions(artifact, "contractual-status")) != 1:
            found.append(f"{artifact['resource']}: no contractual status")
        if "|" not in artifact["resource"]:
            found.append(f"{artifact['resource']}: no version")
    for model in extensions(measure, "program-model"):
        if "hcplan" not in {e["url"] for e in model.get("extension", ())}:
            found.append("program-model without hcplan")
    return found
