"""``Measure/$evaluate-measure`` (R4 Measure operation; DEQM keeps it as a compatibility alias).

The measure is evaluated now, over the newest version of the lake; the answer is one MeasureReport. Results of whole
populations are better searched: ``MeasureReport?measure=...``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from fhir_gateway.jobs.measure_requests import MeasureRequest
from fhir_gateway.jobs.selection import Selection
from fhir_gateway.server import deqm
from fhir_gateway.server.operations import Asked, Later, Operations, Routes
from fhir_gateway.server.parameters import evaluate_measure_parameters
from fhir_gateway.server.registry import EVALUATE_MEASURE


def router(operations: Operations) -> APIRouter:
    """Routes of the operation, on the type and on one Measure."""

    def work(asked: Asked) -> Mapping[str, Any] | Later:
        return deqm.answered(asked, read(asked), EVALUATE_MEASURE.code)

    routes = Routes(operations, EVALUATE_MEASURE, {"Measure": "r", "MeasureReport": "r"}, work)
    return routes.on_type().on_instance().router


def read(asked: Asked) -> MeasureRequest:
    """The request of a call; InputError or NotFoundError."""
    parameters = evaluate_measure_parameters(asked.pairs, asked.measure_id)
    package = Selection(asked.gateway, asked.store).of_reference(parameters.measure)
    start, end = parameters.period
    return MeasureRequest(
        measures=(f"{package.url}|{package.version}",),
        period=(start.isoformat(), end.isoformat()),
        now=asked.now.isoformat(),
        zone=str(asked.now.tzinfo),
        subject=parameters.subject,
        provider=parameters.practitioner,
        report_type=parameters.report_type,
    )
