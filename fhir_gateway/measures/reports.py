"""DEQM MeasureReports of a result: one summary, and an individual report for each member of an initial population.

A report says what it was made from: the engine in a contained Device, and hashes, lake version and evaluation instant
in contained input Parameters. The same result gives the same bytes; ids are derived from the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from fhir_gateway.errors import NotFoundError
from fhir_gateway.measures import scoring
from fhir_gateway.measures.definition import POPULATION_SYSTEM, SCORING_SYSTEM
from fhir_gateway.measures.dialect import DIALECTS, Dialect, Family
from fhir_gateway.measures.model import GroupResult, Mask, MeasureResult, PopulationResult, run_id

Report = dict[str, Any]
Reference = Mapping[str, Any]

_CORE = "http://hl7.org/fhir/StructureDefinition/"
_SOFTWARE = "http://hl7.org/fhir/uv/crmi/StructureDefinition/crmi-softwaresystem"
_SOFTWARE_DEVICE = "http://hl7.org/fhir/uv/crmi/StructureDefinition/crmi-softwaresystemdevice"
_LINK_ID = "http://hl7.org/fhir/5.0/StructureDefinition/extension-MeasureReport."
_NOTATION_SYSTEM = "http://terminology.hl7.org/CodeSystem/measure-improvement-notation"


def summary(result: MeasureResult, reporter: Reference, mask: Mask | None = None, *, family: Family = "us") -> Report:
    """Summary report over the members in ``mask`` (a bool per member; default: all).

    ``reporter`` is a Reference to the reporting organization. Members that failed are counted in a message.
    """
    dialect = DIALECTS[family]
    failed = len(result.failed) if mask is None else _failed_in(result, mask)
    issues = [_issue("information", note) for note in result.notes]
    if failed:
        issues.insert(0, _issue("warning", f"{failed} subjects could not be evaluated and count in no population"))
    report = _head(result, dialect.summary, "summary", run_id(result, mask), reporter, issues)
    report["group"] = [
        _group(
            group,
            dialect,
            lambda population: scoring.count(population, mask),
            group.score(mask),
        )
        for group in result.groups
    ]
    return report


def individual(result: MeasureResult, member_index: int, reporter: Reference, *, family: Family = "us") -> Report:
    """Report of one member; of a member that could not be evaluated it has status ``error`` and the reason.

    Raises NotFoundError for a member in no initial population: DEQM has no report for such a subject.
    """
    dialect = DIALECTS[family]
    member = str(result.members[member_index].as_py())
    reason = result.failed.get(member)
    if reason is None and not in_initial_population(result, member_index):
        raise NotFoundError("the subject is not in the initial population, so there is no individual report")
    identity = f"{run_id(result)}-{member}"[:64]
    issues = [] if reason is None else [_issue("error", reason)]
    report = _head(result, dialect.individual, "individual", identity, reporter, issues)
    report["subject"] = {"reference": f"Patient/{member}"}
    if reason is not None:
        report["status"] = "error"
        return report
    report["group"] = [
        _group(
            group,
            dialect,
            lambda population: int(population.counts[member_index]),
            group.member_score(member_index),
        )
        for group in result.groups
    ]
    evaluated = list(_evaluated_resources(result, member_index))
    if evaluated:
        report["evaluatedResource"] = evaluated
    return report


def in_initial_population(result: MeasureResult, member_index: int) -> bool:
    """Whether a member is in an initial population of any group."""
    return any(
        population.counts[member_index] > 0
        for group in result.groups
        for population in group.populations
        if population.code == "initial-population"
    )


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


def _group(
    group: GroupResult, dialect: Dialect, counted: Callable[[PopulationResult], int], score: Decimal | None
) -> Report:
    extensions: list[Report] = [
        {"url": dialect.scoring, "valueCodeableConcept": _concept(SCORING_SYSTEM, group.scoring)}
    ]
    if group.improvement_notation is not None:
        notation = _concept(_NOTATION_SYSTEM, group.improvement_notation)
        extensions.append({"url": dialect.improvement_notation, "valueCodeableConcept": notation})
    if dialect.link_ids:
        extensions.append({"url": f"{_LINK_ID}group.linkId", "valueString": group.id})
    found: Report = {"id": group.id, "extension": extensions}
    if group.code is not None:
        found["code"] = dict(group.code)
    found["population"] = [_population(p, dialect, counted(p)) for p in group.populations]
    if score is not None:
        found["measureScore"] = _quantity(group, score)
    return found


def _population(population: PopulationResult, dialect: Dialect, count: int) -> Report:
    found: Report = {"id": population.id}
    if dialect.link_ids:
        found["extension"] = [{"url": f"{_LINK_ID}group.population.linkId", "valueString": population.id}]
    return found | {"code": _concept(POPULATION_SYSTEM, population.code), "count": count}


def _quantity(group: GroupResult, score: Decimal) -> Report:
    """The score, rounded half up; a proportion is a fraction (deqm-6), a rate has the Measure's unit."""
    number = scoring.rounded(score, group.scoring_precision)
    # at most 8 decimals: a double prints them back as they are (R4 JSON numbers)
    quantity: Report = {"value": int(number) if number == number.to_integral_value() else float(number)}
    unit = group.scoring_unit
    if unit is None:
        observed = {p.observations.unit for p in group.populations if p.observations is not None}
        text = next(iter(observed), None) if group.scoring == "continuous-variable" else None
        return quantity | ({"unit": text} if text else {})
    coding: Mapping[str, Any] = next(iter(unit.get("coding", ())), {})
    text = unit.get("text") or coding.get("display") or coding.get("code")
    named = {"unit": text, "system": coding.get("system"), "code": coding.get("code")}
    return quantity | {name: value for name, value in named.items() if value}


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


def _concept(system: str, code: str) -> Report:
    return {"coding": [{"system": system, "code": code}]}
