"""Operations: jobs, the audit trail, users, what the lake holds."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from contextlib import closing
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.accounts import code_uri
from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.progress import following
from fhir_gateway.console.roles import ROLES
from fhir_gateway.console.sessions import Session
from fhir_gateway.errors import AuthorizationError
from fhir_gateway.jobs.book import ENDED, QUEUE, JobBook
from fhir_gateway.server.audit_events import entries

_JOBS_SHOWN = 50
_ENTRIES_SHOWN = 100
_ASKED = {"client": "altid", "person": "patient", "resource": "entity", "interaction": "subtype"}


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    See = Annotated[Session, Depends(frame.see("see-operations"))]
    Do = Annotated[Form, Depends(frame.do("do-operations"))]

    def listed() -> dict[str, Any]:
        with closing(JobBook(gateway)) as book:
            found = book.jobs(limit=_JOBS_SHOWN)
        return {"jobs": found, "over": all(one.state in ENDED for one in found)}

    def state(job_id: str) -> dict[str, Any]:
        with closing(JobBook(gateway)) as book:
            found = book.job(job_id)
            return {"job": found, "steps": book.steps(job_id), "over": found.state in ENDED}

    @routes.get("/operations")
    def jobs(request: Request, _: See) -> Response:
        stored = [{"name": name, "state": state} for name, state in sorted(_stored(frame).items())]
        return frame.page(request, "operations.html", **listed(), stored=stored)

    @routes.get("/operations/jobs/events")
    def events(request: Request, _: See) -> Response:
        """The list of jobs as server-sent events, as long as one of them runs or waits."""
        return following(request, frame, "jobs.html", listed)

    @routes.get("/operations/jobs/{job_id}")
    def job(request: Request, job_id: str, _: See) -> Response:
        return frame.page(request, "job.html", **state(job_id))

    @routes.get("/operations/jobs/{job_id}/events")
    def progress(request: Request, job_id: str, _: See) -> Response:
        """How far a job is as server-sent events."""
        state(job_id)
        return following(request, frame, "job_progress.html", partial(state, job_id))

    @routes.post("/operations/jobs/{job_id}/retry")
    def retry(job_id: str, _: Do) -> Response:
        with closing(JobBook(gateway)) as book:
            book.again(job_id, QUEUE)
        return RedirectResponse(f"{PATH}/operations", 303)

    @routes.get("/operations/audit")
    def audit(
        request: Request,
        _: See,
        client: str = "",
        person: str = "",
        resource: str = "",
        interaction: str = "",
        since: str = "",
        refused: str = "",
    ) -> Response:
        given = {"client": client, "person": person, "resource": resource, "interaction": interaction}
        criteria = [(_ASKED[name], value.strip()) for name, value in given.items() if value.strip()]
        criteria += [("date", f"ge{since}")] if since else []
        criteria += [("outcome", "4,8")] if refused else []
        rows = entries(gateway.engine, criteria, _ENTRIES_SHOWN)
        return frame.page(request, "audit.html", rows=rows, given={**given, "since": since, "refused": refused})

    @routes.get("/operations/users")
    def users(request: Request, _: See) -> Response:
        return frame.page(request, "users.html", users=frame.accounts.all(), roles=list(ROLES), made=None)

    @routes.post("/operations/users")
    def add(request: Request, form: Do) -> Response:
        _admin(form)
        roles = [one for one in ROLES if one in form.fields]
        labels = form.fields.get("labels")
        name = form.need("name")
        code = "no_code" not in form.fields
        limits = labels.split() if labels else None
        secret = frame.accounts.add(name, form.need("password"), roles, limits, code=code)
        made = {"name": name, "uri": code_uri(name, secret) if secret else None, "secret": secret}
        return frame.page(request, "users.html", users=frame.accounts.all(), roles=list(ROLES), made=made)

    @routes.post("/operations/users/{name}/{step}")
    def change(name: str, step: str, form: Do) -> Response:
        _admin(form)
        if name == form.session.user:
            raise AuthorizationError("nobody locks themselves out")
        frame.accounts.disable(name, step != "enable")
        return RedirectResponse(f"{PATH}/operations/users", 303)

    return routes


def _admin(form: Form) -> None:
    if "admin" not in form.session.roles:
        raise AuthorizationError("users are the administrators' business")


def _stored(frame: Frame) -> dict[str, int]:
    """Resources that are served, by type."""
    return frame.gateway.resources.counts()
