"""DEQM MeasureReports of a result: summary, subject list, and one for each member of an initial population.

A report says what it was made from: the engine in a contained Device, and hashes, lake version and evaluation instant
in contained input Parameters. The same result gives the same bytes; ids are derived from the inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fhir_gateway.errors import NotFoundError
from fhir_gateway.measures.dialect import DIALECTS, Family
from fhir_gateway.measures.model import Mask, MeasureResult, run_id
from fhir_gateway.measures.report_groups import SubjectLists, render_group, report_id
from fhir_gateway.measures.report_supplemental import individual_supplemental, summary_supplemental
from fhir_gateway.measures.strata import only

Report = dict[str, Any]
Reference = Mapping[str, Any]

_CORE = "http://hl7.org/fhir/StructureDefinition/"
_SOFTWARE = "http://hl7.org/fhir/uv/crmi/StructureDefinition/crmi-softwaresystem"
_SOFTWARE_DEVICE = "http://hl7.org/fhir/uv/crmi/StructureDefinition/crmi-softwaresystemdevice"


def summary(result: MeasureResult, reporter: Reference, mask: Mask | None = None, *, family: Family = "us") -> Report:
    """Summary report over the members in ``mask`` (a bool per member; default: all).

    ``reporter`` is a Reference to the reporting organization. Members that failed are counted in a message. Values of
    supplemental data are counted.
    """
    dialect = DIALECTS[family]
    report = _head(result, dialect.summary, "summary", run_id(result, mask), reporter, _issues(result, mask))
    report["group"] = [render_group(group, dialect, mask) for group in result.groups]
    _add(report, *summary_supplemental(result, mask))
    return report


def subject_list(
    result: MeasureResult, reporter: Reference, mask: Mask | None = None, *, family: Family = "us", stored: bool = True
) -> Report:
    """The summary, with a contained List of the individual reports behind each count.

    Individual reports have the ids that :func:`individual` gives them. Those of a result that is not ``stored`` are
    nowhere: the Lists name the patients then, as public FHIR servers do, and the report claims no DEQM profile.
    """
    dialect = DIALECTS[family]
    identity = f"{run_id(result, mask)}-subjects"
    report = _head(result, dialect.subject_list, "subject-list", identity, reporter, _issues(result, mask))
    lists = SubjectLists(dialect, result.members, run_id(result) if stored else None)
    report["group"] = [render_group(group, dialect, mask, lists) for group in result.groups]
    report["contained"].extend(lists.contained)
    if not stored:
        del report["meta"]
    return report


def individual(
    result: MeasureResult, member_index: int, reporter: Reference, *, family: Family = "us", outside: bool = False
) -> Report:
    """Report of one member; of a member that could not be evaluated it has status ``error`` and the reason.

    Raises NotFoundError for a member in no initial population: DEQM has no report for such a subject, but for gaps in
    care that do not apply, which need one of zeros (``outside``).
    """
    dialect = DIALECTS[family]
    member = str(result.members[member_index].as_py())
    reason = result.failed.get(member)
    if reason is None and not outside and not in_initial_population(result, member_index):
        raise NotFoundError("the subject is not in the initial population, so there is no individual report")
    issues = [] if reason is None else [_issue("error", reason)]
    report = _head(result, dialect.individual, "individual", report_id(run_id(result), member), reporter, issues)
    report["subject"] = {"reference": f"Patient/{member}"}
    if reason is not None:
        report["status"] = "error"
        return report
    report["group"] = [
        render_group(only(group, member_index), dialect, None, membership=True) for group in result.groups
    ]
    evaluated = list(_evaluated_resources(result, member_index))
    if evaluated:
        report["evaluatedResource"] = evaluated
    _add(report, *individual_supplemental(result, member_index, f"Patient/{member}"))
    return report


def individual_head(result: MeasureResult, reporter: Reference, family: Family) -> Report:
    """What the individual reports of a run have in common: all but subject, groups and what the member's data say."""
    return _head(result, DIALECTS[family].individual, "individual", "", reporter, [])


