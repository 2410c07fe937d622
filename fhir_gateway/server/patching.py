"""The interaction patch (R4 http.html 3.1.0.9): of what clients wrote themselves, and remarks on our own reports.

A patch is applied to the resource as it is served, and what it makes of it is written as an update would be, by the
same rules. When somebody else was faster, it is applied again, unless ``If-Match`` says which version was meant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.errors import ConflictError
from fhir_gateway.server.access import admit
from fhir_gateway.server.changing import MAX_RESOURCE_BYTES, answer, noted
from fhir_gateway.server.interactions import begin
from fhir_gateway.server.negotiation import json_body, media_type, preferences, read_body, require_json
from fhir_gateway.server.patch_documents import JSON_PATCH, Patch
from fhir_gateway.server.problems import PreconditionFailed, UnsupportedMediaType
from fhir_gateway.server.pushing import PUSHED, PushedWrites
from fhir_gateway.server.remarking import Remarking
from fhir_gateway.server.writing import Change, Writes, Written

_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Patching:
    """Handler for the types that clients may write."""

    writes: Writes
    pushed: PushedWrites
    remarking: Remarking

    async def patch(self, request: Request, resource_type: str, resource_id: str) -> Response:
        """``PATCH [type]/[id]`` with a JSON Patch, or a FHIRPath Patch in Parameters."""
        access = begin(request, "patch", resource_type, resource_id)
        require_json(request)
        header = request.headers.get("authorization")
        by_json = media_type(request) == JSON_PATCH
        try:
            body = await (read_body if by_json else json_body)(request, MAX_RESOURCE_BYTES)
        except UnsupportedMediaType:
            raise UnsupportedMediaType(
                f"a patch is {JSON_PATCH}, or Parameters (FHIRPath Patch) in application/fhir+json"
            ) from None
        change = Change("update", resource_type, resource_id, if_match=request.headers.get("if-match"))

        def work() -> Written:
            token = admit(self.writes.rest.verifier, header, access, resource_type, change.letters)
            patch = Patch.of_json(body) if by_json else Patch.of_parameters(body)
            for _ in range(_ATTEMPTS if change.if_match is None else 1):
                try:
                    return noted(access, self._carry_out(change, patch, token))
                except PreconditionFailed:
                    if change.if_match is not None:
                        raise
            raise ConflictError("the resource is changed by others all the time: try again")

        written = await run_in_threadpool(work)
        return answer(self.writes.rest.base_url, "update", written, preferences(request).returned)

    def _carry_out(self, change: Change, patch: Patch, token: AccessToken) -> Written:
        current = self.writes.rest.catalog(change.type, token, "r").read(change.type, str(change.id))
        patched = replace(change, resource=patch.apply(current.json()))
        if self.remarking.concerns(current):
            return self.remarking.add(patched, current, token)
        exactly = replace(patched, if_match=change.if_match or f'W/"{current.version}"')
        if change.type in PUSHED:
            return self.pushed.carry_out({0: exactly}, {0: token})[0]
        prepared = self.writes.prepare(exactly, token)
        with self.writes.rest.store.writing() as changes:
            return self.writes.perform(changes, self.writes.resolve(changes, prepared, token), token)
