"""Parameters of ``$evaluate-measure`` (R4 Measure operation), read and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from fhir_gateway.jobs.subjects import SUBJECTS
from fhir_gateway.server.given import Given, wrong

ReportType = Literal["individual", "subject-list", "summary"]

#: Words for the kinds of report: R4, DEQM (US and UV) and what the reports themselves are called.
REPORT_TYPES: dict[str, ReportType] = {
    "subject": "individual",
    "patient": "individual",
    "individual": "individual",
    "subject-list": "subject-list",
    "population": "summary",
    "summary": "summary",
}
_KNOWN = ("periodStart", "periodEnd", "measure", "reportType", "subject", "practitioner")


@dataclass(frozen=True, slots=True)
class EvaluateMeasure:
    """A request to evaluate one measure.

    ``measure`` is a canonical (url, optionally ``|version``), an id or ``Measure/id``; ``subject`` is (type, id);
    ``practitioner`` the id of one.
    """

    measure: str
    period: tuple[date, date]
    report_type: ReportType
    subject: tuple[str, str] | None
    practitioner: tuple[str, str] | None


def evaluate_measure_parameters(pairs: Sequence[tuple[str, Any]], measure_id: str | None) -> EvaluateMeasure:
    """Check the parameters of a call; ``measure_id`` is set when it was made on an instance. Raises InputError."""
    given = Given(pairs, _KNOWN)
    measure = given.text("measure")
    if measure_id is not None:
        if measure is not None:
            raise wrong("measure", "the operation was called on a Measure already")
        measure = f"Measure/{measure_id}"
    if not measure:
        raise wrong("measure", "required")
    period = given.period()
    subject = given.reference("subject", *SUBJECTS, bare="Patient")  # the DEQM test kit sends bare patient ids
    report_type = _report_type(given.text("reportType"), subject)
    practitioner = given.reference("practitioner", "Practitioner", bare="Practitioner")
    if practitioner is not None and subject is not None and subject[0] == "Patient":
        raise wrong("practitioner", "not together with a single subject")
    return EvaluateMeasure(measure, period, report_type, subject, practitioner)


def _report_type(text: str | None, subject: tuple[str, str] | None) -> ReportType:
    of_patient = subject is not None and subject[0] == "Patient"
    if text is None:
        return "individual" if of_patient else "summary"
    report_type = REPORT_TYPES.get(text)
    if report_type is None:
        raise wrong("reportType", "not one of subject, subject-list, population")
    if report_type == "individual" and not of_patient:
        raise wrong("subject", "a report of type subject needs a Patient")
    return report_type
