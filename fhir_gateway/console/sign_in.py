"""Signing in and out: name, password and one-time code, or an outside issuer (OpenID Connect)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.accounts import User
from fhir_gateway.console.frame import PATH, Frame, local_path, read_form
from fhir_gateway.console.sessions import LONGEST_SECONDS
from fhir_gateway.errors import AuthenticationError, AuthorizationError
from fhir_gateway.server.access import access_of


def router(frame: Frame) -> APIRouter:
    """The pages before one is signed in."""
    routes = APIRouter()

    def shown(request: Request, wanted: str, problem: str | None = None) -> Response:
        status = 200 if problem is None else 401
        return frame.page(request, "sign_in.html", status=status, next=local_path(wanted), problem=problem)

    @routes.get("/sign-in")
    def sign_in(request: Request, next: str = PATH) -> Response:
        access_of(request).interaction = "console-sign-in"
        return shown(request, next)

    @routes.post("/sign-in")
    async def signed_in(request: Request) -> Response:
        access = access_of(request)
        access.interaction = "console-sign-in"
        _same_origin(request, frame)
        fields = await read_form(request)
        name = fields.get("name", "")

        def enter() -> Response:
            try:
                user = frame.accounts.sign_in(name, fields.get("password", ""), fields.get("code", ""))
            except AuthenticationError as error:
                access.reason = "sign-in refused"
                return shown(request, fields.get("next", PATH), error.message)
            access.identify(f"console/{user.name}"[:255], None)
            return begin(frame, user, fields.get("next"))

        return await run_in_threadpool(enter)

    @routes.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        access_of(request).interaction = "console-sign-out"
        _same_origin(request, frame)
        found = request.cookies.get(frame.cookie)
        if found:
            await run_in_threadpool(frame.sessions.end, found)
        response = RedirectResponse(f"{PATH}/sign-in", 303)
        response.delete_cookie(frame.cookie, path="/", secure=frame.secure, httponly=True, samesite="lax")
        return response

    return routes


def begin(frame: Frame, user: User, wanted: str | None) -> Response:
    """A session for somebody who has proved who they are, and the way to where they wanted to go."""
    response = RedirectResponse(local_path(wanted), 303)
    response.set_cookie(
        frame.cookie,
        frame.sessions.start(user),
        max_age=LONGEST_SECONDS,
        path="/",
        secure=frame.secure,
        httponly=True,
        samesite="lax",
    )
    return response


def _same_origin(request: Request, frame: Frame) -> None:
    """Refuse a form that another site's page sends: there is no session yet that a token could belong to."""
    origin = request.headers.get("origin")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise AuthorizationError("this form is from another site")
    if origin is not None and origin not in (_origin(frame), "null") and request.headers.get("sec-fetch-site") is None:
        raise AuthorizationError("this form is from another site")


def _origin(frame: Frame) -> str:
    return "/".join(frame.gateway.settings.public_url.split("/")[:3])
