"""The doors of outreach: the list of whom to call, and what became of an item.

Both are about patients: a caller sees the persons of its registration, and needs scopes on CommunicationRequest.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.errors import InputError, Location
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.outreach import item_of, listed
from fhir_gateway.outreach.forms import as_csv
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.administration import SECURED, body_of, parse
from fhir_gateway.server.negotiation import read_body

_TYPE = "CommunicationRequest"
_MAX_BYTES = 16 * 1024
_LONGEST_ID = 64


class Mark(BaseModel):
    """What became of an item; that it is done follows from the next data."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    state: Literal["contacted", "declined", "open"]
    note: str | None = Field(default=None, max_length=500)


def router(gateway: Gateway) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["outreach"])

    @routes.get(
        "/outreach", summary="Whom to call for what (JSON, or CSV with Accept: text/csv)", openapi_extra=SECURED
    )
    async def every(request: Request) -> Response:
        access = access_of(request)
        access.interaction, access.resource_type = "outreach-read", _TYPE
        header = request.headers.get("authorization")
        as_text = "text/csv" in request.headers.get("accept", "")

        def work() -> list[dict[str, Any]]:
            request.state.token = token = admit(gateway.authorization, header, access, _TYPE, "s")
            if request.query_params:
                raise InputError("there are no parameters", location=Location(rule="parameters"))
            rows = listed(gateway, token.audience.to("s"))
            access.disclose(row["member"] for row in rows)
            return rows

        rows = await run_in_threadpool(work)
        if as_text:
            return Response(await run_in_threadpool(as_csv, rows), media_type="text/csv; charset=utf-8")
        return Response(await run_in_threadpool(orjson.dumps, rows), media_type="application/json")

    @routes.post("/outreach/{item}", summary="What became of an item of outreach", openapi_extra=body_of(Mark))
    async def mark(request: Request, item: str) -> Response:
        access = access_of(request)
        access.interaction, access.resource_type = "outreach-update", _TYPE
        access.resource_id = item[:_LONGEST_ID]
        header, body = request.headers.get("authorization"), await read_body(request, _MAX_BYTES)

        def work() -> dict[str, Any]:
            request.state.token = token = admit(gateway.authorization, header, access, _TYPE, "u")
            found = item_of(gateway, item, token.audience.to("r"))
            given = parse(body, Mark)
            access.disclose([found["member"]])
            gateway.outreach.mark(item, given.state, f"client:{token.client_id}", datetime.now(UTC), given.note)
            return {"item": item, "state": given.state}

        return Response(orjson.dumps(await run_in_threadpool(work)), media_type="application/json")

    return routes
