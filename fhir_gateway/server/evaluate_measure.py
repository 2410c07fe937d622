"""``Measure/$evaluate-measure`` (R4 Measure operation; DEQM keeps it as a compatibility alias).

The measure is evaluated now, over the newest version of the lake, while the client waits; the answer is one
MeasureReport. Results of whole populations are better searched: ``MeasureReport?measure=...``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fastapi import APIRouter

from fhir_gateway.db.audience import Audience
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.reporting import OURSELVES, evaluate_now
from fhir_gateway.jobs.selection import Selection
from fhir_gateway.jobs.subjects import Subjects
from fhir_gateway.measures import reports
from fhir_gateway.server.operations import Asked, Operations, Routes
from fhir_gateway.server.parameters import EvaluateMeasure, evaluate_measure_parameters
from fhir_gateway.server.problems import UnknownResource
from fhir_gateway.server.registry import EVALUATE_MEASURE


def router(operations: Operations) -> APIRouter:
    """Routes of the operation, on the type and on one Measure."""

    def work(asked: Asked) -> Mapping[str, Any]:
        parameters = evaluate_measure_parameters(asked.pairs, asked.measure_id)
        return evaluate(asked.gateway, parameters, asked.token.audience, asked.now)

    routes = Routes(operations, EVALUATE_MEASURE, {"Measure": "r", "MeasureReport": "r"}, work)
    return routes.on_type().on_instance().router


def evaluate(gateway: Gateway, asked: EvaluateMeasure, audience: Audience, now: datetime) -> Mapping[str, Any]:
    """The MeasureReport over members that ``audience`` sees.

    Raises NotFoundError for a measure, patient, group or practitioner that is not here, for it.
    """
    store = gateway.resources.seen_by(audience)
    package = Selection(gateway, store).of_reference(asked.measure)
    members = Subjects(store).of(asked.subject, asked.period, asked.practitioner)
    individual = asked.report_type == "individual"
    evaluated = evaluate_now(gateway, [package], members, asked.period, now, interest=individual)
    (result,) = evaluated.results
    if individual:
        if not evaluated.members:
            raise UnknownResource("there is no such Patient")
        report = reports.individual(result, 0, OURSELVES)
        return evaluated.naming_evidence(report, 0, evaluated.members[0], "us")
    if asked.report_type == "subject-list":
        return reports.subject_list(result, OURSELVES, stored=False)
    return reports.summary(result, OURSELVES)
