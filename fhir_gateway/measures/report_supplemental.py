"""Supplemental data in MeasureReports: resources by reference, other values as contained Observations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.measures.model import Mask, MeasureResult, SupplementalResult

Report = dict[str, Any]

_SUPPLEMENTAL = "http://hl7.org/fhir/5.0/StructureDefinition/extension-MeasureReport.supplementalData"
_CRITERIA = "http://hl7.org/fhir/StructureDefinition/cqf-criteriaReference"
_MEASURE_INFO = "http://hl7.org/fhir/StructureDefinition/cqf-measureInfo"


def individual_supplemental(
    result: MeasureResult, member_index: int, subject: str
) -> tuple[list[Report], list[Report]]:
    """Contained Observations and extensions of one member's report."""
    contained: list[Report] = []
    extensions: list[Report] = []
    for element in _in_report(result, "individual"):
        first, last = np.searchsorted(element.member, [member_index, member_index + 1])
        for value in map(orjson.loads, element.value[int(first) : int(last)].to_pylist()):
            if "valueReference" in value:
                extensions.append(_extension(element, value["valueReference"]["reference"]))
                continue
            observation = _observation(result, len(contained) + 1, dict(element.code))
            contained.append(observation | {"subject": {"reference": subject}} | value)
            extensions.append(_extension(element, f"#{observation['id']}"))
    return contained, extensions


def summary_supplemental(result: MeasureResult, mask: Mask | None) -> tuple[list[Report], list[Report]]:
    """One contained Observation for each distinct value: its code is the value, its valueInteger the subjects.

    Resources are no values to be counted, and would name subjects; they are left out.
    """
    contained: list[Report] = []
    extensions: list[Report] = []
    for element in _in_report(result, "summary"):
        value = element.value if mask is None else element.value.filter(pa.array(mask[element.member]))
        counts = pc.value_counts(value)
        texts = counts.field("values")
        texts = texts.dictionary_decode() if pa.types.is_dictionary(texts.type) else texts
        told = pc.invert(pc.starts_with(texts, '{"valueReference"'))
        pairs = zip(texts.filter(told).to_pylist(), counts.field("counts").filter(told).to_pylist(), strict=True)
        for text, count in sorted(pairs):
            observation = _observation(result, len(contained) + 1, _coded(orjson.loads(text)))
            contained.append(observation | {"valueInteger": count})
            extensions.append(_extension(element, f"#{observation['id']}"))
    return contained, extensions


def _in_report(result: MeasureResult, report_type: str) -> Iterator[SupplementalResult]:
    return (e for e in result.supplemental if not e.report_types or report_type in e.report_types)


def _coded(value: Mapping[str, Any]) -> Report:
    """What a value is counted under."""
    if "valueCodeableConcept" in value:
        return dict(value["valueCodeableConcept"])
    ((kind, content),) = value.items()
    if kind == "valueBoolean":
        return {"text": "true" if content else "false"}
    return {"text": content if isinstance(content, str) else orjson.dumps(content).decode()}


def _observation(result: MeasureResult, number: int, code: Report) -> Report:
    return {
        "resourceType": "Observation",
        "id": f"sde{number}",
        "extension": [{"url": _MEASURE_INFO, "extension": [{"url": "measure", "valueCanonical": result.canonical}]}],
        "status": "final",
        "code": code,
        "effectivePeriod": {"start": result.period[0].isoformat(), "end": result.period[1].isoformat()},
    }


def _extension(element: SupplementalResult, reference: str) -> Report:
    criteria = {"url": _CRITERIA, "valueString": element.id}
    return {"url": _SUPPLEMENTAL, "valueReference": {"extension": [criteria], "reference": reference}}
