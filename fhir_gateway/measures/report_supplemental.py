"""Supplemental data in MeasureReports: resources by reference, other values as contained Observations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.measures.model import Mask, MeasureResult, SupplementalResult
from fhir_gateway.measures.texts import concatenated, escaped, flat, joined, text

Report = dict[str, Any]

_SUPPLEMENTAL = "http://hl7.org/fhir/5.0/StructureDefinition/extension-MeasureReport.supplementalData"
#: How texts of values begin that are references, and where they lead.
_REFERENCE = '{"valueReference":'
_REFERENCED = r'"reference":"(?P<reference>(?:[^"\\]|\\.)*)"'
_FRAME = ("before", "after", "opening", "closing")
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


@dataclass(frozen=True)
class SupplementalTexts:
    """For each member the contained Observations and the extensions as JSON, with commas between; None: nobody's."""

    contained: pa.Array | None
    extensions: pa.Array | None


def supplemental_texts(result: MeasureResult, indices: npt.NDArray[np.intp]) -> SupplementalTexts:
    """What :func:`individual_supplemental` gives, for many members at once."""
    tables = []
    for element in _in_report(result, "individual"):
        value = element.value.cast(pa.string())
        is_reference = pc.starts_with(value, _REFERENCE)
        reference = pc.struct_field(pc.extract_regex(value, _REFERENCED), "reference")
        skeleton = text(_observation(result, 0, dict(element.code)))
        before, after = skeleton.split('"id":"sde0"')
        mark = text(_extension(element, "#")).rsplit('"#"', 1)
        columns = {"member": pa.array(element.member), "is_reference": is_reference, "reference": reference}
        rows = len(element.member)
        columns |= {"value": pc.utf8_slice_codeunits(value, 1)}
        columns |= {name: pa.repeat(one, rows) for name, one in zip(_FRAME, (before, after[:-1], *mark), strict=True)}
        tables.append(pa.table(columns))
    if not tables:
        return SupplementalTexts(None, None)
    table = pa.concat_tables(tables)
    # members in order, and elements in order within a member
    table = table.take(pa.array(np.argsort(table["member"].to_numpy(), kind="stable"))).combine_chunks()
    member = table["member"].to_numpy()
    told = ~np.asarray(table["is_reference"].to_numpy(zero_copy_only=False), np.bool_)
    size = len(result.members)
    before_member = np.concatenate([[0], np.cumsum(told)])[np.searchsorted(member, np.arange(size + 1))]
    number = pa.array(np.cumsum(told) - before_member[member]).cast(pa.string())
    column = {name: flat(table[name]) for name in table.column_names}
    subject = escaped(result.members).take(pa.array(member))
    observations = concatenated(
        column["before"],
        '"id":"sde',
        number,
        '"',
        column["after"],
        ',"subject":{"reference":"Patient/',
        subject,
        '"},',
        column["value"],
    )
    target = pc.if_else(column["is_reference"], column["reference"], pc.binary_join_element_wise("#sde", number, ""))
    extensions = concatenated(column["opening"], '"', target, '"', column["closing"])
    chosen = pa.array(indices)
    return SupplementalTexts(
        joined(member[told], observations.filter(pa.array(told)), size).take(chosen),
        joined(member, extensions, size).take(chosen),
    )


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
        for told_as, count in sorted(pairs):
            observation = _observation(result, len(contained) + 1, _coded(orjson.loads(told_as)))
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
