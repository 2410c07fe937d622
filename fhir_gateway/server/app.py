"""The HTTP application: routes from the registry, answers to errors, and the frame around every request."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, cast

import orjson
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from fhir_gateway.auth.routes import router as authorization_router
from fhir_gateway.db.remarks import Remarks
from fhir_gateway.db.search.clinical import CLINICAL
from fhir_gateway.errors import GatewayError, InputError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.definitions import publish_definitions
from fhir_gateway.jobs.push import tidy
from fhir_gateway.r4.spec import resource_types
from fhir_gateway.server import (
    attribution_lists,
    claims,
    clients,
    coding_gaps,
    davinci_export,
    documentation,
    endpoints,
    everything,
    export,
    health,
    imports,
    measure_operations,
    outreach,
    payment_rows,
    rest,
    roster_reconciliation,
    submit_remarks,
    subscriptions,
    validate,
)
from fhir_gateway.server.access import access_of
from fhir_gateway.server.audit import AuditTrail
from fhir_gateway.server.audit_events import AuditCatalog
from fhir_gateway.server.bundles import Bundles
from fhir_gateway.server.capability import capability_statement
from fhir_gateway.server.catalog import Catalog, StoredCatalog
from fhir_gateway.server.changing import Changing
from fhir_gateway.server.clinical import ClinicalCatalog
from fhir_gateway.server.interactions import Interactions
from fhir_gateway.server.links import PageLinks
from fhir_gateway.server.metrics import Metrics
from fhir_gateway.server.middleware import RequestFrame
from fhir_gateway.server.negotiation import require_json
from fhir_gateway.server.patching import Patching
from fhir_gateway.server.patience import Patience
from fhir_gateway.server.point_reads import PointReads
from fhir_gateway.server.presentation import Presentation
from fhir_gateway.server.problems import FHIR_JSON, MethodNotAllowed, UnsupportedType, error_response
from fhir_gateway.server.pushing import PushedWrites
from fhir_gateway.server.registry import SERVED
from fhir_gateway.server.remarking import Remarking
from fhir_gateway.server.reports import ReportCatalog, individual_report
from fhir_gateway.server.respond_async import RespondAsync
from fhir_gateway.server.throttle import Throttle
from fhir_gateway.server.write_rules import WRITE_RULES, profile_errors
from fhir_gateway.server.writing import Writes

#: Path of the FHIR base; its public address is ``Settings.public_url`` plus this.
FHIR_PATH = "/fhir"
#: Documents that browser-based tools of any origin may read (SMART conformance; they hold nothing secret).
_OPEN = {"Access-Control-Allow-Origin": "*"}


def create_app(gateway: Gateway) -> FastAPI:
    """Build the application over a gateway's services; nothing is started before the first request."""
    base_url = gateway.settings.public_url.rstrip("/") + FHIR_PATH
    trail = AuditTrail(gateway.engine, gateway.settings.audit_keep_years)
    catalogs: dict[str, Catalog] = dict.fromkeys(SERVED, StoredCatalog(gateway.resources))
    catalogs |= dict.fromkeys(CLINICAL, ClinicalCatalog(gateway, base_url))
    catalogs["AuditEvent"] = AuditCatalog(gateway.engine)
    remarks = Remarks(gateway.engine)
    reports = ReportCatalog(gateway.resources, lambda: gateway.results, individual_report, remarks)
    catalogs["MeasureReport"] = reports
    settings = gateway.settings
    https = settings.public_url.startswith("https:")
    throttle = Throttle(settings.client_requests_per_minute, settings.token_requests_per_minute, settings.api_processes)
    metrics = Metrics(gateway)
    links = PageLinks(base_url, gateway.secrets)
    interactions = Interactions(base_url, gateway.authorization, gateway.resources, catalogs, links)
    writes = Writes(interactions, partial(profile_errors, gateway), WRITE_RULES)
    pushed = PushedWrites(gateway, writes)
    remarking = Remarking(writes, reports, remarks)
    respond_async = RespondAsync(gateway)
    statement = capability_statement(base_url, version("fhir-gateway"), gateway.authorization.discovered_token_url)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(tidy, gateway)
        await run_in_threadpool(gateway.resources.index_anew)
        await run_in_threadpool(publish_definitions, gateway, [statement])
        yield
        await run_in_threadpool(respond_async.close)
        await run_in_threadpool(trail.close)

    app = FastAPI(
        title="FHIR gateway",
        version=version("fhir-gateway"),
        description=documentation.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        # spans and records of requests would say whose they are; /metrics and the audit trail are ours
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.openapi = partial(documentation.openapi, app)  # type: ignore[method-assign]  # FastAPI's documented hook
    app.state.audit = trail
    changing, patching = Changing(writes, pushed, remarking), Patching(writes, pushed, remarking)
    app.router.routes.extend(rest.shortcuts(interactions, changing, patching, FHIR_PATH))
    app.include_router(authorization_router(gateway.authorization, fhir_path=FHIR_PATH))
    app.include_router(_open_documents(gateway, statement))
    app.include_router(health.router(gateway))
    app.include_router(metrics.router(settings.metrics_token.get_secret_value() if settings.metrics_token else None))
    app.include_router(measure_operations.router(gateway, respond_async), prefix=FHIR_PATH)
    app.include_router(attribution_lists.router(gateway), prefix=FHIR_PATH)
    app.include_router(roster_reconciliation.router(gateway), prefix=FHIR_PATH)
    app.include_router(payment_rows.router(gateway), prefix=FHIR_PATH)
    app.include_router(subscriptions.router(gateway), prefix=FHIR_PATH)
    app.include_router(coding_gaps.router(gateway), prefix=FHIR_PATH)
    app.include_router(submit_remarks.router(gateway, writes, remarking), prefix=FHIR_PATH)
    app.include_router(claims.router(gateway), prefix=FHIR_PATH)
    app.include_router(imports.router(gateway), prefix=FHIR_PATH)
    app.include_router(validate.router(gateway, catalogs), prefix=FHIR_PATH)
    app.include_router(respond_async.router(), prefix=FHIR_PATH)
    app.include_router(export.router(gateway, respond_async), prefix=FHIR_PATH)
    app.include_router(davinci_export.router(gateway, respond_async), prefix=FHIR_PATH)
    app.include_router(everything.router(interactions), prefix=FHIR_PATH)
    bundles = Bundles(writes, pushed, remarking, trail, FHIR_PATH)
    app.router.routes.extend(rest.routes(interactions, changing, patching, bundles, FHIR_PATH))
    app.include_router(endpoints.router(gateway))
    app.include_router(clients.router(gateway))
    app.include_router(outreach.router(gateway))
    _answer_errors(app)
    app.add_middleware(Patience)
    app.add_middleware(
        RequestFrame,
        trail=trail,
        throttle=throttle,
        metrics=metrics,
        base_path=FHIR_PATH,
        https=https,
    )
    app.add_middleware(Presentation, base_path=FHIR_PATH)  # outside the frame, which reads whose data an answer holds
    app.add_middleware(
        PointReads,
        store=gateway.resources,
        verifier=gateway.authorization,
        trail=trail,
        throttle=throttle,
        metrics=metrics,
        base_path=FHIR_PATH,
        kinds=[kind for kind, one in catalogs.items() if isinstance(one, StoredCatalog | ReportCatalog)],
        https=https,
    )
    return app


def _open_documents(gateway: Gateway, statement: dict[str, Any]) -> APIRouter:
    """What anybody may read: the CapabilityStatement and our public keys."""
    routes = APIRouter(tags=["discovery"])
    body = orjson.dumps(statement)

    @routes.get(f"{FHIR_PATH}/metadata", **documentation.route("CapabilityStatement", "CapabilityStatement"))
    async def metadata(request: Request) -> Response:
        access_of(request).interaction = "capabilities"
        require_json(request)
        return Response(body, headers=_OPEN, media_type=FHIR_JSON)

    @routes.options(f"{FHIR_PATH}/metadata", include_in_schema=False)
    @routes.options(f"{FHIR_PATH}/.well-known/smart-configuration", include_in_schema=False)
    async def preflight(request: Request) -> Response:
        """What a browser asks before it reads an open document with headers of its own."""
        allowed = {"Access-Control-Allow-Methods": "GET, HEAD", "Access-Control-Allow-Headers": "Accept, Content-Type"}
        return Response(status_code=204, headers=_OPEN | allowed | {"Access-Control-Max-Age": "86400"})

    @routes.get("/.well-known/jwks.json", summary="Public keys we sign with towards the endpoints we pull from")
    async def jwks() -> Response:
        keys = await run_in_threadpool(gateway.public_jwks)
        # Endpoints cache the set; a rotated or revoked key must reach them within minutes.
        return Response(orjson.dumps(keys), headers={"Cache-Control": "max-age=300"}, media_type="application/json")

    return routes


def _answer_errors(app: FastAPI) -> None:
    """Every refusal becomes an OperationOutcome; what nobody expected is left to the middleware."""
    Handler = Callable[[Request, Exception], Awaitable[Response]]

    async def refused(request: Request, error: Exception) -> Response:
        return error_response(cast(GatewayError, error), access_of(request).request_id)

    async def unrouted(request: Request, error: Exception) -> Response:
        failure = cast(HTTPException, error)
        response = error_response(_unrouted(request, failure.status_code), access_of(request).request_id)
        if failure.status_code == 405:
            response.headers["Allow"] = ", ".join(_methods(request))
        return response

    async def invalid(request: Request, error: Exception) -> Response:
        return error_response(InputError("the request does not match the route"), access_of(request).request_id)

    handlers: dict[type[Exception], Handler] = {
        GatewayError: refused,
        HTTPException: unrouted,
        RequestValidationError: invalid,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _methods(request: Request) -> list[str]:
    """What may be done at this address: several routes may share it, of which routing tells only the first."""
    found = [
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
    return [*found, "HEAD"] if "GET" in found else found


def _unrouted(request: Request, status: int) -> GatewayError:
    """Why there is no route: the type is not ours, FHIR has no such type, or the method is wrong."""
    if status == 405:
        return MethodNotAllowed("this method is not supported here")
    match = re.match(rf"{FHIR_PATH}/([A-Z][A-Za-z]+)(/|$)", request.url.path)
    if match and match[1] not in SERVED:
        known = "not served here" if match[1] in resource_types() else "not a resource type of FHIR R4"
        return UnsupportedType(f"this resource type is {known}")
    return NotFoundError("there is nothing at this address")
