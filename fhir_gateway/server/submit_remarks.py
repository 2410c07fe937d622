"""``Measure/$submit-remark-data``: coding gap reports with remarks, and what the remarks refer to (RA 3.0.0-ballot).

A remark may refer to an author or to evidence that is not here yet, which a patch cannot bring along. So a Bundle
brings both: from its reports the remarks are taken, by the rules of ``PATCH``, and nothing else; the other resources go
into the lake, as of the sender (evidence with its Patient, as by ``$submit-data``), and the remarks refer to what is
served of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.errors import InputError, Location
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.publish import published_id
from fhir_gateway.jobs.push import push
from fhir_gateway.jobs.selection import Selection
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.changing import read_resource
from fhir_gateway.server.imports import MOST_BUNDLE_BYTES, authorize, draft, named, promises, refusals, source_name
from fhir_gateway.server.negotiation import json_body, require_json
from fhir_gateway.server.operation_definitions import SUBMIT_REMARK_DATA
from fhir_gateway.server.problems import FHIR_JSON, issue, outcome
from fhir_gateway.server.remarking import TYPE, Remarked, Remarking, not_a_report
from fhir_gateway.server.writing import Change, Writes
from fhir_gateway.sources.contents import resource_types
from fhir_gateway.sources.models import StagedFile, StagedPull
from fhir_gateway.sources.submission import Submitted, read_submission

_NAME = "referred.ndjson"


def router(gateway: Gateway, writes: Writes, remarking: Remarking) -> APIRouter:
    """Routes of the operation: of all models, and of one."""
    routes = APIRouter(tags=["Measure"])
    described = documentation.operation(SUBMIT_REMARK_DATA, body=True)
    door = _Door(gateway, writes, remarking)

    @routes.post("/Measure/$submit-remark-data", **described)
    async def submit(request: Request) -> Response:
        return await door.answer(request, None)

    @routes.post("/Measure/{id}/$submit-remark-data", **described)
    async def submit_for_one(request: Request, id: str) -> Response:
        return await door.answer(request, id)

    return routes


class _Door:
    def __init__(self, gateway: Gateway, writes: Writes, remarking: Remarking) -> None:
        self._gateway = gateway
        self._writes = writes
        self._remarking = remarking

    async def answer(self, request: Request, measure_id: str | None) -> Response:
        gateway, access = self._gateway, access_of(request)
        access.interaction, access.resource_type = f"${SUBMIT_REMARK_DATA.code}", "Measure"
        access.resource_id = measure_id
        require_json(request)
        header = request.headers.get("authorization")
        token = await run_in_threadpool(admit, gateway.authorization, header, access, TYPE, "u")
        body = await json_body(request, min(gateway.settings.import_max_bytes, MOST_BUNDLE_BYTES))

        def work() -> tuple[int, dict[str, Any]]:
            if measure_id is not None:
                Selection(gateway, gateway.resources.seen_by(token.audience)).of_id(measure_id)
            submitted = read_submission(body)
            if any(one.name != "bundle" for one in submitted):
                raise InputError("parameter bundle: required", location=Location(path="bundle"))
            access.named(["bundle"])
            with ExitStack() as held:
                return self._take_in(draft(gateway, held), token, submitted)

        status, answered = await run_in_threadpool(work)
        return Response(orjson.dumps(answered), status, media_type=FHIR_JSON)

    def _take_in(self, folder: Path, token: AccessToken, submitted: Sequence[Submitted]) -> tuple[int, dict[str, Any]]:
        """Status and answer. Everything is checked first; the remarks are written together, after what they name."""
        source = source_name(token.client_id)
        if any(one.push.deletions for one in submitted):
            raise InputError("a Bundle of remarks deletes nothing", location=Location(path="bundle"))
        others = [
            (line, kind, identity, place)
            for one in submitted
            for line, (kind, identity, _), place in zip(one.push.lines, one.entries, one.push.places, strict=True)
            if kind != TYPE
        ]
        names = {
            f"{kind}/{identity}": f"{kind}/{published_id(source, identity)}"
            for _, kind, identity, _ in others
            if kind != "Patient"  # whom a remark names is somebody that is served already
        }
        made = [self._remarks(text, names, token) for one in submitted for text in one.reports.values()]
        if len({one.current.id for one in made}) != len(made):
            raise InputError("a report occurs twice", location=Location(path="bundle"))
        if others:
            refusal = self._store(folder, source, token, [line for line, *_ in others], [one[3] for one in others])
            if refusal is not None:
                return 422, refusal
        number = sum(len(one.new) for one in made)
        with self._writes.rest.store.writing() as changes:
            for one in made:
                if one.new:
                    self._remarking.write(changes, one, token)
        told = f"{number} remarks on {len(made)} reports were taken in, with {len(others)} other resources"
        return 200, outcome(issue("information", "informational", told))

    def _remarks(self, text: str, names: Mapping[str, str], token: AccessToken) -> Remarked:
        report = read_resource(text.encode(), TYPE)
        for group in report.get("group", ()) if isinstance(report.get("group"), list) else ():
            if isinstance(group, dict) and "extension" in group:
                group["extension"] = _led(group["extension"], names)
        made = self._remarking.of(Change("update", TYPE, str(report["id"]), resource=report), token)
        if made is None:
            raise not_a_report()
        return made

    def _store(
        self, folder: Path, source: str, token: AccessToken, lines: Sequence[str], places: Sequence[int]
    ) -> dict[str, Any] | None:
        """Put what the remarks refer to into the lake; an outcome when something of it is refused."""
        path = folder / _NAME
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        digest = hashlib.sha256(source.encode() + b"\0" + path.read_bytes()).hexdigest()[:24]
        staged = StagedPull(f"files-{digest}", source, "files", None, (StagedFile(path, _NAME),))
        authorize(token, resource_types(staged.files), ())
        if refused := refusals(staged.files):
            return outcome(*named(refused, places), issue("error", "processing", "nothing was stored"))
        noted, refusal = promises(self._gateway, staged.files)
        if refusal is None:
            push(self._gateway, staged, folder, {}, noted)
        return refusal


def _led(node: Any, names: Mapping[str, str]) -> Any:
    """The same with references to other entries as references to what is served of them."""
    if isinstance(node, list):
        return [_led(one, names) for one in node]
    if not isinstance(node, dict):
        return node
    found = {key: _led(value, names) for key, value in node.items()}
    reference = node.get("reference")
    return {**found, "reference": names[reference]} if isinstance(reference, str) and reference in names else found
