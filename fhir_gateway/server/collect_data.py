"""``Measure/$collect-data`` and ``Measure/[id]/$collect-data`` (DEQM US 5.0.0, UV 1.0.0): the data of interest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter

from fhir_gateway.jobs.measure_requests import MeasureRequest
from fhir_gateway.server import deqm
from fhir_gateway.server.given import Given
from fhir_gateway.server.operations import Asked, Later, Operations, Routes
from fhir_gateway.server.registry import COLLECT_DATA

_KNOWN = (
    *deqm.PERIOD,
    *deqm.SELECTORS,
    *deqm.WHOM,
    *deqm.UV_PROVIDER,
    "practitioner",
    "organization",
    "organizationResource",
)
_REFUSED = (*deqm.REFUSED, "validateResources")


def router(operations: Operations) -> APIRouter:
    """Routes of the operation, on the type and on one Measure."""

    def work(asked: Asked) -> Mapping[str, Any] | Later:
        return deqm.answered(asked, read(asked), COLLECT_DATA.code)

    return Routes(operations, COLLECT_DATA, {"Measure": "r", "MeasureReport": "r"}, work).on_type().on_instance().router


def read(asked: Asked) -> MeasureRequest:
    """The request of a call; InputError or NotFoundError."""
    given = Given(asked.pairs, _KNOWN, _REFUSED)
    request = deqm.request_of(given, asked, deqm.measures_of(given, asked))
    return replace(request, provider=deqm.provider_of(request))
