"""Reading what requests carry: preferences, query and form parameters, instants and date searches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from fhir_gateway.errors import InputError

Parameters = Sequence[tuple[str, str]]

_DAY = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_INSTANT = re.compile(_DAY + r"T\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)\Z")
_DATE_SEARCH = re.compile(r"(?P<prefix>eq|ne|gt|lt|ge|le|sa|eb)?(?P<value>\d.*)\Z")
_PRECISIONS = (
    (re.compile(r"\d{4}\Z"), "year"),
    (re.compile(r"\d{4}-\d\d\Z"), "month"),
    (re.compile(_DAY + r"\Z"), "day"),
    (re.compile(_DAY + r"T\d\d:\d\d(?:Z|[+-]\d\d:\d\d)?\Z"), "minute"),
    (re.compile(_DAY + r"T\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d)?\Z"), "second"),
    (re.compile(_DAY + r"T\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d)?\Z"), "fraction"),
)


def preferences(headers: Iterable[str]) -> frozenset[str]:
    """The preferences of all ``Prefer`` headers, joined by commas or repeated, in lower case without spaces."""
    return frozenset(part.strip().lower().replace(" ", "") for header in headers for part in header.split(","))


def form_parameters(body: bytes) -> Parameters:
    """Parameters of a form body; InputError when it is none."""
    try:
        return parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError as error:
        raise InputError("the form is malformed") from error


def resource_parameters(resource: object) -> Parameters:
    """Parameters of a FHIR ``Parameters`` resource, each value as a query would spell it."""
    if not isinstance(resource, dict) or resource.get("resourceType") != "Parameters":
        raise InputError("the body must be a Parameters resource")
    found: list[tuple[str, str]] = []
    for parameter in _objects(resource.get("parameter", [])):
        name = parameter.get("name")
        values = [value for key, value in parameter.items() if key.startswith("value")]
        if not isinstance(name, str) or len(values) != 1:
            raise InputError("every parameter needs a name and one value")
        value = values[0]
        if isinstance(value, dict):
            value = value.get("reference", "")
        found.append((name, str(value).lower() if isinstance(value, bool) else str(value)))
    return found


def _objects(items: object) -> list[dict[str, Any]]:
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError("Parameters.parameter must be a list of parameters")
    return items


def words(parameters: Parameters, name: str) -> list[str]:
    """Values of a parameter that may be repeated and may hold several, separated by commas."""
    return [part.strip() for key, value in parameters if key == name for part in value.split(",") if part.strip()]


def single(parameters: Parameters, name: str) -> str | None:
    """The value of a parameter that may occur once; InputError when it occurs more often."""
    values = [value for key, value in parameters if key == name]
    if len(values) > 1:
        raise InputError(f"{name} may occur only once")
    return values[0] if values else None


def instant(text: str, name: str) -> int:
    """An instant in epoch microseconds; InputError when it is none.

    A ``+`` that the sender did not percent-encode arrives as a space before the offset: it is put back.
    """
    repaired = re.sub(r" (?=\d\d:\d\d\Z)", "+", text)
    if not _INSTANT.match(repaired):
        raise InputError(f"{name} must be an instant such as 2026-01-01T00:00:00Z")
    return _microseconds(repaired, name)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A half-open range of epoch microseconds; ``inverted`` means everything outside of it."""

    start: int | None = None
    stop: int | None = None
    inverted: bool = False


def date_search(text: str, name: str) -> TimeRange:
    """The range that a date search value (``ge2026-01``) selects; times without offset are UTC."""
    match = _DATE_SEARCH.match(re.sub(r" (?=\d\d:\d\d\Z)", "+", text))
    if match is None:
        raise InputError(f"{name} must be a date or time, with a prefix or without")
    start, stop = _period(match["value"], name)
    prefix = match["prefix"] or "eq"
    ranges = {
        "eq": TimeRange(start, stop),
        "ne": TimeRange(start, stop, inverted=True),
        "ge": TimeRange(start=start),
        "gt": TimeRange(start=stop),
        "sa": TimeRange(start=stop),
        "lt": TimeRange(stop=start),
        "eb": TimeRange(stop=start),
        "le": TimeRange(stop=stop),
    }
    return ranges[prefix]


def _period(text: str, name: str) -> tuple[int, int]:
    precision = next((unit for pattern, unit in _PRECISIONS if pattern.match(text)), None)
    if precision is None:
        raise InputError(f"{name} must be a date or time")
    if precision in ("year", "month"):
        year, month = int(text[:4]), int(text[5:7] or "1")
        after = (year + 1, 1) if precision == "year" or month == 12 else (year, month + 1)
        ends = (f"{year:04}-{month:02}-01", f"{after[0]:04}-{after[1]:02}-01")
        return _microseconds(ends[0], name), _microseconds(ends[1], name)
    start = _microseconds(text, name)
    lengths = {"day": timedelta(days=1), "minute": timedelta(minutes=1), "second": timedelta(seconds=1)}
    return start, start + int(lengths.get(precision, timedelta(microseconds=1)) / timedelta(microseconds=1))


def _microseconds(text: str, name: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{name} is no such date or time") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
