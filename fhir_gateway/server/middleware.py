"""Around every request: an id, the audit entry, security headers, and a clean answer to the unexpected.

Plain ASGI, so that answers are not buffered and background work keeps its context.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Mapping
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fhir_gateway.errors import TooManyRequests
from fhir_gateway.faults import away, known
from fhir_gateway.logs import request_id
from fhir_gateway.server.audit import Access, AuditTrail
from fhir_gateway.server.disclosure import note
from fhir_gateway.server.metrics import Metrics
from fhir_gateway.server.patience import ClientStalled
from fhir_gateway.server.problems import error_response, failure_response
from fhir_gateway.server.throttle import Throttle
from fhir_gateway.telemetry import requests as request_spans

log = logging.getLogger("fhir_gateway.server")

#: What logs call a request whose client went away (nginx's word; no client ever sees it).
CLIENT_CLOSED = 499

#: Bodies beyond this are looked through beside the event loop.
_LARGE = 256 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

#: On every answer. Resources are patients' data: nobody between us and the client may keep a copy.
SECURITY_HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class RequestFrame:
    """Gives each request an id and an audit entry, and finishes both before the first byte of the answer leaves."""

    def __init__(
        self, app: ASGIApp, trail: AuditTrail, throttle: Throttle, metrics: Metrics, base_path: str, https: bool
    ) -> None:
        self._app = app
        self._trail = trail
        self._throttle = throttle
        self._metrics = metrics
        self._base_path = base_path
        self._always = always(https)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request; other kinds of connection pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        access = Access(chosen_id(Headers(scope=scope).get("x-request-id", "")))
        access.address = str(scope["client"][0])[:64] if scope.get("client") else None
        access.limit = self._throttle.client
        scope.setdefault("state", {})["access"] = access
        audited = f"{scope['path']}/".startswith((self._base_path + "/", "/admin/", "/auth/", "/console/"))
        started = time.perf_counter()
        answering = False
        logged = request_id.set(access.request_id)
        traced = request_spans.begin(scope)
        held: Message | None = None

        async def answer(message: Message) -> None:
            nonlocal answering, held
            if message["type"] == "http.response.start" and not answering:
                access.status = message["status"]
                self._complete(message, access)
                held = message  # until the body says whose data it holds
                return
            if held is not None:
                start, held = held, None
                if audited:
                    if access.status < HTTPStatus.BAD_REQUEST:
                        await _note(access, start, message)
                    await self._trail.record(access)
                answering = True
                await send(start)
            await send(message)

        try:
            with self._metrics.under_way.track_inprogress():
                try:
                    if scope["path"].startswith("/auth/"):
                        self._throttle.address(access.address)
                except TooManyRequests as error:
                    await error_response(error, access.request_id)(scope, receive, answer)
                else:
                    await self._app(scope, receive, answer)
        except (ClientDisconnect, ClientStalled):  # in the middle of its request or answer: nobody is left
            access.status = CLIENT_CLOSED
        except Exception as error:
            failed = access.request_id, access.interaction, access.resource_type
            if away(error):
                log.error("request %s failed: %s %s: %s", *failed, known(error))
            else:
                log.exception("request %s failed: %s %s", *failed)
            if answering:
                raise  # half an answer is out already: the server closes the connection
            failure = failure_response(error, access.request_id)
            access.status = failure.status_code
            if audited:
                await self._record_failure(access)
            await failure(scope, receive, self._bare(send, access))
        finally:
            seconds = time.perf_counter() - started
            self._metrics.answered(access, seconds)
            log_answer(access, seconds)
            if traced is not None:
                traced.end(access.interaction, access.resource_type, access.status)
            request_id.reset(logged)

    async def _record_failure(self, access: Access) -> None:
        """Audit a request that failed; where the trail itself is what fails, the log has it."""
        try:
            await self._trail.record(access)
        except Exception as error:
            log.error("request %s is not in the audit trail", access.request_id, exc_info=not away(error))

    def _bare(self, send: Send, access: Access) -> Send:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._complete(message, access)
            await send(message)

        return answer

    def _complete(self, message: Message, access: Access) -> None:
        """Put on an answer's head what is on every one; what a route has said itself stays."""
        MutableHeaders(scope=message)["X-Request-Id"] = access.request_id
        said = {name for name, _ in message["headers"]}
        message["headers"].extend(one for one in self._always if one[0] not in said)


def chosen_id(offered: str) -> str:
    """The id that a client gives its request, or one that no other has where it gives none that can be used.

    It is no secret, so that the system need not be asked for randomness each time.
    """
    return offered if offered and _REQUEST_ID.fullmatch(offered) else f"{random.getrandbits(128):032x}"


def always(https: bool) -> list[tuple[bytes, bytes]]:
    """The headers of every answer."""
    found = {**SECURITY_HEADERS, **({"Strict-Transport-Security": "max-age=31536000"} if https else {})}
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in found.items()]


def log_answer(access: Access, seconds: float) -> None:
    """The line of a request that has ended."""
    if not log.isEnabledFor(logging.INFO):
        return
    milliseconds = round(seconds * 1000, 1)
    said = {
        "client": access.client_id,
        "interaction": access.interaction,
        "resource_type": access.resource_type,
        "status": access.status,
        "milliseconds": milliseconds,
    }
    what = access.interaction, access.resource_type or "-", access.status, milliseconds
    log.info("%s %s -> %d in %.1f ms", *what, extra=said)


async def _note(access: Access, start: Message, message: Message) -> None:
    body = message.get("body", b"")
    whole = message["type"] == "http.response.body" and not message.get("more_body", False)
    if len(body) > _LARGE:
        await run_in_threadpool(note, access, start["headers"], body, whole)
    else:
        note(access, start["headers"], body, whole)
