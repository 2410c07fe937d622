"""``$evaluate`` of DEQM: MeasureReports in Bundles, with what they are about.

A Bundle for each subject that is in an initial population (individual reports, with the resources that the measures
looked at), or one Bundle of the summaries or subject lists over all of them. The reports come first.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.errors import NotFoundError
from fhir_gateway.jobs.measure_requests import Asking, Check, Resource, chunks
from fhir_gateway.jobs.reporting import Evaluated, evaluate_now, resources_of
from fhir_gateway.measures import reports


def report_bundles(asking: Asking, check: Check) -> Iterator[Resource]:
    """The Bundles that a request for reports is answered with."""
    request = asking.request
    if request.report_type == "summary":
        yield _population(asking, _evaluated(asking, asking.members()))
    elif request.report_type == "subject-list":
        yield _subject_list(asking, _evaluated(asking, asking.members(), interest=True))
    else:
        for members in chunks(asking.everyone(), asking.gateway.lake.buckets):
            check()
            yield from _subjects(asking, _evaluated(asking, members, interest=True))


def one_report(asking: Asking) -> Resource:
    """The MeasureReport of one measure that ``$evaluate-measure`` answers; NotFoundError without one."""
    request = asking.request
    individual = request.report_type == "individual"
    evaluated = _evaluated(asking, asking.members(), interest=individual)
    (result,) = evaluated.results
    if individual:
        if not evaluated.members:
            raise NotFoundError("there is no such Patient")
        report = reports.individual(result, 0, asking.reporter)
        return evaluated.naming_evidence(report, 0, evaluated.members[0], request.family)
    if request.report_type == "subject-list":
        return reports.subject_list(result, asking.reporter, stored=False)
    return reports.summary(result, asking.reporter)


def _evaluated(asking: Asking, members: list[str] | None, *, interest: bool = False) -> Evaluated:
    request = asking.request
    return evaluate_now(asking.gateway, asking.packages(), members, request.days, request.instant, interest=interest)


def _population(asking: Asking, evaluated: Evaluated) -> Resource:
    found = [_about(asking, one) for one in evaluated.summaries(asking.reporter, asking.request.family)]
    return asking.bundle("collection", [*found, *asking.reporting()], "population")


def _subject_list(asking: Asking, evaluated: Evaluated) -> Resource:
    """The lists name individual reports, which come along."""
    family = asking.request.family
    found = [
        _about(asking, reports.subject_list(result, asking.reporter, family=family)) for result in evaluated.results
    ]
    for index in range(len(evaluated.members)):
        found += map(asking.located, evaluated.individuals(index, asking.reporter, family))
    return asking.bundle("collection", [*found, *asking.reporting()], "subject-list")


def _subjects(asking: Asking, evaluated: Evaluated) -> Iterator[Resource]:
    by_member = {
        member: [asking.located(one) for one in evaluated.individuals(index, asking.reporter, asking.request.family)]
        for index, member in enumerate(evaluated.members)
    }
    by_member = {member: found for member, found in by_member.items() if found}
    rows = evaluated.interest
    rows = rows.filter(pc.is_in(rows["member"], value_set=pa.array(by_member, pa.string())))
    version = evaluated.results[0].lake_version
    resources = resources_of(asking.gateway, asking.store, rows, version, asking.may_read)
    reporter = asking.reporting()
    for member, found in by_member.items():
        names = [f"Patient/{member}", *(name for report in found for name in references_in(report))]
        looked_at = [resources[name] for name in dict.fromkeys(names) if name in resources]
        yield asking.bundle("collection", [*found, *reporter, *looked_at], member)


def references_in(report: Resource) -> list[str]:
    """What a report refers to as evaluated resources and as supplemental data."""
    evaluated = [one["reference"] for one in report.get("evaluatedResource", ())]
    supplemental = [one.get("valueReference", {}).get("reference", "") for one in report.get("extension", ())]
    return [*evaluated, *(name for name in supplemental if name and not name.startswith("#"))]


def _about(asking: Asking, report: Resource) -> Resource:
    """The report of many, with the Group it is about where its profile has a place for it (UV)."""
    report = asking.located(report)
    subject = asking.request.subject
    if asking.request.family == "uv" and subject is not None and subject[0] == "Group":
        head = {name: report[name] for name in ("resourceType", "id")}
        return head | {"subject": {"reference": f"Group/{subject[1]}"}} | report
    return report
