"""Coding gap reports (Da Vinci RA): ``MeasureReport/$report``, and ``$ra.evaluate-measure`` as RA 2.1.0 calls it.

The answer is made of what the risk room has computed (:class:`fhir_gateway.risk.CodingGapSource`). Where it computed
nothing the answer says so: an empty report would say that there are no gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.db.search.clinical import CLINICAL
from fhir_gateway.errors import InputError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.clinical import ClinicalRows
from fhir_gateway.jobs.publish import REPORTER
from fhir_gateway.jobs.subjects import Subjects
from fhir_gateway.risk import CodingGaps, CodingGapSource, RiskModel, coding_gap_report, report_bundle
from fhir_gateway.risk.reports import report_id
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.given import Given, wrong
from fhir_gateway.server.negotiation import operation_parameters, require_json
from fhir_gateway.server.operation_definitions import RA_EVALUATE_MEASURE, RA_REPORT, Operation
from fhir_gateway.server.problems import FHIR_JSON, TooCostly, UnknownResource

_MODELS = ("measureId", "measureIdentifier", "measureUrl")
_MOST_MEMBERS = 1000
"""Members in one answer; a larger list is asked for in parts."""


class NotComputed(InputError):
    """Nobody computed what is asked for; that is not the same as that there is nothing."""

    code, status, issue_type = "not-computed", 422, "not-supported"


def router(gateway: Gateway) -> APIRouter:
    """Routes of both operations, below the FHIR base."""
    routes = APIRouter(tags=["MeasureReport"])
    _add(routes, gateway, RA_REPORT, "/MeasureReport/$report")
    _add(routes, gateway, RA_EVALUATE_MEASURE, "/Measure/$ra.evaluate-measure")

    async def of_one(request: Request, id: str) -> Response:
        return await _answer(gateway, request, RA_EVALUATE_MEASURE, id)

    path = "/Measure/{id}/$ra.evaluate-measure"
    routes.get(path, **documentation.operation(RA_EVALUATE_MEASURE))(of_one)
    routes.post(path, **documentation.operation(RA_EVALUATE_MEASURE, body=True))(of_one)
    return routes


def _add(routes: APIRouter, gateway: Gateway, operation: Operation, path: str) -> None:
    async def asked(request: Request) -> Response:
        return await _answer(gateway, request, operation, None)

    routes.get(path, **documentation.operation(operation))(asked)
    routes.post(path, **documentation.operation(operation, body=True))(asked)


async def _answer(gateway: Gateway, request: Request, operation: Operation, measure_id: str | None) -> Response:
    access = access_of(request)
    access.interaction, access.resource_type, access.resource_id = f"${operation.code}", "MeasureReport", measure_id
    require_json(request)
    pairs = await operation_parameters(request)
    access.named([name for name, _ in pairs])
    header = request.headers.get("authorization")

    def work() -> bytes:
        admit(gateway.authorization, header, access, "Patient", "r")
        token = admit(gateway.authorization, header, access, "MeasureReport", "r")
        given = Given(pairs, [name for name, _ in operation.parameters])
        if measure_id is not None and given.one_of(*_MODELS):
            raise wrong(str(given.one_of(*_MODELS)), "the operation was called on a Measure already")
        store = gateway.resources.seen_by(token.audience)
        answered, persons = reports(
            gateway, store, given, operation, measure_id, lambda kind: token.allows(kind, "r", some=True)
        )
        access.disclose(persons)
        return orjson.dumps(answered)

    return Response(await run_in_threadpool(work), media_type=FHIR_JSON)


def reports(
    gateway: Gateway,
    store: ResourceStore,
    given: Given,
    operation: Operation,
    measure_id: str | None,
    reads: Callable[[str], bool],
) -> tuple[dict[str, Any], list[str]]:
    """A Bundle for each member as Parameters, and who they are.

    ``store`` is as the caller sees it, ``reads`` says which types of evidence they may read along.
    """
    period = given.period()
    subject = given.reference("subject", "Patient", "Group")
    if subject is None:
        raise wrong("subject", "required")
    try:
        persons = Subjects(store).of(subject, period) or []
    except NotFoundError:
        raise UnknownResource(f"there is no such {subject[0]}") from None
    if len(persons) > _MOST_MEMBERS:
        raise TooCostly(f"a list of more than {_MOST_MEMBERS} members is asked for member by member")
    chosen = _models(gateway.coding_gaps, given, operation, measure_id)
    found: dict[str, list[CodingGaps]] = {}
    computed = False
    for source, model in chosen:
        gaps = source.gaps(model, period, persons)
        computed = computed or gaps is not None
        for one in gaps or ():
            found.setdefault(one.person, []).append(one)
    if not computed:
        raise NotComputed("there are no results of this risk adjustment model for this period")
    patients = {one.id: one.json() for one in store.read_many(("Patient", person) for person in persons)}
    base = f"{gateway.settings.public_url.rstrip('/')}/fhir"
    made = _kept(gateway.resources, [one for person in patients for one in found.get(person, ())])
    evidence = _evidence(gateway, store, {who: found[who] for who in patients if who in found}, reads)
    bundles = []
    for who in persons:
        if who in patients:
            gaps_of = found.get(who, [])
            named = [evidence[name] for name in sorted(_named(gaps_of)) if name in evidence]
            bundles.append(report_bundle(base, patients[who], [made[report_id(one)] for one in gaps_of], named))
    parameters = [{"name": "return", "resource": one} for one in bundles]
    return {"resourceType": "Parameters"} | ({"parameter": parameters} if parameters else {}), sorted(patients)


def _kept(resources: ResourceStore, gaps: Sequence[CodingGaps]) -> dict[str, dict[str, Any]]:
    """The reports by id: as stored, with the remarks made on them, and from now on stored where they were not.

    What was answered is found by id and by search afterwards, so that it can be remarked on; a report that was computed
    anew has another id, and the one before stays.
    """
    reporter = {"reference": f"Organization/{REPORTER}"}
    made = {one["id"]: one for one in (coding_gap_report(one, reporter) for one in gaps)}
    names = [("MeasureReport", one) for one in made]
    known = {one.id for one in resources.read_many(names)}
    if len(known) < len(made):
        resources.put_many(one for name, one in made.items() if name not in known)
    return {one.id: one.json() for one in resources.read_many(names)}


def _named(gaps: Sequence[CodingGaps]) -> set[str]:
    """References to the evidence of gaps."""
    return {reference for one in gaps for category in one.categories for reference in category.evidence}


def _evidence(
    gateway: Gateway,
    store: ResourceStore,
    found: Mapping[str, Sequence[CodingGaps]],
    reads: Callable[[str], bool],
) -> dict[str, dict[str, Any]]:
    """Evidence of the gaps of persons by reference, as far as the caller may read it.

    Of a restricted scope (``Observation.r?category=laboratory``) only what meets it. What its source has taken back
    since the gaps were computed is not there.
    """
    wanted: dict[str, set[str]] = {}
    for gaps in found.values():
        for reference in _named(gaps):
            kind, _, resource_id = reference.partition("/")
            if reads(kind):
                wanted.setdefault(kind, set()).add(resource_id)
    rows = ClinicalRows(gateway)
    resources = {}
    for kind, ids in wanted.items():
        if kind in CLINICAL:
            held = (one.json() for one in rows.of_names(kind, ids, list(found)))
            resources.update({f"{kind}/{one['id']}": one for one in held if store.permits(one)})
        else:
            held = (one.json() for one in store.read_many((kind, one) for one in ids))
            resources.update({f"{kind}/{one['id']}": one for one in held})
    return resources


def _models(
    sources: Sequence[CodingGapSource], given: Given, operation: Operation, measure_id: str | None
) -> list[tuple[CodingGapSource, RiskModel]]:
    """The models that are asked for: those that are named, or for ``$report`` all of them."""
    every = [(source, model) for source in sources for model in source.models()]
    if not every:
        raise NotComputed("no risk adjustment model is computed here")
    ids, urls = given.texts("measureId"), given.texts("measureUrl")
    numbers = given.texts("measureIdentifier")
    if measure_id is not None:
        ids = [measure_id]
    if not (ids or urls or numbers):
        if operation is RA_EVALUATE_MEASURE:
            raise wrong("measureUrl", "name a model by measureId, measureIdentifier or measureUrl")
        return every
    found = [
        (source, model)
        for source, model in every
        if model.measure_id in ids
        or any(url in (model.url, model.canonical) for url in urls)
        or any(number in (model.identifier[1], "|".join(model.identifier)) for number in numbers)
    ]
    if not found:
        raise UnknownResource("there is no such risk adjustment model here")
    return found
