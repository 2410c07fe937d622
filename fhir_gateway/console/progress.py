"""Parts of pages that follow what runs: server-sent events, each with the part as it is now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse

from fhir_gateway.console.frame import Frame

_SECONDS_BETWEEN = 1.0


def following(request: Request, frame: Frame, template: str, state: Callable[[], dict[str, Any]]) -> StreamingResponse:
    """The part of a template whenever it is another; ``end`` once the state says that it is over.

    It ends as well when the session of whoever looks has: the page is loaded again then, and asks who it is.
    """

    def now() -> tuple[str, bool]:
        found = state()
        text = bytes(frame.page(request, template, **found).body).decode()
        return text, bool(found["over"]) or not frame.still_signed_in(request)

    async def told() -> AsyncIterator[str]:
        before = None
        while not await request.is_disconnected():
            text, over = await run_in_threadpool(now)
            if text != before:
                yield "".join(f"data: {line}\n" for line in text.splitlines()) + "\n"
                before = text
            if over:
                yield "event: end\ndata: over\n\n"
                return
            await asyncio.sleep(_SECONDS_BETWEEN)

    return StreamingResponse(told(), media_type="text/event-stream")
