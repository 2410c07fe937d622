"""``$care-gaps`` of DEQM: of each subject with a gap of a wanted status its reports, the gaps, and why they are open.

The status of everybody comes out of the columns of a result. Only those with an open gap among them are looked at
again: reasons and evidence of a chunk of members are read from one recorded evaluation.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fhir_gateway.jobs.measure_requests import Asking, Check, Resource, chunks
from fhir_gateway.jobs.reporting import (
    Evaluated,
    by_member,
    evaluate_now,
    population_of,
    resources_of,
    served_reference,
)
from fhir_gateway.measures import care_gaps, reports
from fhir_gateway.measures.dialect import DIALECTS
from fhir_gateway.measures.gap import OPEN, Gap, GapStatus, gap_statuses
from fhir_gateway.measures.gap_details import Statuses, gap_details
from fhir_gateway.measures.gap_reasons import reasons
from fhir_gateway.measures.interest import data_of_interest


@dataclass(frozen=True)
class _Found:
    """One chunk: of each measure the wanted statuses by member and group, and the gaps of those that are open."""

    asking: Asking
    evaluated: Evaluated
    wanted: Sequence[Mapping[str, Statuses]]
    gaps: Sequence[Mapping[str, Sequence[Gap]]]

    @property
    def members(self) -> list[str]:
        """Members with something to tell, in the order of the results: a gap that is wanted, or a failure."""
        failed = {member for result in self.evaluated.results for member in result.failed}
        return [one for one in self.evaluated.members if one in failed or any(one in found for found in self.wanted)]


def gap_bundles(asking: Asking, check: Check) -> Iterator[Resource]:
    """A Bundle for each subject that has a gap of one of the statuses that are asked for."""
    for members in chunks(asking.everyone()) if asking.request.measures else ():
        check()
        found = _find(asking, members)
        if not found.members:
            continue
        check()
        request, evaluated = asking.request, found.evaluated
        population = population_of(asking.gateway, evaluated.evaluators, found.members)
        rows = data_of_interest(evaluated.evaluators, population, request.days, request.instant)
        resources = resources_of(asking.gateway, asking.store, rows, population.lake_version, asking.may_read)
        evaluated = Evaluated(asking.gateway, evaluated.evaluators, evaluated.results, rows)
        of_member = by_member(rows)
        places = {member: index for index, member in enumerate(evaluated.members)}
        for member in found.members:
            served = {f"{r['type']}/{r['id']}": served_reference(r) for r in _rows(of_member, member)}
            yield _bundle(found, evaluated, member, places[member], served, resources)


def _find(asking: Asking, members: list[str]) -> _Found:
    request = asking.request
    days, now = request.days, request.instant
    evaluated = evaluate_now(asking.gateway, asking.packages(), members, days, now)
    wanted, gaps = [], []
    for evaluator, result in zip(evaluated.evaluators, evaluated.results, strict=True):
        columns = {group.id: statuses for group in result.groups if (statuses := gap_statuses(group, days, now))}
        found: dict[str, dict[str, GapStatus]] = {}
        for group, statuses in columns.items():
            for member, status in zip(evaluated.members, statuses, strict=True):
                if status in request.statuses and member not in result.failed:
                    found.setdefault(member, {})[group] = status
        wanted.append(found)
        opened = {one: of for one, of in found.items() if any(status in OPEN for status in of.values())}
        population = population_of(asking.gateway, [evaluator], opened)
        gaps.append(dict(gap_details(evaluator, result.groups, opened, population, days, now)) if opened else {})
    return _Found(asking, evaluated, wanted, gaps)


def _bundle(
    found: _Found,
    evaluated: Evaluated,
    member: str,
    index: int,
    served: Mapping[str, str],
    resources: Mapping[str, Resource],
) -> Resource:
    asking, request = found.asking, found.asking.request
    subject, family, now = f"Patient/{member}", request.family, request.instant.isoformat(timespec="milliseconds")
    told: list[Resource] = []
    sections: list[tuple[str, str, list[str]]] = []
    for number, (evaluator, result) in enumerate(zip(evaluated.evaluators, evaluated.results, strict=True)):
        statuses = found.wanted[number].get(member, {})
        if not statuses and member not in result.failed:
            continue
        report = reports.individual(result, index, asking.reporter, family=family, outside=True)
        report = asking.located(evaluated.naming_evidence(report, number, member, family))
        told.insert(len(sections), report)
        gaps = {gap.group: gap for gap in found.gaps[number].get(member, ())}
        issues = []
        for group, status in statuses.items():
            gap = gaps.get(group)
            why = reasons(evaluator, gap) if gap is not None and gap.status in OPEN else ()
            guidance = None
            if why:
                identity = _identity(request.now, report["id"], group, "guidance")
                response = care_gaps.guidance_response(
                    identity, evaluator.package, subject, now, why, served, family=family
                )
                guidance = f"GuidanceResponse/{identity}"
                told.append(response)
            nearest = [one.evidence.reference for one in why if one.evidence is not None]
            issue = care_gaps.detected_issue(
                _identity(request.now, report["id"], group, "issue"),
                subject,
                status,
                f"MeasureReport/{report['id']}",
                _group_name(report, group, family == "uv"),
                guidance,
                [served[one] for one in nearest if one in served],
                family=family,
            )
            told.append(issue)
            issues.append(f"DetectedIssue/{issue['id']}")
        if issues:
            sections.append((evaluator.package.title, f"MeasureReport/{report['id']}", issues))
    data = [resource for name in (subject, *served.values()) if (resource := resources.get(name))]
    document = request.document and bool(sections)
    if document:
        identity = _identity(request.now, member, "composition")
        told.insert(0, care_gaps.composition(identity, subject, now, asking.reporter, sections, family=family))
    bundle = asking.bundle("document" if document else "collection", [*told, *asking.reporting(), *data], member)
    return {"resourceType": "Bundle", "id": bundle["id"], "meta": {"profile": [DIALECTS[family].gaps_bundle]}} | bundle


def _group_name(report: Resource, group: str, link_ids: bool) -> str:
    """What a group is referred to by: its linkId (UV), else its id."""
    for one in report.get("group", ()) if link_ids else ():
        if one.get("id") == group:
            for extension in one.get("extension", ()):
                if str(extension.get("url", "")).endswith(".group.linkId"):
                    return str(extension["valueString"])
    return group


def _rows(of_member: Mapping[str, object], member: str) -> list[Resource]:
    rows = of_member.get(member)
    return [] if rows is None else rows.to_pylist()  # type: ignore[attr-defined, no-any-return]


def _identity(*parts: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, " ".join(parts)))
