"""Distinct values of a vector as FHIR ``value[x]``: what strata and supplemental data are told apart by.

Only distinct values become Python objects; rows are numbers. A value has one form whatever batch it comes from: codes
are system and code without version and display, codings of a concept are sorted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from fhir_gateway.cql.values import (
    BoolVec,
    ChoiceVec,
    CodeVec,
    ConceptVec,
    DateTimeVec,
    DateVec,
    DecVec,
    ElementVec,
    IntervalVec,
    IntVec,
    ListVec,
    LongVec,
    NullVec,
    QuantityVec,
    RatioVec,
    StrVec,
    TupleVec,
    UncertainVec,
    Vec,
)
from fhir_gateway.cql.values.base import dense

#: ``{"valueString": "x"}``, ``{"valueCodeableConcept": {...}}`` ..., or ``{"component": [...]}`` of a tuple.
Value = Mapping[str, Any]
Numbers = npt.NDArray[np.int32]


def distinct(vector: Vec) -> tuple[Numbers, list[Value]]:
    """The number of each row's value in the list of distinct values; -1 where the row is null."""
    if isinstance(vector, UncertainVec):
        vector = vector.certain()
    numbers = np.full(len(vector), -1, np.int32)
    rows = np.flatnonzero(vector.valid)
    if not len(rows):
        return numbers, []
    known = _told_apart(vector.take(rows))
    if _is_told_as_written(known):  # equal ones may be written differently, and each is told as its own
        keys = first = np.arange(len(known))
    else:
        keys = dense(*known.key_columns())
        _, first = np.unique(keys, return_index=True)
    values = fhir_values(known.take(first))
    places: dict[str, int] = {}
    kept: list[Value] = []
    place = np.full(len(values), -1, np.int32)
    for index, value in enumerate(values):  # distinct values, not rows
        if value is not None:
            text = value_key(value)
            if text not in places:
                places[text] = len(kept)
                kept.append(value)
            place[index] = places[text]
    numbers[rows] = place[keys]
    return numbers, kept


def _is_told_as_written(vector: Vec) -> bool:
    """Whether values are FHIR elements that are told as their JSON has them."""
    if isinstance(vector, ElementVec):
        return not _is_primitive(vector)
    if isinstance(vector, ListVec):
        return _is_told_as_written(vector.flat)
    if isinstance(vector, TupleVec):
        return any(_is_told_as_written(field) for field in vector.fields.values())
    return isinstance(vector, ChoiceVec) and any(_is_told_as_written(option) for option in vector.options)


def _told_apart(vector: Vec) -> Vec:
    """The vector with only those parts of codes that make a value another one, and certain integers."""
    if isinstance(vector, UncertainVec):
        return vector.certain()
    if isinstance(vector, CodeVec):
        return CodeVec({"code": vector.code, "system": vector.system}, vector.valid)
    if isinstance(vector, ListVec):
        return ListVec(vector.offsets, _told_apart(vector.flat), vector.valid)
    if isinstance(vector, TupleVec) and not isinstance(vector, ConceptVec | RatioVec):
        return TupleVec({name: _told_apart(field) for name, field in vector.fields.items()}, vector.valid)
    return vector


