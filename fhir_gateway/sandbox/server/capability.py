"""The sandbox's CapabilityStatement."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from fhir_gateway.auth.service import AuthorizationServer
from fhir_gateway.sandbox.server.search import search_parameters

BULK_DATA = "http://hl7.org/fhir/uv/bulkdata"

_EVERY_RESOURCE = {"_id": "token", "_lastUpdated": "date"}


def capability_statement(
    *, name: str, fhir_url: str, types: Iterable[str], started: str, authorization: AuthorizationServer
) -> dict[str, Any]:
    """Describe what is really there: types of the folder, read, search, and export on three levels."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": started,
        "kind": "instance",
        "instantiates": [f"{BULK_DATA}/CapabilityStatement/bulk-data"],
        "software": {"name": "FHIR Gateway sandbox", "version": version("fhir-gateway")},
        "implementation": {"description": name, "url": fhir_url},
        "fhirVersion": "4.0.1",
        "format": ["json", "application/fhir+json"],
        "rest": [
            {
                "mode": "server",
                "security": _security(authorization),
                "resource": [_resource(resource_type) for resource_type in types],
                "operation": [{"name": "export", "definition": f"{BULK_DATA}/OperationDefinition/export"}],
            }
        ],
    }


def _security(authorization: AuthorizationServer) -> dict[str, Any]:
    # The well-known document is what counts; the extension is for clients of the years before it.
    return {
        "service": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
                        "code": "SMART-on-FHIR",
                    }
                ]
            }
        ],
        "extension": [
            {
                "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
                "extension": [{"url": "token", "valueUri": authorization.token_url}],
            }
        ],
    }


def _resource(resource_type: str) -> dict[str, Any]:
    parameters = _EVERY_RESOURCE | dict(search_parameters(resource_type))
    resource: dict[str, Any] = {
        "type": resource_type,
        "interaction": [{"code": "read"}, {"code": "search-type"}],
        "versioning": "no-version",
        "searchParam": [{"name": name, "type": kind} for name, kind in parameters.items()],
    }
    if resource_type in ("Group", "Patient"):
        definition = f"{BULK_DATA}/OperationDefinition/{resource_type.lower()}-export"
        resource["operation"] = [{"name": "export", "definition": definition}]
    return resource
