"""A page for what nobody expected: it says which request it was, for whoever reads the log, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fhir_gateway.server.access import access_of
from fhir_gateway.server.patience import ClientStalled

log = logging.getLogger("fhir_gateway.console")


class Unexpected:
    """Plain ASGI around the pages. Once an answer has begun nothing can be said any more: the connection is closed."""

    def __init__(self, app: ASGIApp, answer: Callable[[Request, Exception], Response]) -> None:
        self._app = app
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on; answer where that raises."""
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except (ClientDisconnect, ClientStalled):
            raise
        except Exception as error:
            if begun:
                raise
            request = Request(scope, receive)
            log.exception("request %s failed: %s", access_of(request).request_id, access_of(request).interaction)
            await self._answer(request, error)(scope, receive, send)
