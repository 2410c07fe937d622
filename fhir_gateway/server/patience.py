"""Slow clients: how long the server waits for the next bytes of a request, and for its own to be taken.

A connection that stands still holds a socket and, half through a request, the memory of what has come. Whoever sends or
takes something every now and then may take as long as it needs: uploads and downloads are large.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from fhir_gateway.server.problems import RequestTimeout

#: Seconds without a byte of a request's head (the whole of which must be here in that time), of its body, of an answer.
HEAD_SECONDS, BODY_SECONDS, ANSWER_SECONDS = 20.0, 30.0, 60.0


class ClientStalled(ConnectionError):
    """The client stopped taking its answer."""


class Patience:
    """Ends requests whose client stands still: 408 while it sends, a closed connection while it receives."""

    def __init__(
        self, app: ASGIApp, body_seconds: float = BODY_SECONDS, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self._app = app
        self._body_seconds = body_seconds
        self._answer_seconds = answer_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; other kinds of connection pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        whole = False

        async def next_part() -> Message:
            nonlocal whole
            if whole:  # what comes now is the end of the connection, whenever that is
                return await receive()
            try:
                async with asyncio.timeout(self._body_seconds):
                    message = await receive()
            except TimeoutError:
                raise RequestTimeout(f"no byte of the request came for {self._body_seconds:g} seconds") from None
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def take(message: Message) -> None:
            try:
                async with asyncio.timeout(self._answer_seconds):
                    await send(message)
            except TimeoutError:
                raise ClientStalled(f"no byte of the answer was taken for {self._answer_seconds:g} seconds") from None

        await self._app(scope, next_part, take)


#: In the state of the ASGI scope: a function (status, headers, body) that takes a whole answer in one piece and returns
#: True; or returns False, and nothing is done, when the client has not taken what it was sent before.
WHOLE = "fhir_gateway.whole"


class HttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn speaks it, for clients that send the head of each request without much ado."""

    head_seconds = HEAD_SECONDS
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A connection: its first request is waited for."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Bytes came: wait on when they do not complete a head."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not None and (self.cycle is not before or not self.cycle.response_complete):
            self._forget()
        elif self._waiting is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """A request: its application may answer in one piece."""
        super().on_headers_complete()
        self.scope["state"][WHOLE] = partial(_send_whole, self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._forget()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.head_seconds, self._give_up)

    def _forget(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()


def _send_whole(cycle: RequestResponseCycle, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
    """What ``cycle.send`` does with the two messages of an answer, in one write; ``headers`` are ours, and in order."""
    if cycle.flow.write_paused:
        return False
    if cycle.disconnected:
        return True
    lines = [b"%b: %b\r\n" % one for one in (*cycle.default_headers, *headers)]
    if not cycle.keep_alive:
        lines.append(b"connection: close\r\n")
    cycle.response_started = cycle.response_complete = True
    cycle.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
