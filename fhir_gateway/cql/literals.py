"""One-row vectors of literals and parameters."""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from fhir_gateway.cql.values import BoolVec, DateTimeVec, DecVec, IntVec, LongVec, NullVec, StrVec, Vec
from fhir_gateway.cql.values.scalars import SCALE, narrow
from fhir_gateway.cql.values.temporal import parse_dates, parse_datetimes, parse_times

_CONTEXT = Context(prec=60)  # Python's default of 28 digits is too few for 28 before the point and 8 after


def decimal_vector(value: Decimal | int | str) -> DecVec:
    """A Decimal, rounded half up to 8 decimals."""
    scaled = Decimal(value).scaleb(SCALE, _CONTEXT).to_integral_value(rounding="ROUND_HALF_UP")
    return DecVec(narrow(np.array([int(scaled)], dtype=object)))


def python_vector(value: object, offset_ms: int) -> Vec:
    """A Python value as a one-row vector; texts that are ISO dates or date-times stay strings."""
    if value is None:
        return NullVec(1)
    if isinstance(value, bool):
        return BoolVec(np.array([value]))
    if isinstance(value, int):
        return IntVec(np.array([value], dtype=np.int64))
    if isinstance(value, Decimal | float):
        return decimal_vector(Decimal(str(value)))
    if isinstance(value, datetime):
        return datetime_vector(value.isoformat(), offset_ms)
    if isinstance(value, date):
        return parse_dates(pa.array([value.isoformat()], pa.string()))
    return StrVec.constant(str(value), 1)


def datetime_vector(text: str, offset_ms: int) -> DateTimeVec:
    """An ISO date-time text."""
    return parse_datetimes(pa.array([text], pa.string()), offset_ms, zones=True)


_INTEGERS = {"Integer": 2**31, "Long": 2**63}
_SHAPES = {
    "Boolean": re.compile(r"(?i:true|false)"),
    "Integer": re.compile(r"[+-]?\d+"),
    "Long": re.compile(r"[+-]?\d+L?"),
    "Decimal": re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"),
    "Date": re.compile(r"\d{4}(-\d\d(-\d\d)?)?"),
    "DateTime": re.compile(r"\d{4}(-\d\d(-\d\d(T(\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?(Z|[+-]\d\d:\d\d)?)?)?)?"),
    "Time": re.compile(r"T?\d\d(:\d\d(:\d\d(\.\d+)?)?)?"),
}


def malformed(type_name: str, text: str) -> str | None:
    """What is wrong with the text of a literal, if it is none of its type."""
    shape = _SHAPES.get(type_name)
    return f"the text of the literal is no {type_name}" if shape and not shape.fullmatch(text) else None


def out_of_range(type_name: str, text: str) -> str | None:
    """What is wrong with a literal, if anything (CQL 1.5, author's guide, simple values)."""
    problem = malformed(type_name, text)
    if problem:
        return problem
    if type_name in _INTEGERS:
        limit = _INTEGERS[type_name]
        return None if -limit <= int(text.rstrip("Ll")) < limit else f"{type_name} literal out of range"
    if type_name == "Decimal":
        value = Decimal(text)
        if value.copy_abs() >= 10**28:
            return "Decimal literal of more than 28 digits before the point"
        if len(text.partition(".")[2]) > SCALE:
            return f"Decimal literal of more than {SCALE} digits after the point"
    return None


def literal_vector(type_name: str, value: Any, offset_ms: int) -> Vec:
    """An ELM literal of a System type."""
    if type_name == "Boolean":
        return BoolVec(np.array([str(value).lower() == "true"]))
    if type_name == "Integer":
        return IntVec(np.array([int(value)], dtype=np.int64))
    if type_name == "Long":
        return LongVec(np.array([int(str(value).rstrip("Ll"))], dtype=np.int64))
    if type_name == "Decimal":
        return decimal_vector(str(value))
    if type_name == "String":
        return StrVec.constant(str(value), 1)
    array = pa.array([str(value)], pa.string())
    if type_name == "Date":
        return parse_dates(array)
    if type_name == "DateTime":
        return datetime_vector(str(value), offset_ms)
    if type_name == "Time":
        return parse_times(array)
    raise KeyError(type_name)
