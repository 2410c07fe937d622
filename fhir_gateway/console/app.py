"""The console beside the FHIR face: one application, errors as pages for people instead of OperationOutcomes."""

from __future__ import annotations

import logging
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from fhir_gateway.console import sign_in
from fhir_gateway.console.frame import HERE, PATH, STATIC_PATH, Frame, SignInNeeded, sign_in_address
from fhir_gateway.console.pages import PAGES
from fhir_gateway.console.unexpected import Unexpected
from fhir_gateway.errors import GatewayError
from fhir_gateway.factory import Gateway
from fhir_gateway.faults import away
from fhir_gateway.server.access import access_of
from fhir_gateway.server.app import create_app

log = logging.getLogger("fhir_gateway.console")


def with_console(gateway: Gateway) -> FastAPI:
    """The FHIR face, and the console at ``/console``."""
    app = create_app(gateway)
    app.mount(STATIC_PATH, _Kept(directory=HERE / "static"), name="static")
    app.mount(PATH, console(gateway), name="console")
    return app


def console(gateway: Gateway) -> FastAPI:
    """The console alone, to be mounted."""
    frame = Frame(gateway)
    quiet = {"tracing": False, "metrics": False, "logs": False}  # as for the FHIR face
    pages = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, telemetry=cast("Any", quiet))
    pages.include_router(sign_in.router(frame))
    for page in PAGES:
        pages.include_router(page.router(frame))
    _answer_errors(pages, frame)
    return pages


class _Kept(StaticFiles):
    """Files that browsers may keep: their addresses change with their content."""

    async def get_response(self, path: str, scope: Any) -> Response:
        response = await super().get_response(path, scope)
        if response.status_code == 200:
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def _answer_errors(pages: FastAPI, frame: Frame) -> None:
    def to_sign_in(request: Request, _: Exception) -> Response:
        if request.headers.get("hx-request"):
            return Response(status_code=401, headers={"HX-Redirect": f"{PATH}/sign-in"})
        wanted = request.url.path if request.method == "GET" else PATH
        return RedirectResponse(sign_in_address(wanted), 303)

    def problem(request: Request, status: int, message: str) -> Response:
        template = "problem_part.html" if request.headers.get("hx-request") else "problem.html"
        number = access_of(request).request_id
        return frame.page(request, template, status=status, code=status, message=message, request_id=number)

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, GatewayError)  # noqa: S101 - handlers are chosen by the class
        access_of(request).reason = error.code
        if error.status >= 500:
            log.error("console: %s", error.code)
        return problem(request, error.status, str(error))

    def unrouted(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 400)
        return problem(request, status, "there is nothing at this address" if status == 404 else "that does not work")

    def invalid(request: Request, _: Exception) -> Response:
        return problem(request, 400, "the request does not fit the page")

    def unexpected(request: Request, error: Exception) -> Response:
        found = away(error)
        if found is not None:
            return problem(request, found.status, f"{found.message}; try again in a while")
        return problem(request, 500, "something went wrong here; the log says what, under the number of this request")

    pages.add_middleware(Unexpected, answer=unexpected)
    pages.add_exception_handler(SignInNeeded, to_sign_in)
    pages.add_exception_handler(GatewayError, refused)
    pages.add_exception_handler(HTTPException, unrouted)
    pages.add_exception_handler(RequestValidationError, invalid)
