"""``Measure/$submit-data`` and ``Measure/[id]/$submit-data``: data exchange reports and their data (DEQM 5 and 3, R4).

What is submitted goes the way of every import: into the lake, as of the sender. The reports are served as well, to
their sender and to those who see their subjects. What a snapshot leaves out stays as it is (ADR 0161).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.audience import CLIENT, label, labelled
from fhir_gateway.errors import InputError, Location
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.publish import References, published_id
from fhir_gateway.jobs.push import push
from fhir_gateway.jobs.selection import Selection
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of
from fhir_gateway.server.imports import (
    MOST_BUNDLE_BYTES,
    authorize,
    draft,
    named,
    promises,
    refusals,
    sender,
    source_name,
)
from fhir_gateway.server.negotiation import json_body, require_json
from fhir_gateway.server.operations import Operations
from fhir_gateway.server.problems import FHIR_JSON, issue, outcome
from fhir_gateway.server.registry import SUBMIT_DATA
from fhir_gateway.sources.contents import resource_types
from fhir_gateway.sources.models import StagedFile, StagedPull
from fhir_gateway.sources.submission import Submitted, read_submission, with_provenance

_NAME = "submitted.ndjson"
_NOBODY = pa.table({name: pa.array([], pa.string()) for name in ("_source", "id", "_member")})


def router(operations: Operations) -> APIRouter:
    """Routes of the operation: of all measures, and of one."""
    gateway = operations.gateway
    routes = APIRouter(tags=["Measure"])
    described = documentation.operation(SUBMIT_DATA, body=True)

    @routes.post("/Measure/$submit-data", **described)
    async def submit(request: Request) -> Response:
        return await _answer(gateway, request, None)

    @routes.post("/Measure/{id}/$submit-data", **described)
    async def submit_for_one(request: Request, id: str) -> Response:
        return await _answer(gateway, request, id)

    return routes


async def _answer(gateway: Gateway, request: Request, measure_id: str | None) -> Response:
    access = access_of(request)
    access.interaction, access.resource_type, access.resource_id = "$submit-data", "Measure", measure_id
    require_json(request)
    token = await run_in_threadpool(sender, gateway, request.headers.get("authorization"))
    access.client_id, access.purpose = token.client_id, token.purpose
    body = await json_body(request, min(gateway.settings.import_max_bytes, MOST_BUNDLE_BYTES))
    provenance = request.headers.get("x-provenance")

    def work() -> tuple[int, dict[str, Any]]:
        if measure_id is not None:
            Selection(gateway, gateway.resources.seen_by(token.audience)).of_id(measure_id)
        submitted = read_submission(body)
        access.named(["bundle" if b'"bundle"' in body else "measureReport"])
        with ExitStack() as held:
            return _take_in(gateway, draft(gateway, held), token, submitted, provenance)

    status, answered = await run_in_threadpool(work)
    return Response(orjson.dumps(answered), status, media_type=FHIR_JSON)


def _take_in(
    gateway: Gateway, folder: Path, token: AccessToken, submitted: Sequence[Submitted], provenance: str | None
) -> tuple[int, dict[str, Any]]:
    """Status and answer; everything is checked before anything is stored, and all of it is one version of the lake."""
    source = source_name(token.client_id)
    lines = [line for one in submitted for line in one.push.lines]
    if provenance is not None:
        lines.append(with_provenance(provenance, [f"{kind}/{id}" for one in submitted for kind, id, _ in one.entries]))
    path = folder / _NAME
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    digest = hashlib.sha256(source.encode() + b"\0" + path.read_bytes()).hexdigest()[:24]
    staged = StagedPull(f"files-{digest}", source, "files", None, (StagedFile(path, _NAME),))
    deletions = _deletions(submitted)
    authorize(token, resource_types(staged.files), deletions)
    places = [place for one in submitted for place in one.push.places]
    if any(one.push.atomic for one in submitted) and (refused := refusals(staged.files)):
        told = named(refused, [*places, len(places)])
        return 422, outcome(*told, issue("error", "processing", "nothing was stored"))
    noted, refusal = promises(gateway, staged.files)
    if refusal is not None:
        return 422, refusal
    report = push(gateway, staged, folder, deletions, noted)
    wrong = {line.line for line in gateway.lake.quarantined(report.pull_id)}
    _serve(gateway, source, token.client_id, submitted, wrong)
    patients = sorted({identity for one in submitted for kind, identity, _ in one.entries if kind == "Patient"})
    persons = gateway.persons.lookup(source, pa.array(patients, pa.string())).to_pylist()
    return 200, _answered(source, dict(zip(patients, persons, strict=True)), submitted, wrong)


def _deletions(submitted: Sequence[Submitted]) -> dict[str, tuple[str, ...]]:
    """What the Bundles delete; InputError when one writes what another deletes."""
    found: dict[str, tuple[str, ...]] = {}
    written = {(kind, identity) for one in submitted for kind, identity, _ in one.entries}
    for one in submitted:
        for kind, ids in one.push.deletions.items():
            if any((kind, identity) in written for identity in ids):
                raise InputError("a Bundle deletes what another writes", location=Location(path="bundle"))
            found[kind] = (*found.get(kind, ()), *ids)
    return found


def _serve(gateway: Gateway, source: str, client_id: str, submitted: Sequence[Submitted], wrong: set[int]) -> None:
    """Serve the reports that were taken in, their references led to what we serve."""
    references = References(gateway, _NOBODY, {})
    found = []
    first = 1
    for one in submitted:
        for number, text in one.reports.items():
            if first + number not in wrong:
                report = references.rewrite(source, text)
                named = {**report, "id": published_id(source, str(report["id"]))}
                found.append(labelled(named, label(CLIENT, client_id)))
        first += len(one.push.lines)
    gateway.resources.put_many(found)


def _answered(
    source: str, persons: Mapping[str, str], submitted: Sequence[Submitted], wrong: set[int]
) -> dict[str, Any]:
    """A response Bundle for each Bundle, entry by entry; ``wrong`` are the lines that were refused."""
    first = 1
    parameters = []
    for one in submitted:
        entries = list(_responses(source, persons, one, first, wrong))
        first += len(one.push.lines)
        kind = "transaction-response" if one.push.atomic else "batch-response"
        bundle = {"resourceType": "Bundle", "type": kind, "entry": entries}
        parameters.append({"name": "return", "resource": bundle})
    return {"resourceType": "Parameters", "parameter": parameters}


def _responses(
    source: str, persons: Mapping[str, str], one: Submitted, first: int, wrong: set[int]
) -> Iterator[Mapping[str, Any]]:
    by_place = {}
    for number, (place, (kind, identity, method)) in enumerate(zip(one.push.places, one.entries, strict=True)):
        if first + number in wrong:
            refused = outcome(issue("error", "invalid", "refused: the quarantine has it", f"Bundle.entry[{place}]"))
            by_place[place] = {"status": "422 Unprocessable Entity", "outcome": refused}
        else:
            status = "201 Created" if method == "POST" else "200 OK"
            served = persons[identity] if kind == "Patient" else published_id(source, identity)
            by_place[place] = {"status": status, "location": f"{kind}/{served}"}
    for place in range(one.count):  # what is no line was a deletion
        yield {"response": by_place.get(place, {"status": "204 No Content"})}
