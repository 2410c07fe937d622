"""Parts of pages that follow what runs: server-sent events, each with the part as it is now."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `followed`

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fhir_gateway.console.frame import Frame
from fhir_gateway.console.roles import Permission
from fhir_gateway.console.sessions import Session

_SECONDS_BETWEEN = 1.0


def followed(
    routes: APIRouter,
    frame: Frame,
    address: str,
    permission: Permission,
    template: str,
    state: Callable[..., dict[str, Any]],
) -> None:
    """Add the events of a part of a page; ``state`` is called by the names in the address, and refuses unknown ones."""

    @routes.get(address)
    def events(request: Request, _: Annotated[Session, Depends(frame.see(permission))]) -> Response:
        now = partial(state, **request.path_params)
        now()
        return following(request, frame, template, now)


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
