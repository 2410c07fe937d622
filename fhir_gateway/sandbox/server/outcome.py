"""Errors as OperationOutcome, with the status and headers that FHIR, SMART and Bulk Data ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from fhir_gateway.auth.service import challenge
from fhir_gateway.errors import GatewayError

FHIR_JSON = "application/fhir+json"

_ISSUE_TYPES = {
    400: "invalid",
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    410: "not-found",
    429: "throttled",
}


def operation_outcome(severity: str, code: str, text: str) -> dict[str, Any]:
    """An OperationOutcome of one issue."""
    return {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": severity, "code": code, "diagnostics": text}],
    }


def answer_errors(app: FastAPI) -> None:
    """Make every error of the app, known route or not, an OperationOutcome."""

    async def known(_: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, GatewayError):
            raise error
        headers = {"WWW-Authenticate": challenge(error)} if error.status in (401, 403) else None
        return _answer(error.status, error.issue_type, str(error), headers)

    async def http(_: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, StarletteHTTPException):
            raise error
        return _answer(error.status_code, _ISSUE_TYPES.get(error.status_code, "exception"), error.detail, error.headers)

    app.add_exception_handler(GatewayError, known)
    app.add_exception_handler(StarletteHTTPException, http)


def too_many(text: str, retry_after: int) -> HTTPException:
    """A 429 that says when to come back."""
    return HTTPException(429, text, {"Retry-After": str(retry_after)})


def _answer(status: int, code: str, text: str, headers: Mapping[str, str] | None) -> JSONResponse:
    return JSONResponse(operation_outcome("error", code, text), status, headers, media_type=FHIR_JSON)
