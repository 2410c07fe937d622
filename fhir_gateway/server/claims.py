"""``Claim/$check``: claims by all edits before they are submitted; ``ExplanationOfBenefit/$denials``: what was denied.

Both are operations of ours. A check tells what is known of a patient (coverage, earlier claims), so it uses that of
those whom the client sees, and of types that its token covers; the rest is told as not checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.claim_edits import Checked
from fhir_gateway.claim_edits.denials import BY
from fhir_gateway.claim_edits.outcome import outcomes
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.claim_checks import check_sent, sent_claims
from fhir_gateway.jobs.denials import denials
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.given import Given, wrong
from fhir_gateway.server.negotiation import json_body, operation_parameters, read_body, require_json
from fhir_gateway.server.operation_definitions import CHECK_CLAIMS, DENIALS
from fhir_gateway.server.problems import FHIR_JSON, TooCostly

MAX_BYTES = 16 * 1024 * 1024
_MOST_CLAIMS = 1000
"""Claims in one call; more are checked at the prompt, or in several calls."""
_NDJSON = ("application/fhir+ndjson", "application/ndjson", "application/x-ndjson")


def router(gateway: Gateway) -> APIRouter:
    """Routes of both operations, below the FHIR base."""
    routes = APIRouter(tags=["Claim"])

    @routes.post(
        "/Claim/$check", **documentation.with_lines(documentation.validation(CHECK_CLAIMS, body=True), _NDJSON)
    )
    async def check(request: Request) -> Response:
        access = access_of(request)
        access.interaction, access.resource_type = "$check", "Claim"
        require_json(request)
        pairs = [one for one in request.query_params.multi_items() if one[0] not in ("_format", "_pretty")]
        access.named([name for name, _ in pairs])
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await (read_body(request, MAX_BYTES) if kind in _NDJSON else json_body(request, MAX_BYTES))
        header = request.headers.get("authorization")

        def work() -> bytes:
            token = admit(gateway.authorization, header, access, "Claim", "r")
            given = Given(pairs, [name for name, _ in CHECK_CLAIMS.parameters])
            submitted, names = _day(given, "submitted"), given.texts("edit") or None
            claims = sent_claims(body)
            if len(claims) > _MOST_CLAIMS:
                raise TooCostly(f"more than {_MOST_CLAIMS} claims are sent in several calls")
            store = gateway.resources.seen_by(token.audience)
            checked, persons = check_sent(
                gateway, store, lambda type: token.allows(type, "r"), claims, submitted, names
            )
            access.disclose(persons)
            return orjson.dumps(_answer(checked))

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    async def denied(request: Request) -> Response:
        access = access_of(request)
        access.interaction, access.resource_type = "$denials", "ExplanationOfBenefit"
        require_json(request)
        pairs = await operation_parameters(request)
        access.named([name for name, _ in pairs])
        header = request.headers.get("authorization")

        def work() -> bytes:
            admit(gateway.authorization, header, access, "Claim", "r")
            token = admit(gateway.authorization, header, access, "ExplanationOfBenefit", "r")
            given = Given(pairs, [name for name, _ in DENIALS.parameters])
            by = given.text("by") or "reason"
            what = next((one for one in BY if one == by), None)
            if what is None:
                raise wrong("by", f"not one of {', '.join(BY)}")
            first, last = _day(given, "start"), _day(given, "end")
            members = gateway.resources.seen_by(token.audience).members()
            with denials(gateway, members, first, last) as found:
                answer = [("overall", found.overall())]
                answer += [("denial", row) for row in found.by(what)]
                answer += [("avoidable", row) for row in found.top_avoidable()]
            if members is None:
                access.disclose_everyone()
            else:
                access.disclose(members)
            parameters = [{"name": name, "part": _parts(row)} for name, row in answer]
            return orjson.dumps({"resourceType": "Parameters", "parameter": parameters})

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    path = "/ExplanationOfBenefit/$denials"
    routes.get(path, **documentation.operation(DENIALS))(denied)
    routes.post(path, **documentation.operation(DENIALS, body=True))(denied)
    return routes


def _answer(checked: Checked) -> dict[str, Any]:
    clean = checked.claims["clean"].to_pylist()
    parameters: list[dict[str, Any]] = [
        {"name": "claims", "valueInteger": len(clean)},
        {"name": "clean", "valueInteger": sum(clean)},
        *({"name": "table", "valueString": one} for one in checked.tables),
    ]
    for key, is_clean, outcome in zip(checked.claims["key"].to_pylist(), clean, outcomes(checked), strict=True):
        parts = [{"name": "id", "valueString": key}, {"name": "clean", "valueBoolean": is_clean}]
        parameters.append({"name": "claim", "part": [*parts, {"name": "outcome", "resource": outcome}]})
    return {"resourceType": "Parameters", "parameter": parameters}


def _parts(row: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Cells of a row that have a value."""
    return [{"name": name, **_value(value)} for name, value in row.items() if value is not None]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, int):
        return {"valueInteger": value}
    if isinstance(value, float | Decimal):
        return {"valueDecimal": float(value)}
    return {"valueString": str(value)}


def _day(given: Given, name: str) -> date | None:
    text = given.text(name)
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise wrong(name, "not a day such as 2026-01-31") from None
