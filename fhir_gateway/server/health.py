"""Whether the process lives (``/health``) and whether it can do its work (``/ready``), for whatever watches over it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from fastapi import APIRouter
from sqlalchemy import text
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from fhir_gateway.db.engine import snapshot
from fhir_gateway.factory import Gateway

_JSON = "application/json"
_log = logging.getLogger("fhir_gateway.server")


def router(gateway: Gateway) -> APIRouter:
    """Both routes; neither says anything that a stranger should not know."""
    routes = APIRouter(tags=["operation of the gateway"])
    checks: Mapping[str, Callable[[], Any]] = {
        "control plane": lambda: _ask_database(gateway),
        "lake": lambda: gateway.lake.version,
    }

    @routes.get("/health", summary="Liveness")
    async def health() -> Response:
        return Response(b'{"status":"ok"}', media_type=_JSON)

    @routes.get("/ready", summary="Readiness", responses={503: {"description": "Something it needs is not there"}})
    async def ready() -> Response:
        found = {name: await run_in_threadpool(_passes, name, check) for name, check in checks.items()}
        whole = all(found.values())
        said = {"status": "ok" if whole else "unavailable", "checks": found}
        return Response(orjson.dumps(said), 200 if whole else 503, media_type=_JSON)

    return routes


def _passes(name: str, check: Callable[[], Any]) -> bool:
    try:
        check()
    except Exception:  # noqa: BLE001 - whatever it is, the answer is no, and the log has the reason
        _log.exception("not ready: %s", name)
        return False
    return True


def _ask_database(gateway: Gateway) -> None:
    with snapshot(gateway.engine) as connection:
        connection.execute(text("SELECT 1"))
