"""``GET MeasureReport/[id]/$payment-rows``: the rows that a settlement's payments by member month are the sums of.

The operation is ours (``profiles/OperationDefinition-payment-rows.json``). It answers for those who see the settlement,
with the rows of persons whom they see.
"""

from __future__ import annotations

import re
from base64 import b64encode

import orjson
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.payment_rows import as_csv, as_ndjson, payment_rows
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.given import Given, wrong
from fhir_gateway.server.negotiation import operation_parameters
from fhir_gateway.server.operation_definitions import PAYMENT_ROWS
from fhir_gateway.server.problems import FHIR_JSON, UnknownResource

#: Rows of an answer unless ``_count`` says how many, and the most of one.
ROWS, MOST = 10_000, 100_000
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_FORMATS = {"csv": "text/csv", "text/csv": "text/csv", "ndjson": "application/x-ndjson"}
_FORMATS |= {"application/x-ndjson": "application/x-ndjson"}


def router(gateway: Gateway) -> APIRouter:
    """The operation's route, below the FHIR base."""
    routes = APIRouter(tags=["MeasureReport"])

    @routes.get("/MeasureReport/{id}/$payment-rows", **documentation.operation(PAYMENT_ROWS))
    async def rows(request: Request, id: str) -> Response:
        access = access_of(request)
        access.interaction, access.resource_type, access.resource_id = "$payment-rows", "MeasureReport", id
        pairs = await operation_parameters(request)
        access.named([name for name, _ in pairs])
        header = request.headers.get("authorization")

        def work() -> Response:
            token = admit(gateway.authorization, header, access, "MeasureReport", "r", some=True)
            if not token.allows("Patient", "r", some=True):
                token.require("Patient", "r")
            given = Given(pairs, [name for name, _ in PAYMENT_ROWS.parameters])
            seen = gateway.resources.seen_by(token.audience)
            try:
                seen.read("MeasureReport", id)
                found = payment_rows(gateway, id, given.text("arrangement"))
            except NotFoundError:
                raise UnknownResource("there is no such settlement with rows") from None
            member = given.reference("member", "Patient", bare="Patient")
            table = found.of(member[1] if member else None, given.text("rule"), given.text("status"), seen.members())
            form = _FORMATS.get(given.text("_outputFormat") or "csv")
            if form is None:
                raise wrong("_outputFormat", "csv or ndjson")
            start, count = _number(given, "_offset", 0), min(MOST, _number(given, "_count", ROWS))
            page = table.slice(start, count)
            access.disclose(one for one in page["member"].unique().to_pylist() if one is not None)
            content = as_csv(page) if form == "text/csv" else as_ndjson(page)
            if "fhir+json" in request.headers.get("accept", ""):  # who wants FHIR gets the content in a Binary
                binary = {"resourceType": "Binary", "contentType": form, "data": b64encode(content).decode()}
                content, form = orjson.dumps(binary), FHIR_JSON
            return Response(content, media_type=form, headers={"X-Total-Count": str(table.num_rows)})

        return await run_in_threadpool(work)

    return routes


def _number(given: Given, name: str, default: int) -> int:
    text = given.text(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        raise wrong(name, "not a whole number")
    return int(text)