def value_key(value: Value) -> str:
    """Text that is equal for equal values; also their order in reports."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def fhir_values(vector: Vec) -> list[Value | None]:
    """``value[x]`` of each row; None for null and for what has no content."""
    if isinstance(vector, NullVec):
        return [None] * len(vector)
    if isinstance(vector, ChoiceVec):
        merged: list[Value | None] = [None] * len(vector)
        for option in vector.options:
            merged = [
                found if found is not None else have for have, found in zip(merged, fhir_values(option), strict=True)
            ]
        return merged
    if isinstance(vector, ElementVec):
        return _element_values(vector)
    return [None if row is None else _value(vector, row) for row in _rows(vector)]


def _rows(vector: Vec) -> list[Any]:
    if isinstance(vector, TupleVec) and not isinstance(vector, CodeVec | ConceptVec):
        columns = {name: fhir_values(column) for name, column in vector.fields.items()}
        if vector.fields.keys() <= {"code", "codes", "display"}:  # race, ethnicity and payer of published measures
            columns.pop("display", None)
        return [
            {name: column[row] for name, column in columns.items()} if known else None
            for row, known in enumerate(vector.valid.tolist())
        ]
    if isinstance(vector, ListVec):
        flat = fhir_values(vector.flat)
        return [
            flat[start:end] if known else None
            for start, end, known in zip(
                vector.offsets[:-1].tolist(), vector.offsets[1:].tolist(), vector.valid.tolist(), strict=True
            )
        ]
    return vector.pylist()


def _value(vector: Vec, row: Any) -> Value | None:
    if isinstance(vector, BoolVec):
        return {"valueBoolean": bool(row)}
    if isinstance(vector, IntVec):
        return {"valueInteger": int(row)}
    if isinstance(vector, LongVec):
        return {"valueString": str(row)}  # R4 has no 64-bit integer
    if isinstance(vector, DecVec):
        return {"valueQuantity": {"value": float(row)}}
    if isinstance(vector, StrVec):
        return {"valueString": str(row)}
    if isinstance(vector, CodeVec):
        return concept([row])
    if isinstance(vector, ConceptVec):
        return concept(row.get("codes") or [], row.get("display"))
    if isinstance(vector, QuantityVec):
        return {"valueQuantity": {"value": float(row["value"])} | ({"unit": row["unit"]} if row["unit"] else {})}
    if isinstance(vector, DateVec):
        return {"valueDateTime": str(row)}
    if isinstance(vector, IntervalVec):
        return _period(row) if isinstance(vector.low, DateVec | DateTimeVec) else {"valueString": _text(row)}
    if isinstance(vector, ListVec):
        return _listed(row)
    if isinstance(vector, TupleVec):
        return _components(row)
    return {"valueString": _text(row)}  # dates with times have no zone on the request's clock


def concept(codings: Sequence[Mapping[str, Any]], text: Any = None) -> Value | None:
    """A CodeableConcept of sorted codings; its text only where there is no coding."""
    found = {(coding.get("system") or "", coding.get("code") or "") for coding in codings if coding}
    coding = [({"system": system} if system else {}) | {"code": code} for system, code in sorted(found) if code]
    if coding:
        return {"valueCodeableConcept": {"coding": coding}}
    return {"valueCodeableConcept": {"text": str(text)}} if text else None


def _element_values(vector: ElementVec) -> list[Value | None]:
    if vector.source.is_resource:
        return [None if row is None else {"valueReference": {"reference": row}} for row in vector.pylist()]
    primitive = vector.primitive() if _is_primitive(vector) else None
    if primitive is not None:
        return fhir_values(primitive)
    return [None if row is None else _complex(vector.fhir_type, row) for row in vector.pylist()]


def _is_primitive(vector: ElementVec) -> bool:
    return vector.fhir_type[:1].islower() and vector.fhir_type != "xhtml"


def _complex(fhir_type: str, row: Mapping[str, Any]) -> Value | None:
    if fhir_type == "CodeableConcept":
        return concept(row.get("coding") or [], row.get("text"))
    if fhir_type == "Coding":
        return concept([row])
    if fhir_type in ("Quantity", "Period", "Range", "Ratio"):
        plain: Any = orjson.loads(orjson.dumps(row, default=_plain))
        return {f"value{fhir_type}": plain} if plain else None
    return {"valueString": _text(row)}


def _listed(row: Sequence[Value | None]) -> Value | None:
    found = [value for value in row if value is not None]
    codings = [coding for value in found for coding in value.get("valueCodeableConcept", {}).get("coding", ())]
    if codings and all("valueCodeableConcept" in value for value in found):
        return concept(codings)
    return {"valueString": _text(found)} if found else None


def _components(row: Mapping[str, Any]) -> Value | None:
    found = {name: value for name, value in row.items() if value is not None}
    if found.keys() <= {"code", "codes"} and all("valueCodeableConcept" in value for value in found.values()):
        return concept([c for value in found.values() for c in value["valueCodeableConcept"].get("coding", ())])
    listed: list[Value] = []
    for name, value in sorted(found.items()):
        nested: dict[str, Any] = {"valueString": _text(value)} if "component" in value else dict(value)
        if "valueReference" in nested:  # no choice of Observation.component
            nested = {"valueString": nested["valueReference"]["reference"]}
        listed.append({"code": {"text": name}} | nested)
    return {"component": listed} if listed else None


def _period(row: Mapping[str, Any]) -> Value:
    days = {"start": row["low"], "end": row["high"]}
    return {"valuePeriod": {name: str(day)[:10] for name, day in days.items() if day is not None}}


def _text(row: Any) -> str:
    return row if isinstance(row, str) else orjson.dumps(row, option=orjson.OPT_SORT_KEYS, default=_plain).decode()


def _plain(value: Any) -> Any:
    return float(value) if hasattr(value, "as_tuple") else str(value)