def in_initial_population(result: MeasureResult, member_index: int) -> bool:
    """Whether a member is in an initial population of any group."""
    return any(
        population.counts[member_index] > 0
        for group in result.groups
        for population in group.populations
        if population.code == "initial-population"
    )


def _issues(result: MeasureResult, mask: Mask | None) -> list[Report]:
    failed = len(result.failed) if mask is None else _failed_in(result, mask)
    issues = [_issue("information", note) for note in result.notes]
    if failed:
        issues.insert(0, _issue("warning", f"{failed} subjects could not be evaluated and count in no population"))
    return issues


def _add(report: Report, contained: list[Report], extensions: list[Report]) -> None:
    report["contained"].extend(contained)
    report["extension"].extend(extensions)


def _head(
    result: MeasureResult, profile: str, report_type: str, identity: str, reporter: Reference, issues: list[Report]
) -> Report:
    contained: list[Report] = [_software(result), _inputs(result)]
    extensions: list[Report] = [
        {"url": _SOFTWARE, "valueReference": {"reference": "#software"}},
        {"url": f"{_CORE}cqf-inputParameters", "valueReference": {"reference": "#inputs"}},
    ]
    if issues:
        contained.append({"resourceType": "OperationOutcome", "id": "messages", "issue": issues})
        extensions.append({"url": f"{_CORE}cqf-messages", "valueReference": {"reference": "#messages"}})
    return {
        "resourceType": "MeasureReport",
        "id": identity,
        "meta": {"profile": [profile]},
        "contained": contained,
        "extension": extensions,
        "status": "complete",
        "type": report_type,
        "measure": result.canonical,
        "date": result.evaluated_at.isoformat(timespec="milliseconds"),
        "reporter": dict(reporter),
        "period": {"start": result.period[0].isoformat(), "end": result.period[1].isoformat()},
    }


def _software(result: MeasureResult) -> Report:
    return {
        "resourceType": "Device",
        "id": "software",
        "meta": {"profile": [_SOFTWARE_DEVICE]},
        "deviceName": [{"name": "FHIR Gateway", "type": "manufacturer-name"}],
        "version": [{"value": result.engine_version}],
    }


def _inputs(result: MeasureResult) -> Report:
    """What the numbers can be made again from."""
    parameter: list[Report] = [
        {"name": "packageHash", "valueString": result.package_hash},
        {"name": "terminologyHash", "valueString": result.terminology_hash},
        {"name": "evaluatedAt", "valueDateTime": result.evaluated_at.isoformat(timespec="milliseconds")},
    ]
    if result.lake_version is not None:
        parameter.append({"name": "lakeVersion", "valueInteger": result.lake_version})
    return {"resourceType": "Parameters", "id": "inputs", "parameter": parameter}


def _issue(severity: str, text: str) -> Report:
    code = "informational" if severity == "information" else "processing"
    return {"severity": severity, "code": code, "diagnostics": text}


def _failed_in(result: MeasureResult, mask: Mask) -> int:
    members = result.members.to_pylist()
    return sum(members[index] in result.failed for index in np.flatnonzero(mask).tolist()) if result.failed else 0


def _evaluated_resources(result: MeasureResult, member_index: int) -> Iterator[Report]:
    """Episodes that count for the member, each with the populations it counts in."""
    found: dict[str, list[str]] = {}
    for group in result.groups:
        for cases in group.cases:
            first, last = np.searchsorted(cases.member, [member_index, member_index + 1])
            for case in range(int(first), int(last)):
                reference = cases.reference[case].as_py()
                inside = [name for name, mask in cases.populations.items() if mask[case]]
                if reference is not None and inside:
                    found.setdefault(reference, []).extend(inside)
    for reference in sorted(found):
        criteria = [{"url": f"{_CORE}cqf-criteriaReference", "valueString": name} for name in found[reference]]
        yield {"extension": criteria, "reference": reference}
