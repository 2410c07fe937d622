"""Signing in and out: name, password and one-time code, or an outside issuer (OpenID Connect)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.accounts import User
from fhir_gateway.console.frame import PATH, Frame, local_path, read_form
from fhir_gateway.console.openid import ATTEMPT_SECONDS, Provider
from fhir_gateway.console.sessions import LONGEST_SECONDS
from fhir_gateway.errors import AuthenticationError, AuthorizationError, SourceError
from fhir_gateway.server.access import access_of


def router(frame: Frame) -> APIRouter:
    """The pages before one is signed in."""
    routes = APIRouter()
    gateway = frame.gateway
    asked = gateway.settings.openid
    provider = Provider(asked, gateway.settings.public_url, gateway.secrets) if asked else None

    def shown(request: Request, wanted: str, problem: str | None = None) -> Response:
        status = 200 if problem is None else 401
        title = asked.title if asked else None
        return frame.page(
            request, "sign_in.html", status=status, next=local_path(wanted), problem=problem, provider=title
        )

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
    def sign_out(request: Request) -> Response:
        access_of(request).interaction = "console-sign-out"
        _same_origin(request, frame)
        found = request.cookies.get(frame.cookie)
        kept = frame.sessions.end(found) if found else None
        response: Response = RedirectResponse(f"{PATH}/sign-in", 303)
        if kept and provider:
            token = gateway.secrets.decrypt(kept.encode("ascii")).decode()
            try:
                address = provider.end_address(token)
            except SourceError:  # they are signed out here all the same
                address = None
            response = frame.page(request, "signed_out.html", title=provider.settings.title, address=address)
        response.delete_cookie(frame.cookie, **_kept(frame))
        return response

    if provider:
        _outside(routes, frame, provider, shown)
    return routes


def _outside(routes: APIRouter, frame: Frame, provider: Provider, shown: Callable[..., Response]) -> None:
    """To the provider and back. A link leads there: the policy of our pages lets no form lead away."""
    cookie = f"{frame.cookie}-attempt"

    @routes.get("/sign-in/provider")
    def leave(request: Request, next: str = PATH) -> Response:
        access_of(request).interaction = "console-sign-in"
        address, attempt = provider.begin(next)
        response = RedirectResponse(address, 303)
        response.set_cookie(cookie, attempt, max_age=ATTEMPT_SECONDS, **_kept(frame))
        return response

    @routes.get("/sign-in/callback")
    def back(request: Request) -> Response:
        access = access_of(request)
        access.interaction = "console-sign-in"
        try:
            said = provider.finish(dict(request.query_params), request.cookies.get(cookie))
            user = frame.accounts.vouch(provider.settings.issuer, said.subject, said.name, said.roles, said.labels)
        except AuthenticationError as error:
            access.reason = "sign-in refused"
            response = shown(request, PATH, error.message)
        else:
            access.identify(f"console/{user.name}"[:255], None)
            token = frame.gateway.secrets.encrypt(said.id_token.encode()).decode("ascii")
            response = begin(frame, user, said.wanted, token)
        response.delete_cookie(cookie, **_kept(frame))
        return response


def begin(frame: Frame, user: User, wanted: str | None, id_token: str | None = None) -> Response:
    """A session for somebody who has proved who they are, and the way to where they wanted to go."""
    response = RedirectResponse(local_path(wanted), 303)
    response.set_cookie(frame.cookie, frame.sessions.start(user, id_token), max_age=LONGEST_SECONDS, **_kept(frame))
    return response


def _kept(frame: Frame) -> dict[str, Any]:
    """How browsers keep our cookies: sent to this host alone, and when a page elsewhere leads here."""
    return {"path": "/", "secure": frame.secure, "httponly": True, "samesite": "lax"}


def _same_origin(request: Request, frame: Frame) -> None:
    """Refuse a form that another site's page sends: there is no session yet that a token could belong to."""
    origin = request.headers.get("origin")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise AuthorizationError("this form is from another site")
    if origin is not None and origin not in (_origin(frame), "null") and request.headers.get("sec-fetch-site") is None:
        raise AuthorizationError("this form is from another site")


def _origin(frame: Frame) -> str:
    return "/".join(frame.gateway.settings.public_url.split("/")[:3])
