"""The interaction patch (R4 http.html 3.1.0.9): of what clients wrote themselves, and remarks on our own reports.

A patch is applied to the resource as it is served, and what it makes of it is written as an update would be, by the
same rules. When somebody else was faster, it is applied again, unless ``If-Match`` says which version was meant. A
conditional patch names the resource by criteria; it is that of one resource, or refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.resources import StoredResource
from fhir_gateway.errors import ConflictError, Location
from fhir_gateway.r4 import exact
from fhir_gateway.server.access import admit
from fhir_gateway.server.changing import MAX_RESOURCE_BYTES, answer, conditions_of, noted
from fhir_gateway.server.interactions import Interactions, begin
from fhir_gateway.server.negotiation import json_body, media_type, preferences, read_body, require_json
from fhir_gateway.server.patch_documents import JSON_PATCH, Patch
from fhir_gateway.server.problems import MultipleMatches, PreconditionFailed, UnknownResource, UnsupportedMediaType
from fhir_gateway.server.pushing import PUSHED, PushedWrites
from fhir_gateway.server.remarking import Remarking
from fhir_gateway.server.search import Query
from fhir_gateway.server.writing import Change, Writes, Written

#: How often a patch is applied again when others change the resource meanwhile.
ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Patching:
    """Handler for the types that clients may write."""

    writes: Writes
    pushed: PushedWrites
    remarking: Remarking

    async def patch(self, request: Request, resource_type: str, resource_id: str | None) -> Response:
        """``PATCH [type]/[id]`` and ``PATCH [type]?...``, with a JSON Patch, or a FHIRPath Patch in Parameters."""
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
        query = request.url.query if resource_id is None else None

        def work() -> Written:
            criteria = None if query is None else conditions_of(resource_type, query)
            change = Change("update", resource_type, resource_id, criteria, if_match=request.headers.get("if-match"))
            token = admit(self.writes.rest.verifier, header, access, resource_type, change.letters)
            patch = Patch.of_json(body) if by_json else Patch.of_parameters(body)
            for _ in range(ATTEMPTS if change.if_match is None else 1):
                try:
                    return noted(access, self._carry_out(replace(change, patch=patch), token))
                except PreconditionFailed as error:
                    if change.if_match is not None or isinstance(error, MultipleMatches):
                        raise
            raise ConflictError("the resource is changed by others all the time: try again")

        written = await run_in_threadpool(work)
        return answer(self.writes.rest.base_url, "update", written, preferences(request).returned)

    def _carry_out(self, change: Change, token: AccessToken) -> Written:
        current, patched = apply(self.writes.rest, change, token)
        if self.remarking.concerns(current):
            return self.remarking.add(replace(patched, if_match=change.if_match), current, token)
        if change.type in PUSHED:
            return self.pushed.carry_out({0: patched}, {0: token})[0]
        prepared = self.writes.prepare(patched, token)
        with self.writes.rest.store.writing() as changes:
            return self.writes.perform(changes, self.writes.resolve(changes, prepared, token), token)


def apply(rest: Interactions, change: Change, token: AccessToken) -> tuple[StoredResource, Change]:
    """The resource that a patch is about, and the update of exactly that version that the patch comes to.

    Raises UnknownResource, MultipleMatches for criteria that several resources meet, and PatchFailed.
    """
    if change.patch is None:
        raise RuntimeError("a change without a patch is not applied")
    resource_id = change.id
    if change.criteria is not None:
        asked = Query(change.type, change.criteria, count=2, count_total=False)
        found = rest.catalog(change.type, token, "s").search(asked).resources
        where = Location(path=change.place or None, rule="criteria")
        if len(found) > 1:
            raise MultipleMatches("more than one resource meets the criteria", location=where)
        if not found:
            raise UnknownResource("no resource meets the criteria", location=where)
        resource_id = found[0].id
    current = rest.catalog(change.type, token, "r").read(change.type, str(resource_id))
    patched = replace(
        change,
        id=current.id,
        criteria=None,
        patch=None,
        resource=change.patch.apply(exact.loads(current.body)),
        if_match=change.if_match or f'W/"{current.version}"',
    )
    return current, patched
