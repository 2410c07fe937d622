"""Metrics as FHIR: one Measure with a group per metric, and a summary MeasureReport of results.

Where Da Vinci Value-Based Performance Reporting (VBPR 1.1.0) has a code for a metric, the group carries it too. Money
is ``Money`` in VBPR's alternate-measurescore, never a Quantity; breakdowns are stratifiers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from fhir_gateway.risk.utilization.metrics import Metric, metric, metrics
from fhir_gateway.risk.utilization.service import Utilization

#: Canonical of the Measure whose groups are the metrics; a contract names it with the metric as its group.
MEASURE_URL = "https://fhir-gateway.example/fhir/Measure/utilization"
_METRIC = "https://fhir-gateway.example/fhir/CodeSystem/utilization-metric"
_VBPR = "http://hl7.org/fhir/us/davinci-vbpr/"
_POPULATION = "http://terminology.hl7.org/CodeSystem/measure-population"
_SCORING = "http://terminology.hl7.org/CodeSystem/measure-scoring"
#: Of the definitions in this version.
_DATE = "2026-11-22"
_UCUM = "http://unitsofmeasure.org"
#: Digits of rates in reports.
_DIGITS = Decimal("0.000001")


def measure() -> dict[str, Any]:
    """The Measure of all metrics, its version that of their definitions."""
    known = metrics()
    version = next(iter(known.values())).version
    return {
        "resourceType": "Measure",
        "id": "utilization",
        "url": MEASURE_URL,
        "version": version,
        "name": "Utilization",
        "title": "Utilization and cost",
        "status": "active",
        "experimental": False,
        "date": _DATE,
        "publisher": "fhir-gateway",
        "description": "Utilization and cost out of claims: each group is a metric.",
        "scoring": _concept(_SCORING, "ratio"),
        "group": [
            {
                "code": _code(one),
                "description": f"{one.definition} Source: {one.source} (trust {one.trust}).",
                "population": [
                    _population("numerator", _criteria(one.numerator)),
                    _population("denominator", _criteria(one.denominator or "members")),
                ],
            }
            for one in known.values()
        ],
    }


def canonical() -> str:
    """Versioned canonical of the Measure."""
    return f"{MEASURE_URL}|{next(iter(metrics().values())).version}"


def groups(found: Utilization, currency: str = "USD") -> list[dict[str, Any]]:
    """A group per metric of the results, with its strata."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in found.table.to_pylist():
        rows.setdefault(row["metric"], []).append(row)
    return [_group(metric(name), those, currency) for name, those in rows.items()]


def vbpr_groups(found: Utilization, currency: str = "USD") -> list[dict[str, Any]]:
    """Those whose metric has a code of VBPR, without populations: its reports have none."""
    return [_without_populations(one) for one in groups(found, currency) if metric(one["id"]).vbpr]


def report(
    found: Utilization,
    reporter: Mapping[str, Any],
    issued: datetime,
    currency: str = "USD",
    subject: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The summary MeasureReport of results; its id is derived from what it says, but for the day of issue."""
    body: dict[str, Any] = {
        "resourceType": "MeasureReport",
        "status": "complete",
        "type": "summary",
        "measure": canonical(),
        "period": {"start": found.period[0].isoformat(), "end": found.period[1].isoformat()},
        "reporter": dict(reporter),
        "group": groups(found, currency),
    }
    if subject is not None:
        body["subject"] = dict(subject)
    text = json.dumps([body, dict(found.versions), found.through.isoformat()], sort_keys=True)
    identifier = f"u{hashlib.sha256(text.encode()).hexdigest()[:24]}"
    return {**body, "id": identifier, "date": issued.isoformat(timespec="seconds")}


def _without_populations(part: Any) -> Any:
    if isinstance(part, list):
        return [_without_populations(one) for one in part]
    if isinstance(part, dict):
        return {name: _without_populations(one) for name, one in part.items() if name != "population"}
    return part


def _group(about: Metric, rows: Sequence[Mapping[str, Any]], currency: str) -> dict[str, Any]:
    group: dict[str, Any] = {"id": about.id, "code": _code(about)}
    dimensions: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        whole = row["dimension"] is None
        if whole and row["category"] is None:
            group |= _populations(row)
            if score := _score(about, row, currency):
                group["measureScore"] = score
        elif whole:
            stratum = {"value": {"text": row["category"]}} | _stratum(about, row, currency)
            dimensions.setdefault("category", []).append(stratum)
        elif row["category"] is None:
            stratum = {"value": {"text": row["value"]}} | _stratum(about, row, currency)
            dimensions.setdefault(row["dimension"], []).append(stratum)
    if dimensions:
        group["stratifier"] = [{"code": [{"text": name}], "stratum": those} for name, those in dimensions.items()]
    return group


def _stratum(about: Metric, row: Mapping[str, Any], currency: str) -> dict[str, Any]:
    score = _score(about, row, currency)
    return _populations(row) | ({"measureScore": score} if score else {})


def _populations(row: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of numerator and denominator, where they are counts."""
    found = []
    for name in ("numerator", "denominator"):
        value = row[name]
        if value is not None and value == value.to_integral_value():
            found.append({"code": _concept(_POPULATION, name), "count": int(value)})
    return {"population": found} if found else {}


def _score(about: Metric, row: Mapping[str, Any], currency: str) -> dict[str, Any] | None:
    if about.denominator is not None and not row["denominator"]:
        return None
    exact: Decimal = row["numerator"]
    if about.denominator is not None:
        exact = exact * about.per / row["denominator"]
    if about.unit == "{money}":
        money = {"value": float(exact.quantize(Decimal("0.01"), ROUND_HALF_UP)), "currency": currency}
        return {
            "extension": [{"url": f"{_VBPR}StructureDefinition/alternate-measurescore", "valueMoney": money}],
        }
    value = exact.quantize(_DIGITS, ROUND_HALF_UP)
    number = int(value) if value == value.to_integral_value() else float(value)
    return {"value": number, "system": _UCUM, "code": about.unit}


def _code(about: Metric) -> dict[str, Any]:
    coding = [{"system": _METRIC, "code": about.id, "display": about.title}]
    if about.vbpr:
        coding.insert(0, {"system": f"{_VBPR}CodeSystem/vbp-performance-metric", "code": about.vbpr})
    return {"coding": coding, "text": about.title}


def _population(code: str, more: Mapping[str, Any]) -> dict[str, Any]:
    return {"code": _concept(_POPULATION, code), **more}


def _criteria(name: str) -> dict[str, Any]:
    return {"criteria": {"language": "text/x-tally", "expression": name}}


def _concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}
