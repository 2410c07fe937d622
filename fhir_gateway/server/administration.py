"""What the routes of operators have in common: ``/admin/...``.

A token needs scopes that name what is administered (``.c``, ``.r``, ``.u``, ``.d``); a wildcard does not count: whoever
may read or send patients' data is not thereby an operator. Every call is in the audit trail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.errors import InputError
from fhir_gateway.factory import Gateway
from fhir_gateway.server.access import access_of
from fhir_gateway.server.audit import Access
from fhir_gateway.server.negotiation import read_body
from fhir_gateway.server.problems import InsufficientScope, MissingToken

ADMIN_PATH = "/admin"
SECURED: dict[str, Any] = {"security": [{"backend": []}]}
_MAX_BYTES = 64 * 1024
_LONGEST_ID = 64
_VERBS = {"c": "create", "r": "read", "u": "update", "d": "delete"}
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Administration:
    """Calls of operators about one kind of thing (``Endpoint``, ``Client``)."""

    gateway: Gateway
    kind: str

    async def call(
        self, request: Request, letter: str, name: str | None, work: Callable[[bytes], Any], status: int = 200
    ) -> Response:
        """Admit the caller, then do ``work`` with the body; None is answered with no content."""
        access = access_of(request)
        access.interaction, access.resource_type = f"{self.kind.lower()}-{_VERBS[letter]}", self.kind
        access.resource_id = name and name[:_LONGEST_ID]
        header, body = request.headers.get("authorization"), await read_body(request, _MAX_BYTES)

        def admitted() -> Any:
            request.state.token = self._admit(header, access, letter)
            return work(body)

        answer = await run_in_threadpool(admitted)
        if answer is None:
            return Response(status_code=204)
        return Response(orjson.dumps(answer), status, media_type="application/json")

    def _admit(self, header: str | None, access: Access, letter: str) -> AccessToken:
        if not header:
            raise MissingToken("a bearer token is needed")
        token = self.gateway.authorization.verify(header)
        access.identify(token.client_id, token.purpose)
        if not any(scope.resource_type == self.kind and scope.covers(self.kind, letter) for scope in token.scopes):
            raise InsufficientScope(f"the token needs system/{self.kind}.{letter} by name; a wildcard does not count")
        return token


def parse(body: bytes, model: type[Model]) -> Model:
    """The body as a model; InputError names members and rules, never values."""
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in error.errors(include_input=False)
        )
        raise InputError(f"the body does not fit: {wrong}") from None


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The body of a route, for OpenAPI."""
    content = {"application/json": {"schema": model.model_json_schema(ref_template="#/components/schemas/{model}")}}
    return {"requestBody": {"required": True, "content": content}, **SECURED}
