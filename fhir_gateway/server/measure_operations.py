"""The operations on Measure, each a module of its own."""

from __future__ import annotations

from fastapi import APIRouter

from fhir_gateway.factory import Gateway
from fhir_gateway.server import (
    care_gaps,
    collect_data,
    data_requirements,
    equity,
    evaluate,
    evaluate_measure,
    submit_data,
)
from fhir_gateway.server.operations import Operations
from fhir_gateway.server.respond_async import RespondAsync


def router(gateway: Gateway, respond_async: RespondAsync) -> APIRouter:
    """Routes of all of them, below the FHIR base."""
    operations = Operations(gateway, respond_async)
    routes = APIRouter()
    for operation in (evaluate_measure, evaluate, care_gaps, collect_data, submit_data, data_requirements, equity):
        routes.include_router(operation.router(operations))
    return routes
