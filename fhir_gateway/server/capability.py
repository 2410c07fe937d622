"""The CapabilityStatement, written from the registry: what is not there is not served."""

from __future__ import annotations

from typing import Any

from fhir_gateway import __name__ as package
from fhir_gateway.server.registry import (
    SERVED,
    SUBSCRIPTIONS,
    SYSTEM_OPERATIONS,
    TYPE_OPERATIONS,
    Operation,
    ServedType,
    definition,
)
from fhir_gateway.subscriptions.topics import TOPICS

#: When the statement's own content last changed (R4 requires a date; the time of the request would defeat caching).
PUBLISHED = "2026-11-22"

_LEGACY_OAUTH = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"


def capability_statement(base_url: str, version: str, token_url: str) -> dict[str, Any]:
    """The statement of the server at ``base_url``, software ``version``."""
    return {
        "resourceType": "CapabilityStatement",
        "id": package.replace("_", "-"),
        "url": f"{base_url}/metadata",
        "version": version,
        "name": "FhirGateway",
        "title": "FHIR gateway for value-based care",
        "status": "active",
        "date": PUBLISHED,
        "kind": "instance",
        "description": "Attribution lists, quality measure results and settlements as FHIR resources.",
        "software": {"name": "fhir-gateway", "version": version},
        "implementation": {"description": "FHIR gateway", "url": base_url},
        "instantiates": ["http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data"],
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [
            {
                "mode": "server",
                "security": _security(token_url),
                "resource": [_resource(served) for _, served in sorted(SERVED.items())],
                "operation": [_operation(one) for one in SYSTEM_OPERATIONS],
            }
        ],
    }


def _security(token_url: str) -> dict[str, Any]:
    coding = {"system": "http://terminology.hl7.org/CodeSystem/restful-security-service", "code": "SMART-on-FHIR"}
    return {
        # Older clients look here for the token endpoint; the well-known document is what counts.
        "extension": [{"url": _LEGACY_OAUTH, "extension": [{"url": "token", "valueUri": token_url}]}],
        "cors": True,
        "service": [{"coding": [coding], "text": "SMART Backend Services"}],
        "description": "SMART Backend Services: signed client assertions, system scopes.",
    }


def _resource(served: ServedType) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": served.name,
        "documentation": served.documentation,
        "interaction": [{"code": code} for code in ("read", "vread", "search-type")],
        "versioning": "versioned",
        "readHistory": True,
        "conditionalRead": "full-support",
        "searchParam": [
            {"name": name, "definition": definition(served.name, name), "type": kind}
            for name, kind in served.parameters()
        ],
    }
    includes = [f"{served.name}:{name}" for name, kind in served.parameters() if kind == "reference"]
    if includes:
        entry["searchInclude"] = includes
    if served.name == "Subscription":
        url = SUBSCRIPTIONS + "StructureDefinition/capabilitystatement-subscriptiontopic-canonical"
        entry["extension"] = [{"url": url, "valueCanonical": topic} for topic in TOPICS]
    entry["interaction"] += [{"code": code} for code in sorted(served.own_writes)]
    if served.profiles:
        entry["supportedProfile"] = list(served.profiles)
    entry["operation"] = [_operation(one) for one in (*served.operations, *TYPE_OPERATIONS)]
    return entry


def _operation(one: Operation) -> dict[str, Any]:
    return {"name": one.code, "definition": one.definition, "documentation": one.documentation}
