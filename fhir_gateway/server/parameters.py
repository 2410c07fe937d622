"""Parameters of ``$evaluate-measure`` (R4 Measure operation), read and checked before anything is computed."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from fhir_gateway.errors import InputError, Location

ReportType = Literal["individual", "subject-list", "summary"]

#: Words for the kinds of report: R4, DEQM (US and UV) and what the reports themselves are called.
_REPORT_TYPES: dict[str, ReportType] = {
    "subject": "individual",
    "patient": "individual",
    "individual": "individual",
    "subject-list": "subject-list",
    "population": "summary",
    "summary": "summary",
}
_TIME = r"T\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?"
_DATE = re.compile(rf"(\d{{4}})(?:-(\d\d)(?:-(\d\d)(?:{_TIME})?)?)?", re.ASCII)
_REFERENCE = re.compile(r"(Patient|Group)/([A-Za-z0-9.-]{1,64})")
_BARE_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
#: Understood; any other name is refused, because ignoring it could change whom or what a report is about.
_KNOWN = frozenset({"periodStart", "periodEnd", "measure", "reportType", "subject", "practitioner"})


@dataclass(frozen=True, slots=True)
class EvaluateMeasure:
    """A request to evaluate one measure.

    ``measure`` is a canonical (url, optionally ``|version``), an id or ``Measure/id``; ``subject`` is
    (``Patient`` or ``Group``, id); ``practitioner`` a reference.
    """

    measure: str
    period: tuple[date, date]
    report_type: ReportType
    subject: tuple[str, str] | None
    practitioner: str | None


def evaluate_measure_parameters(pairs: Sequence[tuple[str, Any]], measure_id: str | None) -> EvaluateMeasure:
    """Check the parameters of a call; ``measure_id`` is set when it was made on an instance. Raises InputError."""
    values = _single(pairs)
    measure = values.get("measure")
    if measure_id is not None:
        if measure is not None:
            raise _wrong("measure", "the operation was called on a Measure already")
        measure = f"Measure/{measure_id}"
    if not measure:
        raise _wrong("measure", "required")
    start, end = _first_day(values.get("periodStart")), _last_day(values.get("periodEnd"))
    if end < start:
        raise _wrong("periodEnd", "before periodStart")
    subject = _subject(values.get("subject"))
    report_type = _report_type(values.get("reportType"), subject)
    practitioner = values.get("practitioner")
    if practitioner is not None and subject is not None and subject[0] == "Patient":
        raise _wrong("practitioner", "not together with a single subject")
    return EvaluateMeasure(measure, (start, end), report_type, subject, practitioner)


def _wrong(name: str, rule: str) -> InputError:
    return InputError(f"parameter {name}: {rule}", location=Location(path=name))


def _single(pairs: Sequence[tuple[str, Any]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in pairs:
        if name not in _KNOWN:
            raise InputError(
                "a parameter is not one of: " + ", ".join(sorted(_KNOWN)), location=Location(rule="unknown")
            )
        if isinstance(value, dict) and isinstance(value.get("reference"), str):
            value = value["reference"]  # subject as valueReference
        if not isinstance(value, str) or not value:
            raise _wrong(name, "not a text value")
        if name in values:
            raise _wrong(name, "more than once")
        values[name] = value
    return values


def _first_day(text: str | None) -> date:
    year, month, day = _parts("periodStart", text)
    return _date("periodStart", year, month or 1, day or 1)


def _last_day(text: str | None) -> date:
    year, month, day = _parts("periodEnd", text)
    month = month or 12
    if day is None and 1 <= month <= 12 and year >= 1:
        day = monthrange(year, month)[1]
    return _date("periodEnd", year, month, day or 1)


def _parts(name: str, text: str | None) -> tuple[int, int | None, int | None]:
    if text is None:
        raise _wrong(name, "required")
    match = _DATE.fullmatch(text)
    if match is None:
        raise _wrong(name, "not a FHIR date")
    year, month, day = match.groups()
    return int(year), int(month) if month else None, int(day) if day else None


def _date(name: str, year: int, month: int, day: int) -> date:
    try:
        return date(year, month, day)
    except ValueError:
        raise _wrong(name, "no such day") from None


def _subject(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    tail = "/".join(text.split("/")[-2:])  # an absolute reference to us counts by its last two parts
    match = _REFERENCE.fullmatch(tail)
    if match:
        return match[1], match[2]
    if _BARE_ID.fullmatch(text):  # the DEQM test kit sends bare patient ids
        return "Patient", text
    raise _wrong("subject", "not a Patient or Group reference")


def _report_type(text: str | None, subject: tuple[str, str] | None) -> ReportType:
    of_patient = subject is not None and subject[0] == "Patient"
    if text is None:
        return "individual" if of_patient else "summary"
    report_type = _REPORT_TYPES.get(text)
    if report_type is None:
        raise _wrong("reportType", "not one of subject, subject-list, population")
    if report_type == "individual" and not of_patient:
        raise _wrong("subject", "a report of type subject needs a Patient")
    return report_type
