"""DEQM data exchange MeasureReports: which data of a subject a measure is interested in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any

from fhir_gateway.measures.dialect import DIALECTS, Family
from fhir_gateway.measures.package import MeasurePackage

_CRITERIA = "http://hl7.org/fhir/StructureDefinition/cqf-criteriaReference"


def data_exchange(
    package: MeasurePackage,
    identity: str,
    subject: str,
    reporter: Mapping[str, Any],
    period: tuple[date, date],
    now: datetime,
    evidence: Iterable[tuple[str, Iterable[str]]],
    *,
    family: Family = "us",
) -> dict[str, Any]:
    """The report; ``evidence`` are references to resources, each with the ids of the criteria that look for it.

    It is a snapshot: all that there is of interest, whatever was collected before. Its type is ``data-collection``, the
    code that R4 has for what the guides call data exchange.
    """
    dialect = DIALECTS[family]
    evaluated = [
        {"extension": [{"url": _CRITERIA, "valueString": name} for name in names], "reference": reference}
        for reference, names in evidence
    ]
    report: dict[str, Any] = {
        "resourceType": "MeasureReport",
        "id": identity,
        "meta": {"profile": [dialect.data_exchange]},
        "extension": [{"url": dialect.update_type, "valueCode": "snapshot"}],
        "status": "complete",
        "type": "data-collection",
        "measure": f"{package.url}|{package.version}",
        "subject": {"reference": subject},
        "date": now.isoformat(timespec="milliseconds"),
        "reporter": dict(reporter),
        "period": {"start": period[0].isoformat(), "end": period[1].isoformat()},
    }
    return report | ({"evaluatedResource": evaluated} if evaluated else {})
