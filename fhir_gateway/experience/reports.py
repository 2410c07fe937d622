"""Scores as FHIR: a summary MeasureReport of each provider, a group for each metric, and the Measure that has them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import orjson

from fhir_gateway.experience.answers import NO_PROVIDER
from fhir_gateway.experience.instrument import Instrument, shipped, shipped_names
from fhir_gateway.experience.metrics import MEASURE_URL, VERSION, canonical, metrics_of
from fhir_gateway.experience.scoring import Score

_POPULATION = "http://terminology.hl7.org/CodeSystem/measure-population"
_SCORING = "http://terminology.hl7.org/CodeSystem/measure-scoring"
_ABSENT = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
_PLACES = 6

Report = dict[str, Any]


def measure(published: datetime) -> Report:
    """The Measure of all metrics of the shipped instruments."""
    groups = [
        {
            "code": {"text": one.id},
            "description": f"{instrument.composites[one.composite].title} ({instrument.title}, {instrument.version}), "
            + ("adjusted linear mean, 0 to 100" if one.linear else "adjusted top-box rate"),
            "population": [_population("measure-population", None)],
        }
        for instrument in map(shipped, shipped_names())
        for one in metrics_of(instrument)
    ]
    return {
        "resourceType": "Measure",
        "id": "patient-experience",
        "url": MEASURE_URL,
        "version": VERSION,
        "name": "PatientExperience",
        "title": "Patient experience",
        "status": "active",
        "experimental": False,
        "date": published.isoformat(timespec="seconds"),
        "publisher": "fhir-gateway",
        "description": "Surveys of patients: each group is a composite of an instrument.",
        "scoring": {"coding": [{"system": _SCORING, "code": "continuous-variable"}]},
        "group": groups,
    }


def report(
    instrument: Instrument,
    scores: Sequence[Score],
    period: tuple[date, date],
    reporter: Mapping[str, Any],
    issued: datetime,
) -> Report:
    """The report of one provider; counts below 11 surveys are masked, as are scores of too few."""
    by_composite = {one.composite: one for one in scores}
    groups = []
    for metric in metrics_of(instrument):
        one = by_composite[metric.composite]
        group: Report = {"id": metric.id, "code": {"text": metric.id}}
        group["population"] = [_population("measure-population", one.completes)]
        value = metric.of(one)
        if value is not None:
            group["measureScore"] = {"value": round(value, _PLACES)}
        groups.append(group)
    body: Report = {
        "resourceType": "MeasureReport",
        "status": "complete",
        "type": "summary",
        "measure": canonical(),
        "period": {"start": period[0].isoformat(), "end": period[1].isoformat()},
        "reporter": dict(reporter),
        "group": groups,
    }
    provider = scores[0].provider
    if provider != NO_PROVIDER:
        body["reporter"] = {"reference": provider}
    said = orjson.dumps([body, provider, instrument.id, instrument.version], option=orjson.OPT_SORT_KEYS)
    identifier = f"x{hashlib.sha256(said).hexdigest()[:24]}"
    return {**body, "id": identifier, "date": issued.isoformat(timespec="seconds")}


def _population(code: str, count: int | None) -> Report:
    found: Report = {"code": {"coding": [{"system": _POPULATION, "code": code}]}}
    if count is None:
        return found | {"criteria": {"language": "text/plain", "expression": "Completed surveys"}}
    if 0 < count < 11:
        return found | {"_count": {"extension": [{"url": _ABSENT, "valueCode": "masked"}]}}
    return found | {"count": count}
