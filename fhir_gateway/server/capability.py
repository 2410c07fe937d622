"""The CapabilityStatement, written from the registry: what is not there is not served."""

from __future__ import annotations

from typing import Any

from fhir_gateway import __name__ as package
from fhir_gateway.db.search.clinical import ONE_VERSION
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.server.operation_definitions import SUBSCRIPTIONS
from fhir_gateway.server.patch_documents import JSON_PATCH
from fhir_gateway.server.registry import (
    SERVED,
    SYSTEM_OPERATIONS,
    TYPE_OPERATIONS,
    Operation,
    ServedType,
    definition,
)
from fhir_gateway.server.search import COMMON
from fhir_gateway.subscriptions.topics import TOPICS

#: When the statement's own content last changed (R4 requires a date; the time of the request would defeat caching).
PUBLISHED = "2026-11-22"

#: DEQM: which updates an operation takes or gives.
UPDATE_TYPE = "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/extension-submitDataUpdateType"
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
        "patchFormat": [JSON_PATCH, "application/fhir+json"],
        "rest": [
            {
                "mode": "server",
                "security": _security(token_url),
                "resource": [_resource(served) for _, served in sorted(SERVED.items())],
                "interaction": [{"code": code} for code in ("batch", "history-system", "search-system", "transaction")],
                "searchParam": [{"name": name, "type": kind} for name, kind in _common()],
                "operation": [told for one in SYSTEM_OPERATIONS for told in _operations(one)],
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
        "interaction": [{"code": code} for code in _interactions(served)],
        "versioning": "versioned-update" if served.writes else "versioned",
        "readHistory": True,
        "updateCreate": False,
        "conditionalCreate": "create" in served.writes,
        "conditionalRead": "full-support",
        "conditionalUpdate": "update" in served.writes,
        "conditionalDelete": "single" if "delete" in served.writes else "not-supported",
        "referencePolicy": ["literal", "logical"],
        "searchRevInclude": _referring(served.name),
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
    if served.profiles:
        entry["supportedProfile"] = list(served.profiles)
    entry["operation"] = [told for one in (*served.operations, *TYPE_OPERATIONS) for told in _operations(one)]
    return entry


def _interactions(served: ServedType) -> list[str]:
    """Codes in the order of R4's own list."""
    offered = {"read", "vread", "history-instance", "search-type", *served.writes, *served.own_writes}
    if served.name not in ONE_VERSION:
        offered.add("history-type")
    order = ("read", "vread", "update", "patch", "delete", "history-instance", "history-type", "create", "search-type")
    return [code for code in order if code in offered]


def _referring(resource_type: str) -> list[str]:
    """``_revinclude`` values: reference parameters of served types that may point to this one."""
    return [
        f"{name}:{parameter.name}"
        for name in sorted(SERVED)
        for _, parameter in sorted(search_parameters(name).items())
        if parameter.declared == "reference" and parameter.same_as is None
        if resource_type in (parameter.targets(name) or {resource_type})
    ]


def _common() -> list[tuple[str, str]]:
    """Parameters of a search over several types."""
    kinds = dict(ServedType("Basic", "").parameters())
    return [(name, kinds[name]) for name in COMMON]


def _operations(one: Operation) -> list[dict[str, Any]]:
    """An operation by each definition that it follows, with the update types it deals in (DEQM)."""
    told: dict[str, Any] = {}
    if one.update_types:
        told["extension"] = [{"url": UPDATE_TYPE, "valueCode": code} for code in one.update_types]
    names = (one.definition, *one.also)
    return [told | {"name": one.code, "definition": name, "documentation": one.documentation} for name in names]
