"""The interactions read and vread, also conditional ones (R4 http.html 3.1.0.2, 3.1.0.3, 3.1.0.1.9)."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.db.resources import StoredResource
from fhir_gateway.errors import DeletedError
from fhir_gateway.server.access import admit
from fhir_gateway.server.beside import beside
from fhir_gateway.server.interactions import Interactions, begin, represent
from fhir_gateway.server.negotiation import require_json
from fhir_gateway.server.problems import UnknownResource
from fhir_gateway.server.summary import Subset


@dataclass(frozen=True, slots=True)
class Reading:
    """Handlers for all served types."""

    rest: Interactions

    async def read(self, request: Request, resource_type: str, resource_id: str) -> Response:
        """``GET [type]/[id]``: the current version, 304 when the client has it, 410 once deleted, 404 otherwise."""
        access = begin(request, "read", resource_type, resource_id)
        require_json(request)
        subset = Subset(request.query_params.get("_summary"), request.query_params.get("_elements"))
        header = request.headers.get("authorization")

        def work() -> StoredResource:
            token = admit(self.rest.verifier, header, access, resource_type, "r", some=True)
            return self.rest.catalog(resource_type, token, "r").read(resource_type, resource_id)

        return represent(request, await beside(work), subset)

    async def vread(self, request: Request, resource_type: str, resource_id: str, version: str) -> Response:
        """``GET [type]/[id]/_history/[vid]``: that version; 410 when it is a deletion."""
        access = begin(request, "vread", resource_type, resource_id)
        require_json(request)
        subset = Subset(request.query_params.get("_summary"), request.query_params.get("_elements"))
        header = request.headers.get("authorization")

        def work() -> StoredResource:
            token = admit(self.rest.verifier, header, access, resource_type, "r", some=True)
            if not (version.isascii() and version.isdigit() and len(version) < 10):
                raise UnknownResource(f"there is no such version of a {resource_type}")
            return self.rest.catalog(resource_type, token, "r").vread(resource_type, resource_id, int(version))

        stored = await beside(work)
        if stored.deleted:
            raise DeletedError("this version is a deletion")
        return represent(request, stored, subset)
