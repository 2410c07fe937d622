"""What one entry of a batch or transaction is answered."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import orjson

from fhir_gateway.server.problems import FHIR_JSON


def entry_answer(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """One entry of the response; a refusal stands in ``response.outcome``."""
    response: dict[str, Any] = {"status": f"{status} {_phrase(status)}"}
    for name, key in (("location", "location"), ("etag", "etag")):
        if name in headers:
            response[key] = headers[name]
    if "last-modified" in headers:
        moment = parsedate_to_datetime(headers["last-modified"]).astimezone(UTC)
        response["lastModified"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    text = b""
    if body:
        told = body.startswith(b'{"resourceType":"OperationOutcome"')
        if status >= HTTPStatus.BAD_REQUEST or told:
            response["outcome"] = orjson.loads(body)
        elif headers.get("content-type", "").startswith(FHIR_JSON):
            text = b'"resource":' + body + b","
    return b"{" + text + b'"response":' + orjson.dumps(response) + b"}"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
