"""Rules of the DEQM MeasureReport profiles (US 5.0.0 and UV 1.0.0), for reports of ours and of anybody.

``problems(report)`` names each rule that a report breaks: invariants deqm-0 to deqm-9 and the cardinalities that tell
individual, summary and subject-list reports apart. Resources and data types are not checked here (fhir.resources is).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fhir_gateway.measures.dialect import DIALECTS, Dialect, Family

Report = Mapping[str, Any]
_COUNT_QUANTITY = "http://hl7.org/fhir/StructureDefinition/measurereport-countQuantity"
_LINK_ID = "http://hl7.org/fhir/5.0/StructureDefinition/extension-MeasureReport."
#: Scorings that need an improvement notation (deqm-2, deqm-4).
_IMPROVES = ("proportion", "ratio", "continuous-variable")
_STATUS = ("complete", "pending", "error")


def problems(report: Report, family: Family) -> list[str]:
    """Rules that the report breaks, each as ``rule: what``."""
    return list(_report(report, DIALECTS[family]))


def _extension(node: Report, url: str) -> Any:
    found = [e for e in node.get("extension", ()) if e.get("url") == url]
    return next((value for key, value in found[0].items() if key.startswith("value")), None) if found else None


def _code(concept: Any) -> str | None:
    return next((c.get("code") for c in (concept or {}).get("coding", ())), None)


def _report(report: Report, dialect: Dialect) -> Iterator[str]:
    kind = report.get("type")
    groups = report.get("group", ())
    if "|" not in report.get("measure", ""):
        yield "deqm-0: the measure has no version"
    if any(len(report.get("period", {}).get(end, "")) < 10 for end in ("start", "end")):
        yield "deqm-1: the period is not of days"
    if report.get("status") not in _STATUS:
        yield "status: not complete, pending or error"
    for element in ("date", "reporter"):
        if element not in report:
            yield f"{element}: missing"
    if kind == "individual" and "subject" not in report:
        yield "subject: missing in an individual report"
    if kind in ("summary", "subject-list") and "subject" in report and not dialect.link_ids:
        yield "subject: not in a report of many (US)"
    if kind in ("summary", "subject-list") and "evaluatedResource" in report:
        yield "evaluatedResource: not in a report of many"
    if kind in ("summary", "subject-list") and not groups:
        yield "group: missing in a report of many"
    root = _code(_extension(report, dialect.scoring))
    if root in _IMPROVES and "improvementNotation" not in report:
        yield "deqm-2: the scoring of the report needs its improvementNotation"
    scored = [_code(_extension(group, dialect.scoring)) for group in groups]
    if groups and (root is None) == (None in scored):
        yield "deqm-3: scoring is neither on the report alone nor on every group"
    for group, scoring in zip(groups, scored, strict=True):
        yield from _group(group, scoring or root, on_group=scoring is not None, kind=str(kind), dialect=dialect)


def _group(group: Report, scoring: str | None, *, on_group: bool, kind: str, dialect: Dialect) -> Iterator[str]:
    if on_group and scoring in _IMPROVES and _extension(group, dialect.improvement_notation) is None:
        yield "deqm-4: the scoring of the group needs its improvement notation"
    populations = group.get("population", ())
    if scoring not in (None, "composite", "attestation") and not populations:
        yield "deqm-5: no population"
    score = group.get("measureScore", {}).get("value")
    if scoring == "proportion" and score is not None and not 0 <= score <= 1:
        yield "deqm-6: the score of a proportion is no fraction"
    if dialect.link_ids:
        yield from _link_ids(group)
    for population in populations:
        yield from _population(population, kind, "population")
    for stratifier in group.get("stratifier", ()):
        strata = stratifier.get("stratum", ())
        components = [bool(stratum.get("component")) for stratum in strata]
        if any(components) == bool(stratifier.get("code")) and strata:
            yield "deqm-7: a stratifier has its code or components"
        if any("value" in stratum and stratum.get("component") for stratum in strata):
            yield "deqm-7: a stratum has a value or components"
        for stratum in strata:
            for population in stratum.get("population", ()):
                yield from _population(population, kind, "stratum.population")


def _population(population: Report, kind: str, where: str) -> Iterator[str]:
    counted = ("count" in population) + (_extension(population, _COUNT_QUANTITY) is not None)
    if counted > 1 or (where.startswith("stratum") and "count" not in population):
        yield f"deqm-8: {where} has no count, or two"
    if ("subjectResults" in population) != (kind == "subject-list"):
        yield f"subjectResults: in a subject-list alone, and there for each {where}"


def _link_ids(group: Report) -> Iterator[str]:
    nodes = [("group", group)]
    nodes += [("group.population", p) for p in group.get("population", ())]
    nodes += [("group.stratifier", s) for s in group.get("stratifier", ())]
    for path, node in nodes:
        if _extension(node, f"{_LINK_ID}{path}.linkId") is None:
            yield f"linkId: missing on {path}"
