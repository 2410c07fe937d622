"""``Measure/[id]/$data-requirements``: what a measure needs, as a module definition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from fhir_gateway.measures.module_definition import module_definition
from fhir_gateway.server import deqm
from fhir_gateway.server.given import Given, wrong
from fhir_gateway.server.operations import Asked, Operations, Routes
from fhir_gateway.server.registry import DATA_REQUIREMENTS


def router(operations: Operations) -> APIRouter:
    """Routes of the operation, on one Measure and, with a measure named, on the type."""
    return Routes(operations, DATA_REQUIREMENTS, {"Measure": "r"}, _work).on_type().on_instance().router


def _work(asked: Asked) -> Mapping[str, Any]:
    given = Given(asked.pairs, (*deqm.PERIOD, *deqm.SELECTORS))
    packages = deqm.measures_of(given, asked)
    if len(packages) > 1:
        raise wrong("measureUrl", "one measure at a time")
    period = given.period() if given.names & set(deqm.PERIOD) else None
    return module_definition(packages[0], period)
