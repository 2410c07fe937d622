"""How answers of the FHIR face leave: ``HEAD`` without a body, ``_pretty`` indented, gzip for those who take it.

Plain ASGI. Only answers in one piece of FHIR JSON are touched: what is streamed stays a stream.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import parse_qsl

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fhir_gateway.r4.exact import parsed
from fhir_gateway.server.problems import FHIR_JSON

#: Smaller answers fit into one packet anyway.
SMALLEST = 1400
#: Larger ones are compressed beside the event loop.
_LARGE = 32 * 1024
_LEVEL = 4


class Presentation:
    """Wraps the application below ``base_path``."""

    def __init__(self, app: ASGIApp, base_path: str) -> None:
        self._app = app
        self._base_path = base_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request; other kinds of connection and other paths pass through."""
        if scope["type"] != "http" or not scope["path"].startswith(self._base_path):
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        if head:
            scope = {**scope, "method": "GET"}
        packed = not head and takes_gzip(",".join(Headers(scope=scope).getlist("accept-encoding")))
        pretty = b"_pretty" in scope["query_string"] and _pretty(scope["query_string"])
        started: Message | None = None
        ended = False

        async def present(message: Message) -> None:
            nonlocal started, ended
            if ended:
                return
            if message["type"] == "http.response.start":
                started = message
                return
            if started is None:
                await send(message)
                return
            start, started = started, None
            headers = MutableHeaders(scope=start)
            body, more = message.get("body", b""), message.get("more_body", False)
            whole = not more and headers.get("content-type", "").startswith(FHIR_JSON)
            if whole and "content-encoding" not in headers and start["status"] != 206:
                if pretty and body:
                    body = await _beside(_indented, body)
                headers.add_vary_header("Accept-Encoding")
                if packed and len(body) >= SMALLEST:
                    body = await _beside(gzipped, body)
                    headers["Content-Encoding"] = "gzip"
                if start["status"] not in (204, 304):
                    headers["Content-Length"] = str(len(body))
            ended = head
            await send(start)
            await send({"type": "http.response.body", "body": b"" if head else body, "more_body": more and not head})

        await self._app(scope, receive, present)


@lru_cache(maxsize=256)
def takes_gzip(accepted: str) -> bool:
    """True when ``Accept-Encoding`` lists gzip, or everything, and not with weight 0 (RFC 9110 12.5.3)."""
    for part in accepted.split(","):
        name, _, weight = part.partition(";")
        if name.strip().lower() in ("gzip", "x-gzip", "*"):
            return weight.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _pretty(query: bytes) -> bool:
    return ("_pretty", "true") in parse_qsl(query.decode("latin-1"))


def _indented(body: bytes) -> bytes:
    return orjson.dumps(parsed(body.decode()), option=orjson.OPT_INDENT_2)


def gzipped(body: bytes) -> bytes:
    """The body as it leaves to those who take gzip; the same every time."""
    return gzip.compress(body, _LEVEL, mtime=0)


async def _beside(change: Callable[[bytes], bytes], body: bytes) -> bytes:
    """The changed body; a large one does not hold up other requests."""
    return await run_in_threadpool(change, body) if len(body) > _LARGE else change(body)
