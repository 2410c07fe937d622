"""``POST Group/[id]/$reconcile``: a roster in the body beside one of our lists; what differs, as Parameters.

The operation is ours (``profiles/OperationDefinition-reconcile.json``): ATR says how lists are corrected, not how two
rosters are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.attribution.reconciliation import FINDINGS, Reconciliation
from fhir_gateway.auth.models import AccessToken
from fhir_gateway.errors import AuthorizationError, InputError, Location, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import rosters
from fhir_gateway.jobs.lists import contract_of
from fhir_gateway.jobs.roster_evidence import reasons
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.negotiation import operation_parameters, require_json
from fhir_gateway.server.operation_definitions import RECONCILE
from fhir_gateway.server.problems import FHIR_JSON, UnknownResource, issue, outcome

#: Differences that an answer names; the rest is counted (the command line gives all of them).
NAMED = 5_000
_SIDES = ("their", "our")


def router(gateway: Gateway) -> APIRouter:
    """The operation's route, below the FHIR base."""
    routes = APIRouter(tags=["Group"])

    @routes.post("/Group/{id}/$reconcile", **documentation.posted(RECONCILE))
    async def reconcile(request: Request, id: str) -> Response:
        access = access_of(request)
        access.interaction, access.resource_type, access.resource_id = "$reconcile", "Group", id
        require_json(request)
        pairs = await operation_parameters(request)
        access.named([name for name, _ in pairs])
        header = request.headers.get("authorization")

        def work() -> bytes:
            token = admit(gateway.authorization, header, access, "Group", "r")
            try:
                gateway.resources.seen_by(token.audience).read("Group", id)
            except NotFoundError:
                raise UnknownResource("there is no such Group") from None
            found = rosters.compare(gateway, id, _roster(gateway, id, pairs, token), token.audience)
            return orjson.dumps(answer(id, found, *_reasons(gateway, id, found)))

        return Response(await run_in_threadpool(work), media_type=FHIR_JSON)

    return routes


def _roster(gateway: Gateway, list_id: str, pairs: Sequence[tuple[str, Any]], token: AccessToken) -> pa.Table:
    """The other roster: exactly one of ``roster``, ``csv`` and ``source``."""
    values = dict(pairs)
    given = [name for name in ("roster", "csv", "source") if name in values]
    if len(given) != 1 or len(pairs) != len(values) or set(values) - {*given, "group"}:
        raise InputError("give one of roster, csv and source", location=Location(rule="parameters"))
    value, group = values[given[0]], values.get("group")
    if given == ["roster"]:
        if not isinstance(value, dict) or value.get("resourceType") != "Group":
            raise InputError("parameter roster: a Group resource", location=Location(path="roster"))
        return rosters.of_group(gateway, value)
    if not isinstance(value, str) or not isinstance(group, str | None):
        raise InputError(f"parameter {given[0]}: a text value", location=Location(path=given[0]))
    if given == ["csv"]:
        return rosters.of_csv(gateway, value.encode())
    if not token.audience.everybody:
        raise AuthorizationError("what a source sent is compared for clients that see everybody")
    return rosters.of_source(gateway, value, list_id, group)


_Why = Mapping[tuple[str, str, str | None], Mapping[str, Any]]


def _reasons(gateway: Gateway, list_id: str, found: Reconciliation) -> tuple[_Why, str | None]:
    """Why the differences that are named differ, by the newest run of the list's contract; or why that is not known.

    Only what is told of a member leaves: neither who else had him nor what others were paid.
    """
    named = Reconciliation(found.differences().slice(0, NAMED))
    contract = contract_of(gateway, gateway.resources.read("Group", list_id).json())
    if contract is None or not named.table.num_rows:
        return {}, None if contract else "no contract makes this list: there are no reason codes"
    try:
        rows = reasons(gateway, str(contract), named).to_pylist()
    except NotFoundError as missing:
        return {}, f"there are no reason codes: {missing.message}"
    return {(row["finding"], row["named"], row["member"]): row for row in rows}, None


def answer(
    list_id: str, reconciliation: Reconciliation, why: _Why | None = None, unexplained: str | None = None
) -> dict[str, Any]:
    """Counts of each finding, and the differences themselves with their reasons where they are known."""
    differences = reconciliation.differences()
    counts = reconciliation.counts
    parameters: list[dict[str, Any]] = [
        {"name": "list", "valueReference": {"reference": f"Group/{list_id}"}},
        {"name": "count", "part": [{"name": name, "valueInteger": counts[name]} for name in FINDINGS]},
    ]
    parameters += [_difference(row, why or {}) for row in differences.slice(0, NAMED).to_pylist()]
    issues = [issue("information", "informational", unexplained)] if unexplained else []
    if differences.num_rows > NAMED:
        more = f"{differences.num_rows - NAMED} more differences are counted, not named"
        issues.append(issue("warning", "incomplete", more))
    if issues:
        parameters.append({"name": "outcome", "resource": outcome(*issues)})
    return {"resourceType": "Parameters", "parameter": parameters}


def _difference(row: dict[str, Any], why: _Why) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"name": "finding", "valueCode": row["finding"]}]
    if reason := why.get((row["finding"], row["named"], row["member"])):
        parts.append({"name": "reason", "valueCode": reason["reason"]})
        parts.append({"name": "near-miss", "valueBoolean": bool(reason["near_miss"])})
    if row["member"] is not None:
        parts.append({"name": "member", "valueReference": {"reference": f"Patient/{row['member']}"}})
    parts.append({"name": "named", "valueString": row["named"]})
    for side in _SIDES:
        stated: list[dict[str, Any]] = [
            {"name": name, "valueString": row[f"{side}_{name}"]} for name in ("tin", "npi") if row[f"{side}_{name}"]
        ]
        period = {name: row[f"{side}_{name}"] for name in ("start", "end") if row[f"{side}_{name}"]}
        if period:
            stated.append({"name": "period", "valuePeriod": period})
        if stated:
            parts.append({"name": f"{side}s", "part": stated})
    return {"name": "difference", "part": parts}
