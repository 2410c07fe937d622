"""What a client is told when something is wrong: the error tree as OperationOutcomes.

Only HTTP knows the leaves defined here; everything else comes from :mod:`fhir_gateway.errors`. Nothing of a request's
values is repeated in an answer: names of parameters, types and rules only.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response

from fhir_gateway.errors import (
    AuthenticationError,
    AuthorizationError,
    ConflictError,
    GatewayError,
    InputError,
    NotFoundError,
    TooManyRequests,
)
from fhir_gateway.faults import away

FHIR_JSON = "application/fhir+json"
#: After how long a client may ask again when what we rest on is away.
RETRY_SECONDS = 10


class UnknownResource(NotFoundError):
    """The type is served, but no resource has this id (or version)."""

    code = "unknown-resource"


class UnsupportedType(NotFoundError):
    """The resource type is not served here."""

    code, issue_type = "unsupported-type", "not-supported"


class MethodNotAllowed(InputError):
    """The route exists, but not for this HTTP method."""

    code, status, issue_type = "method-not-allowed", 405, "not-supported"

    def __init__(self, message: str, allow: str = "GET, HEAD") -> None:
        super().__init__(message)
        self.headers = {"Allow": allow}  # RFC 9110 15.5.6


class NotAcceptable(InputError):
    """The client wants a format other than FHIR JSON."""

    code, status, issue_type = "not-acceptable", 406, "not-supported"


class PayloadTooLarge(InputError):
    """The body is longer than the route allows."""

    code, status, issue_type = "payload-too-large", 413, "too-long"


class UnsupportedMediaType(InputError):
    """The body has a content type the route does not read."""

    code, status, issue_type = "unsupported-media-type", 415, "not-supported"


class RequestTimeout(InputError):
    """The client stopped sending in the middle of its request."""

    code, status, issue_type = "request-timeout", 408, "timeout"


class InsufficientScope(AuthorizationError):
    """The token is good, but its scopes do not cover the interaction."""

    code = "insufficient-scope"


class PreconditionFailed(ConflictError):
    """The resource is not in the version that the client names, or not the only one that it means."""

    code, status = "precondition-failed", 412


class MultipleMatches(PreconditionFailed):
    """More than one resource meets the criteria of a conditional interaction."""

    code, issue_type = "multiple-matches", "multiple-matches"


class InvalidResource(InputError):
    """The body breaks rules of FHIR (400), or a profile or rule of ours (422); ``issues`` names all of them."""

    code, issue_type = "invalid-resource", "structure"

    def __init__(self, message: str, issues: Sequence[dict[str, Any]], status: int = 400) -> None:
        super().__init__(message)
        self.issues = list(issues)
        self.status = status  # type: ignore[misc]  # the two kinds differ in nothing else


class TooCostly(InputError):
    """The request is legal but asks for more than one answer may hold."""

    code, issue_type = "too-costly", "too-costly"


def issue(severity: str, issue_type: str, diagnostics: str, expression: str | None = None) -> dict[str, Any]:
    """One OperationOutcome issue; ``expression`` is a FHIRPath or parameter name."""
    entry: dict[str, Any] = {"severity": severity, "code": issue_type, "diagnostics": diagnostics}
    if expression:
        entry["expression"] = [expression]
    return entry


def outcome(*issues: dict[str, Any]) -> dict[str, Any]:
    """An OperationOutcome of these issues."""
    return {"resourceType": "OperationOutcome", "issue": list(issues)}


def challenge(error: GatewayError) -> dict[str, str]:
    """``WWW-Authenticate`` of RFC 6750 section 3 for a refusal; empty for every other error.

    A request without any token gets the bare scheme (section 3.1: no error code when no credentials were given).
    """
    if isinstance(error, AuthorizationError):
        return {"WWW-Authenticate": 'Bearer realm="fhir", error="insufficient_scope"'}
    if isinstance(error, AuthenticationError):
        detail = "" if getattr(error, "code", "") == MissingToken.code else ', error="invalid_token"'
        return {"WWW-Authenticate": f'Bearer realm="fhir"{detail}'}
    return {}


class MissingToken(AuthenticationError):
    """No bearer token was sent at all."""

    code = "missing-token"


def error_response(error: GatewayError, request_id: str | None = None) -> Response:
    """The HTTP answer to ``error``: its status, an OperationOutcome, and a challenge for refusals.

    Errors with status 500 and above that the tree does not attribute to a remote endpoint say nothing of the inside.
    """
    status = error.status
    message = str(error) if status != HTTPStatus.INTERNAL_SERVER_ERROR else "internal error"
    if request_id and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        message += f" (request {request_id})"
    issues = getattr(error, "issues", None) or [issue("error", error.issue_type, message, error.location.path)]
    body = outcome(*issues)
    headers = challenge(error) | getattr(error, "headers", {})
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.retry_after)
    elif status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.INSUFFICIENT_STORAGE):
        headers["Retry-After"] = str(RETRY_SECONDS)
    if isinstance(error, RequestTimeout):
        headers["Connection"] = "close"  # the rest of the request may still come
    return Response(orjson.dumps(body), status, headers, FHIR_JSON)


def failure_response(error: Exception, request_id: str | None) -> Response:
    """The answer to an exception that no route expected: that something we rest on is away or full, if that is why.

    Nothing of the inside is said, where files lie neither; the log has the rest under the same request id.
    """
    found = away(error)
    if found is not None:
        return error_response(type(found)(found.message), request_id)
    return internal_error(request_id)


def internal_error(request_id: str | None) -> Response:
    """The answer to an exception nobody expected; the log has the rest under the same request id."""
    where = f" (request {request_id})" if request_id else ""
    body = outcome(issue("fatal", "exception", f"internal error{where}"))
    return Response(orjson.dumps(body), 500, media_type=FHIR_JSON)
