"""``Measure/$stratify``: kept results of measures by who the members are, as summary MeasureReports with strata.

The operation is ours (``profiles/OperationDefinition-stratify.json``): DEQM's strata are those that a Measure states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from fhir_gateway.equity.dimensions import chosen
from fhir_gateway.equity.reports import stratified_report
from fhir_gateway.errors import NotFoundError
from fhir_gateway.jobs.equity import Question, stratified
from fhir_gateway.jobs.publish import REPORTER
from fhir_gateway.jobs.selection import Selection
from fhir_gateway.jobs.subjects import Subjects
from fhir_gateway.server.given import Given, wrong
from fhir_gateway.server.operation_definitions import STRATIFY
from fhir_gateway.server.operations import Asked, Operations, Routes
from fhir_gateway.server.problems import UnknownResource, issue, outcome

_NAMES = ("measureId", "measureUrl")
#: What the counts are made of: a client must be able to read each of these types as a whole.
_NEEDS = {"Measure": "r", "MeasureReport": "r", "Patient": "r"}


def router(operations: Operations) -> APIRouter:
    """Routes of the operation, on the type and on one Measure."""
    return Routes(operations, STRATIFY, _NEEDS, answer).on_type().on_instance().router


def answer(asked: Asked) -> Mapping[str, Any]:
    """Parameters with a report for each measure, and an outcome that says what is not shown at all."""
    given = Given(asked.pairs, [name for name, _ in STRATIFY.parameters])
    period = given.period()
    dimensions = tuple(given.texts("dimension"))
    chosen(dimensions)
    if asked.measure_id is not None and given.one_of(*_NAMES):
        raise wrong(str(given.one_of(*_NAMES)), "the operation was called on a Measure already")
    select = Selection(asked.gateway, asked.store)
    ids = [asked.measure_id] if asked.measure_id is not None else given.texts("measureId")
    packages = [select.of_id(one) for one in ids] + [select.of_canonical(one) for one in given.texts("measureUrl")]
    subject = given.reference("subject", "Group")
    try:
        members = Subjects(asked.store).of(subject, period)
    except NotFoundError:
        raise UnknownResource("there is no such Group") from None
    measures = tuple(f"{one.url}|{one.version}" for one in packages)
    strata = stratified(asked.gateway, period, Question(measures, dimensions, members=members))
    reporter = {"reference": f"Organization/{REPORTER}"}
    told = dict.fromkeys(one.metric.measure for one in strata.breakdowns if one.metric.measure)
    parameters: list[dict[str, Any]] = [
        {
            "name": "return",
            "resource": stratified_report(
                strata,
                [one for one in strata.breakdowns if one.metric.measure == canonical],
                measure=canonical,
                period=period,
                reporter=reporter,
                now=asked.now,
            ),
        }
        for canonical in told
    ]
    if strata.notes:
        said = outcome(*(issue("information", "suppressed", text) for text in strata.notes))
        parameters.append({"name": "outcome", "resource": said})
    return {"resourceType": "Parameters", "parameter": parameters}
