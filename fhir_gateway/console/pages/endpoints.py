"""Endpoints we pull from: find one, register ourselves there, check it, pull it, rotate our keys."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

import asyncio
from contextlib import closing
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.pages.keys import turn_key
from fhir_gateway.console.sessions import Session
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.pull import begin_endpoint
from fhir_gateway.sources.check import check_endpoint
from fhir_gateway.sources.endpoint import JWKS_PATH, LOOPBACK, Algorithm, Endpoint
from fhir_gateway.sources.look import look
from fhir_gateway.sources.vendors import PROFILES, Mode, vendor_profile

_PULLS_SHOWN = 20
_MODES = (("", "What the endpoint offers"), ("bulk", "Bulk Data"), ("search", "Search"))


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    See = Annotated[Session, Depends(frame.see("see-endpoints"))]
    Do = Annotated[Form, Depends(frame.do("do-endpoints"))]

    def jwks_url() -> str:
        return f"{gateway.settings.public_url.rstrip('/')}{JWKS_PATH}"

    def detail(request: Request, name: str, template: str = "endpoint.html", **more: Any) -> Response:
        endpoint = gateway.endpoints.get(name)
        return frame.page(
            request,
            template,
            endpoint=endpoint,
            keys=gateway.endpoints.keys(name),
            jwks_url=jwks_url(),
            pulls=gateway.pulls.recent(_PULLS_SHOWN, name),
            marks=gateway.pulls.watermarks(name),
            vendor=vendor_profile(endpoint.vendor),
            modes=_MODES,
            **more,
        )

    @routes.get("/endpoints")
    def every(request: Request, _: See) -> Response:
        rows = []
        for endpoint in gateway.endpoints.all():
            recent = gateway.pulls.recent(1, endpoint.name)
            marks = [one.transaction_time for one in gateway.pulls.watermarks(endpoint.name)]
            rows.append(
                {"endpoint": endpoint, "last": recent[0] if recent else None, "until": max(marks, default=None)}
            )
        return frame.page(request, "endpoints.html", rows=rows)

    @routes.get("/endpoints/new")
    def new(request: Request, _: See) -> Response:
        vendors = [(one.name, one.summary) for one in PROFILES.values()]
        return frame.page(request, "endpoint_new.html", vendors=vendors)

    @routes.post("/endpoints/new")
    def found(request: Request, form: Do) -> Response:
        """What is there, and the form that registers it."""
        vendor = vendor_profile(form.fields.get("vendor", "generic"))
        return frame.page(
            request, "endpoint_found.html", found=asyncio.run(look(form.need("url"), vendor)), vendor=vendor
        )

    @routes.post("/endpoints")
    def add(form: Do) -> Response:
        vendor = vendor_profile(form.fields.get("vendor", "generic"))
        secret = form.fields.get("client_secret")
        wants = form.fields.get("auth", "")
        endpoint = Endpoint(
            form.need("name"),
            form.need("url"),
            auth="none" if wants == "none" else "client-secret" if secret else vendor.auth,
            client_id=form.fields.get("client_id"),
            vendor=vendor.name,
            group=form.fields.get("group"),
        )
        algorithm = cast("Algorithm", form.fields.get("algorithm", "ES384"))
        added = gateway.endpoints.add(endpoint, algorithm, client_secret=secret)
        return RedirectResponse(f"{PATH}/endpoints/{added.name}/setup", 303)

    @routes.get("/endpoints/{name}")
    def one(request: Request, name: str, _: See) -> Response:
        return detail(request, name)

    @routes.get("/endpoints/{name}/setup")
    def setup(request: Request, name: str, session: See) -> Response:
        """What is left to do before the first pull: register us there, check, pull."""
        return detail(request, name, "endpoint_setup.html", **registration(name), lines=None)

    def registration(name: str) -> dict[str, Any]:
        """What the endpoint wants to know of us; whether it can read it at our address."""
        own = urlsplit(jwks_url()).hostname in LOOPBACK
        return {"jwks": gateway.endpoints.public_jwks(name), "unseen": own}

    @routes.post("/endpoints/{name}/setup")
    def registered(name: str, form: Do) -> Response:
        gateway.endpoints.update(name, client_id=form.need("client_id"))
        return RedirectResponse(f"{PATH}/endpoints/{name}/setup", 303)

    @routes.post("/endpoints/{name}")
    def change(name: str, form: Do) -> Response:
        given = {key: form.fields[key] for key in ("client_id", "group", "scopes", "audience") if key in form.fields}
        gateway.endpoints.update(name, form.fields.get("client_secret"), **given)
        return _to(name)

    @routes.post("/endpoints/{name}/check")
    def check(request: Request, name: str, _: Do) -> Response:
        endpoint, credential = gateway.endpoints.get(name), gateway.endpoints.credential(name)
        lines = asyncio.run(check_endpoint(endpoint, credential, gateway.settings.public_url))
        if not request.headers.get("hx-request"):
            return detail(request, name, "endpoint_setup.html", **registration(name), lines=lines)
        return frame.page(request, "endpoint_check.html", lines=lines)

    @routes.post("/endpoints/{name}/keys")
    def rotate(name: str, form: Do) -> Response:
        turn_key(gateway.endpoints, name, form)
        return _to(name)

    @routes.post("/endpoints/{name}/pull")
    def pull(name: str, form: Do) -> Response:
        mode = form.fields.get("mode")
        row = begin_endpoint(
            gateway,
            name,
            types=tuple(form.fields.get("types", "").replace(",", " ").split()),
            since=form.fields.get("since"),
            group=form.fields.get("group"),
            mode=cast("Mode", mode) if mode in ("bulk", "search") else None,
        )
        with closing(JobBook(gateway)) as book:
            book.submit("pull", row.id, pull_id=row.id)
        return RedirectResponse(f"{PATH}/pulls/{row.id}", 303)

    return routes


def _to(name: str) -> Response:
    return RedirectResponse(f"{PATH}/endpoints/{name}", 303)
