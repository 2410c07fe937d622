"""``$care-gaps`` of DEQM: of each subject with a gap of a wanted status its reports, the gaps, and why they are open.

The status of everybody comes out of the columns of a result. Only those with an open gap among them are looked at
again: reasons and evidence of a chunk of members are read from one recorded evaluation.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa

from fhir_gateway.cql import Batch
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
from fhir_gateway.measures.evaluate import Evaluator
from fhir_gateway.measures.gap import OPEN, Gap, GapStatus, gap_statuses
from fhir_gateway.measures.gap_details import Statuses, gap_details
from fhir_gateway.measures.gap_reasons import reasons
from fhir_gateway.measures.interest import INTEREST, interest_of
from fhir_gateway.measures.model import MeasureResult
from fhir_gateway.measures.sharing import SharedBatch

#: Of one measure: by member the wanted statuses of groups.
_Wanted = Mapping[str, Statuses]
#: Of one measure: by member its gaps, with reasons where they are open.
_Gaps = Mapping[str, Sequence[Gap]]


@dataclass(frozen=True)
class _Found:
    """Some members: the results of all, the wanted statuses and the gaps of each measure, and where members are."""

    asking: Asking
    evaluated: Evaluated
    wanted: Sequence[_Wanted]
    gaps: Sequence[_Gaps]
    places: Mapping[str, int]


def gap_bundles(asking: Asking, check: Check) -> Iterator[Resource]:
    """A Bundle for each subject that has a gap of one of the statuses that are asked for."""
    request, gateway = asking.request, asking.gateway
    if not request.measures:
        return
    days, now = request.days, request.instant
    evaluated = evaluate_now(gateway, asking.packages(), asking.members(), days, now)
    wanted = [_wanted(asking, evaluated, result) for result in evaluated.results]
    places = {member: index for index, member in enumerate(evaluated.members)}
    # those with something to tell: a gap that is wanted, or a failure
    told = {member for found in wanted for member in found}
    told |= {member for result in evaluated.results for member in result.failed}
    for members in chunks(told, gateway.lake.buckets):
        check()
        population = population_of(gateway, evaluated.evaluators, members, evaluated.results[0].lake_version)
        parts = [INTEREST.empty_table()]
        gaps: list[dict[str, Sequence[Gap]]] = [{} for _ in wanted]
        for batch in population.batches():
            shared = SharedBatch(batch, [evaluator.compiled for evaluator in evaluated.evaluators])
            parts.append(interest_of(evaluated.evaluators, shared, days, now))
            for number, evaluator in enumerate(evaluated.evaluators):
                gaps[number].update(_opened(evaluator, evaluated.results[number], wanted[number], shared, days, now))
        rows = pa.concat_tables(parts)
        resources = resources_of(gateway, asking.store, rows, population.lake_version, asking.may_read)
        some = Evaluated(gateway, evaluated.evaluators, evaluated.results, rows)
        found = _Found(asking, some, wanted, gaps, places)
        of_member = by_member(rows)
        for member in members:
            served = {f"{r['type']}/{r['id']}": served_reference(r) for r in _rows(of_member, member)}
            yield _bundle(found, member, served, resources)


def _wanted(asking: Asking, evaluated: Evaluated, result: MeasureResult) -> dict[str, dict[str, GapStatus]]:
    """By member the statuses of groups that are asked for, out of the columns of a result."""
    request = asking.request
    found: dict[str, dict[str, GapStatus]] = {}
    for group in result.groups:
        for member, status in zip(
            evaluated.members, gap_statuses(group, request.days, request.instant) or (), strict=False
        ):
            if status in request.statuses and member not in result.failed:
                found.setdefault(member, {})[group.id] = status
    return found


def _opened(
    evaluator: Evaluator,
    result: MeasureResult,
    wanted: _Wanted,
    batch: Batch,
    days: tuple[date, date],
    now: datetime,
) -> _Gaps:
    """The gaps of those members of a batch who have an open one."""
    members = [one for one in batch.members.to_pylist() if any(s in OPEN for s in wanted.get(one, {}).values())]
    if not members:
        return {}
    statuses = {member: wanted[member] for member in members}
    opened = Batch(pa.array(members, pa.string()), batch.read)
    return dict(gap_details(evaluator, result.groups, statuses, opened, days, now))


def _bundle(found: _Found, member: str, served: Mapping[str, str], resources: Mapping[str, Resource]) -> Resource:
    asking, request, evaluated = found.asking, found.asking.request, found.evaluated
    index = found.places[member]
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
    return [] if rows is None else rows.to_pylist()  # type: ignore[attr-defined]


def _identity(*parts: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, " ".join(parts)))
