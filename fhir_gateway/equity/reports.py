"""Strata as FHIR: a summary MeasureReport of a measure with a stratifier per dimension, hidden numbers masked.

Counts are net ones (``calculated-denominator`` and ``calculated-numerator`` of VBPR): what is left after exclusions and
exceptions, as the rates are computed. A hidden count has the data-absent-reason ``masked`` and its stratum no score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from fhir_gateway.equity.disparity import Disparity, disparity
from fhir_gateway.equity.metrics import Kind
from fhir_gateway.equity.stratify import Breakdown, Cell, Strata

_OURS = "https://fhir-gateway.example/fhir/"
DIMENSION_SYSTEM = _OURS + "CodeSystem/equity-dimension"
STRATUM_SYSTEM = _OURS + "CodeSystem/equity-stratum"
INTERVAL = _OURS + "StructureDefinition/confidence-interval"
MISSING_SHARE = _OURS + "StructureDefinition/missing-share"
INDEX = _OURS + "StructureDefinition/index-of-disparity"
_ABSENT = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
_POPULATION = "http://hl7.org/fhir/us/davinci-vbpr/CodeSystem/vbp-measure-population"
_DEQM = "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/extension-"
_SCORING = "http://terminology.hl7.org/CodeSystem/measure-scoring"
_NOTATION = "http://terminology.hl7.org/CodeSystem/measure-improvement-notation"
_SCORINGS: Mapping[Kind, str] = {
    "proportion": "proportion",
    "rate": "ratio",
    "mean": "continuous-variable",
    "cohort": "cohort",
}
_MASKED = {"extension": [{"url": _ABSENT, "valueCode": "masked"}]}
#: Decimals of rates and intervals.
_PLACES = 6

Report = dict[str, Any]


def stratified_report(
    strata: Strata,
    breakdowns: Sequence[Breakdown],
    *,
    measure: str,
    period: tuple[date, date],
    reporter: Mapping[str, Any],
    now: datetime,
) -> Report:
    """One report of a measure: ``breakdowns`` of its groups, each with the dimensions that are wanted."""
    groups: dict[str, list[Breakdown]] = {}
    for one in breakdowns:
        groups.setdefault(one.metric.id, []).append(one)
    report: Report = {
        "resourceType": "MeasureReport",
        "status": "complete",
        "type": "summary",
        "measure": measure,
        "date": now.isoformat(timespec="milliseconds"),
        "reporter": dict(reporter),
        "period": {"start": period[0].isoformat(), "end": period[1].isoformat()},
    }
    if groups:
        report["group"] = [_group(strata, of) for of in groups.values()]
    return report


def _group(strata: Strata, of: Sequence[Breakdown]) -> Report:
    metric, total = of[0].metric, of[0].total
    scoring = {"coding": [{"system": _SCORING, "code": _SCORINGS[metric.kind]}]}
    extensions: list[Report] = [{"url": f"{_DEQM}scoring", "valueCodeableConcept": scoring}]
    if metric.direction is not None:
        notation = {"coding": [{"system": _NOTATION, "code": metric.direction}]}
        extensions.append({"url": f"{_DEQM}groupImprovementNotation", "valueCodeableConcept": notation})
    found: Report = {"id": metric.group or metric.id, "extension": extensions}
    found["population"] = _populations(total, metric.kind)
    found |= _score(total)
    found["stratifier"] = [_stratifier(strata, one) for one in of]
    return found


def _stratifier(strata: Strata, one: Breakdown) -> Report:
    dimension = one.dimension
    unequal: Disparity | None = disparity(strata, one)
    extensions: list[Report] = []
    if one.missing_share is not None:
        extensions.append({"url": MISSING_SHARE, "valueDecimal": round(one.missing_share, _PLACES)})
    if unequal is not None and unequal.index is not None:
        extensions.append({"url": INDEX, "valueDecimal": round(unequal.index, _PLACES)})
    code = {"coding": [{"system": DIMENSION_SYSTEM, "code": dimension.id}], "text": dimension.title}
    found: Report = {"id": dimension.id} | ({"extension": extensions} if extensions else {}) | {"code": [code]}
    strata_found = [_stratum(cell, one.metric.kind) for cell in one.cells if cell.suppressed or cell.denominator]
    return found | ({"stratum": strata_found} if strata_found else {})


def _stratum(cell: Cell, kind: Kind) -> Report:
    system = "http://terminology.hl7.org/CodeSystem/data-absent-reason" if cell.missing else STRATUM_SYSTEM
    value = {"coding": [{"system": system, "code": _absent(cell)}], "text": cell.title}
    return {"value": value, "population": _populations(cell, kind)} | _score(cell)


def _absent(cell: Cell) -> str:
    """Codes of missing data are those of FHIR."""
    return (
        {"declined": "asked-declined"}.get(str(cell.stratum), str(cell.stratum)) if cell.missing else str(cell.stratum)
    )


def _populations(cell: Cell, kind: Kind) -> list[Report]:
    parts = [("calculated-denominator", cell.denominator)]
    if kind in ("proportion", "rate"):
        parts.append(("calculated-numerator", cell.numerator))
    return [
        {"code": {"coding": [{"system": _POPULATION, "code": code}]}}
        | ({"_count": _MASKED} if count is None else {"count": round(count)})
        for code, count in parts
    ]


def _score(cell: Cell) -> Report:
    if cell.rate is None:
        return {}
    score: Report = {"value": round(cell.rate, _PLACES)}
    if cell.low is not None and cell.high is not None:
        low, high = ({"value": round(one, _PLACES)} for one in (cell.low, cell.high))
        score = {"extension": [{"url": INTERVAL, "valueRange": {"low": low, "high": high}}]} | score
    return {"measureScore": score}
