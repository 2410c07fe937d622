"""Operations: jobs, the audit trail, users, what is served."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from contextlib import closing
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.accounts import code_uri
from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.progress import followed
from fhir_gateway.console.roles import ROLES
from fhir_gateway.console.sessions import Session
from fhir_gateway.errors import AuthorizationError
from fhir_gateway.jobs.book import ENDED, QUEUE, STATES, JobBook
from fhir_gateway.server.audit_events import entries

_JOBS_SHOWN = 50
_ENTRIES_SHOWN = 100
Page = Annotated[int, Query(ge=1, le=1_000_000)]
_ASKED = {"client": "altid", "person": "patient", "resource": "entity", "interaction": "subtype"}


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    See = Annotated[Session, Depends(frame.see("see-operations"))]
    Do = Annotated[Form, Depends(frame.do("do-operations"))]

    def listed(state: str = "", page: int = 1) -> dict[str, Any]:
        """A page of jobs, the newest first; one more is looked for, which says whether there is another page."""
        states = [one for one in STATES if one == state]
        with closing(JobBook(gateway)) as book:
            found = book.jobs(states, _JOBS_SHOWN + 1, (page - 1) * _JOBS_SHOWN)
        jobs = found[:_JOBS_SHOWN]
        return {"jobs": jobs, "more": len(found) > len(jobs), "over": all(one.state in ENDED for one in jobs)}

    def state(job_id: str) -> dict[str, Any]:
        with closing(JobBook(gateway)) as book:
            found = book.job(job_id)
            return {"job": found, "steps": book.steps(job_id), "over": found.state in ENDED}

    @routes.get("/operations")
    def jobs(request: Request, _: See, state: str = "", page: Page = 1) -> Response:
        stored = [{"name": name, "count": count} for name, count in sorted(gateway.resources.counts().items())]
        given: dict[str, Any] = {
            "chosen": state,
            "page": page,
            "states": [("", "all"), *((one, one) for one in STATES)],
        }
        return frame.page(request, "operations.html", **listed(state, page), **given, stored=stored)

    followed(routes, frame, "/operations/jobs/events", "see-operations", "jobs.html", listed)

    @routes.get("/operations/jobs/{job_id}")
    def job(request: Request, job_id: str, _: See) -> Response:
        return frame.page(request, "job.html", **state(job_id))

    followed(routes, frame, "/operations/jobs/{job_id}/events", "see-operations", "job_progress.html", state)

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
        before: int = 0,
    ) -> Response:
        given = {"client": client, "person": person, "resource": resource, "interaction": interaction}
        criteria = [(_ASKED[name], value.strip()) for name, value in given.items() if value.strip()]
        criteria += [("date", f"ge{since}")] if since else []
        criteria += [("outcome", "4,8")] if refused else []
        found = entries(gateway.engine, criteria, _ENTRIES_SHOWN + 1, before or None)
        rows = found[:_ENTRIES_SHOWN]
        asked = {**given, "since": since, "refused": refused}
        older = {**{name: value for name, value in asked.items() if value}, "before": rows[-1]["id"]} if rows else {}
        more = urlencode(older) if len(found) > len(rows) else None
        return frame.page(request, "audit.html", rows=rows, given=asked, older=more)

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
