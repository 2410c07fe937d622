"""Pulls: how far one is, its ledger, what it refused, and trying that again."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from collections import Counter
from contextlib import closing
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.progress import followed
from fhir_gateway.console.sessions import Session
from fhir_gateway.errors import NotFoundError
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.cancel import cancel
from fhir_gateway.jobs.replay import replay

_REFUSED_SHOWN = 200
_ENDED = ("committed", "failed", "cancelled")


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    See = Annotated[Session, Depends(frame.see("see-endpoints"))]
    Do = Annotated[Form, Depends(frame.do("do-endpoints"))]

    def state(pull_id: str) -> dict[str, Any]:
        """The pull, the job that carries it, and the steps behind it."""
        row = gateway.pulls.get(pull_id)
        with closing(JobBook(gateway)) as book:
            job = book.find(pull_id)
            steps = book.steps(pull_id) if job is not None else []
        over = row.state in _ENDED or (job is not None and job.state in ("failed", "cancelled"))
        return {"pull": row, "job": job, "steps": steps, "over": over}

    @routes.get("/pulls/{pull_id}")
    def one(request: Request, pull_id: str, _: See) -> Response:
        found = state(pull_id)
        registered = found["pull"].source in {one.name for one in gateway.endpoints.all()}  # files have no endpoint
        return frame.page(request, "pull.html", registered=registered, **found)

    followed(routes, frame, "/pulls/{pull_id}/events", "see-endpoints", "pull_progress.html", state)

    @routes.post("/pulls/{pull_id}/cancel")
    def stop(pull_id: str, _: Do) -> Response:
        with closing(JobBook(gateway)) as book:
            cancel(gateway, book, pull_id)
        return RedirectResponse(f"{PATH}/pulls/{pull_id}", 303)

    @routes.get("/pulls/{pull_id}/quarantine")
    def quarantine(request: Request, pull_id: str, _: See) -> Response:
        gateway.pulls.get(pull_id)
        found = gateway.lake.quarantined(pull_id)
        counts = Counter((one.resource_type or "–", one.path or "–", one.rule) for one in found).most_common()
        lines = found[:_REFUSED_SHOWN]
        return frame.page(request, "quarantine.html", pull_id=pull_id, counts=counts, lines=lines, total=len(found))

    @routes.get("/pulls/{pull_id}/quarantine/{place:path}")
    def refused(request: Request, pull_id: str, place: str, session: See) -> Response:
        """One refused line as it came, for those who may set it right."""
        found = [one for one in gateway.lake.quarantined(pull_id) if f"{one.file}:{one.line}" == place]
        if not found:
            raise NotFoundError("this pull has no such refused line")
        raw = found[0].raw.decode("utf-8", "replace") if session.may("do-endpoints") else None
        request.state.access.disclose_everyone()  # whose line it is nobody can say: it was refused
        return frame.page(request, "quarantine_line.html", pull_id=pull_id, line=found[0], raw=raw)

    @routes.post("/pulls/{pull_id}/replay")
    def again(pull_id: str, form: Do) -> Response:
        """All refused lines by the rules of today, or one that was set right."""
        edits = None
        if "mended" in form.fields:
            edits = {(form.need("file"), int(form.need("line"))): form.fields["mended"].encode()}
        replay(gateway, pull_id, edits)
        return RedirectResponse(f"{PATH}/pulls/{pull_id}/quarantine", 303)

    return routes
