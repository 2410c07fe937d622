"""What every operation on Measure does the same way: formats, parameters, scopes, audit, the clock, and threads.

An operation is a function of what was :class:`Asked`; it runs outside the event loop, a few of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import anyio.to_thread
import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.factory import Gateway
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.given import zone_of
from fhir_gateway.server.negotiation import operation_parameters, preferences, require_json
from fhir_gateway.server.problems import FHIR_JSON
from fhir_gateway.server.registry import Operation
from fhir_gateway.server.respond_async import RespondAsync

#: Evaluations that run at the same time; each uses all of a core.
CONCURRENT = 2


@dataclass(frozen=True, slots=True)
class Asked:
    """One call: parameters as (name, value), the Measure it was made on, by whom, and the instant in its time zone."""

    pairs: list[tuple[str, Any]]
    measure_id: str | None
    token: AccessToken
    now: datetime
    gateway: Gateway
    respond_async: bool = False

    @property
    def store(self) -> ResourceStore:
        """Served resources as the caller sees them."""
        return self.gateway.resources.seen_by(self.token.audience)

    def may_read(self, resource_type: str) -> bool:
        """Whether the caller's scopes cover some resources of a type that come along in the answer."""
        return self.token.allows(resource_type, "r", some=True)


@dataclass(frozen=True, slots=True)
class Later:
    """An answer that is made by a worker: a kind of :data:`fhir_gateway.jobs.requests.KINDS`, and what it does."""

    kind: str
    payload: Mapping[str, Any]


Work = Callable[[Asked], Mapping[str, Any] | Later]


class Operations:
    """Runs operations over one gateway."""

    def __init__(self, gateway: Gateway, respond_async: RespondAsync) -> None:
        self.gateway = gateway
        self._respond_async = respond_async
        self._limiter: anyio.CapacityLimiter | None = None

    async def answer(
        self, request: Request, operation: Operation, needs: Mapping[str, str], work: Work, measure_id: str | None
    ) -> Response:
        """Answer a call on the type or, with ``measure_id``, on one Measure; ``needs`` are letters by type."""
        access = access_of(request)
        access.interaction, access.resource_type, access.resource_id = f"${operation.code}", "Measure", measure_id
        require_json(request)
        zone = zone_of(request.headers, self.gateway.settings.time_zone)
        header = request.headers.get("authorization")
        pairs = await operation_parameters(request)
        access.named([name for name, _ in pairs])
        if self._limiter is None:  # needs a running event loop
            self._limiter = anyio.CapacityLimiter(CONCURRENT)

        later = preferences(request).respond_async

        def worked() -> Response:
            tokens = [admit(self.gateway.authorization, header, access, kind, needs[kind]) for kind in needs]
            token = tokens[0]
            found = work(Asked(pairs, measure_id, token, datetime.now(zone), self.gateway, later))
            if isinstance(found, Later):
                return self._respond_async.accept(request, token, found.kind, found.payload)
            return Response(orjson.dumps(found), media_type=FHIR_JSON)

        return await anyio.to_thread.run_sync(worked, limiter=self._limiter)


class Routes:
    """The routes of one operation: GET and POST, on the type and on an instance."""

    def __init__(self, operations: Operations, operation: Operation, needs: Mapping[str, str], work: Work) -> None:
        """``needs`` are the letters of the scopes it needs, by type."""
        self.router = APIRouter(tags=["Measure"])
        self._call = (operation, needs, work)
        self._operations = operations
        self._described = documentation.accepted(documentation.operation(operation))
        self._with_body = documentation.accepted(documentation.operation(operation, body=True))
        self._code = operation.code

    def on_type(self) -> Routes:
        """``Measure/$code``."""

        @self.router.get(f"/Measure/${self._code}", **self._described)
        async def asked(request: Request) -> Response:
            return await self._operations.answer(request, *self._call, None)

        @self.router.post(f"/Measure/${self._code}", **self._with_body)
        async def asked_with_body(request: Request) -> Response:
            return await self._operations.answer(request, *self._call, None)

        return self

    def on_instance(self) -> Routes:
        """``Measure/[id]/$code``."""

        @self.router.get(f"/Measure/{{id}}/${self._code}", **self._described)
        async def asked_of_one(request: Request, id: str) -> Response:
            return await self._operations.answer(request, *self._call, id)

        @self.router.post(f"/Measure/{{id}}/${self._code}", **self._with_body)
        async def asked_of_one_with_body(request: Request, id: str) -> Response:
            return await self._operations.answer(request, *self._call, id)

        return self
