"""``Measure/$evaluate`` and ``Measure/[id]/$evaluate`` (DEQM US 5.0.0, UV 1.0.0): reports of several measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter

from fhir_gateway.jobs.measure_requests import MeasureRequest
from fhir_gateway.server import deqm
from fhir_gateway.server.given import Given, wrong
from fhir_gateway.server.operations import Asked, Later, Operations, Routes
from fhir_gateway.server.parameters import REPORT_TYPES
from fhir_gateway.server.registry import EVALUATE

_KNOWN = (
    *deqm.PERIOD,
    *deqm.SELECTORS,
    *deqm.WHOM,
    *deqm.UV_PROVIDER,
    "programIdentifier",
    "programUrl",
    "practitioner",
    "reporter",
    "reportType",
)


def router(operations: Operations) -> APIRouter:
    """Routes of the operation, on the type and on one Measure."""

    def work(asked: Asked) -> Mapping[str, Any] | Later:
        return deqm.answered(asked, read(asked), EVALUATE.code)

    return Routes(operations, EVALUATE, {"Measure": "r", "MeasureReport": "r"}, work).on_type().on_instance().router


def read(asked: Asked) -> MeasureRequest:
    """The request of a call; InputError or NotFoundError."""
    given = Given(asked.pairs, _KNOWN, deqm.REFUSED)
    request = deqm.request_of(given, asked, deqm.measures_of(given, asked))
    provider = request.provider if "reporter" in given.names else deqm.provider_of(request)
    return replace(request, provider=provider, report_type=_report_type(given.text("reportType"), request))


def _report_type(text: str | None, request: MeasureRequest) -> str:
    """US: of subjects, when there are any named; UV: summary for a Group."""
    named = request.subject is not None or request.group is not None
    if text is None:
        of_one = request.subject is not None and request.subject[0] != "Group"
        return "individual" if (named if request.family == "us" else of_one) else "summary"
    report_type = REPORT_TYPES.get(text)
    if report_type is None:
        raise wrong("reportType", "not one of subject, subject-list, population; UV: individual, subject-list, summary")
    if report_type == "individual" and not named:
        raise wrong("subject", f"a report of type {text} needs a subject")
    return report_type
