"""What an endpoint says of itself: ``.well-known/smart-configuration`` and its CapabilityStatement.

SMART App Launch 2.2.0, conformance page; FHIR R4 CapabilityStatement. Both are read tolerantly: absent members are
empty, relative URLs are resolved against the base.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

from fhir_gateway.sources.vendors import Level


@dataclass(frozen=True, slots=True)
class SmartConfiguration:
    """The members of the SMART configuration that a backend client needs."""

    token_endpoint: str | None
    capabilities: frozenset[str] = frozenset()
    grant_types: frozenset[str] = frozenset()
    auth_methods: frozenset[str] = frozenset()
    algorithms: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, document: Mapping[str, Any], base_url: str) -> SmartConfiguration:
        """From the JSON document; URLs are taken relative to the FHIR base."""
        token = document.get("token_endpoint")
        return cls(
            token_endpoint=urljoin(base_url + "/", token) if isinstance(token, str) and token else None,
            capabilities=_strings(document.get("capabilities")),
            grant_types=_strings(document.get("grant_types_supported")),
            auth_methods=_strings(document.get("token_endpoint_auth_methods_supported")),
            algorithms=_strings(document.get("token_endpoint_auth_signing_alg_values_supported")),
            scopes=_strings(document.get("scopes_supported")),
        )

    def concerns(self, signed: bool) -> list[str]:
        """What speaks against our way to authorize; a warning only, since many servers omit optional members."""
        found = []
        if self.grant_types and "client_credentials" not in self.grant_types:
            found.append("grant_types_supported lacks client_credentials")
        method = "private_key_jwt" if signed else "client_secret_basic"
        if self.auth_methods and method not in self.auth_methods:
            found.append(f"token_endpoint_auth_methods_supported lacks {method}")
        return found

    def read_scope(self, types: Iterable[str] = ()) -> str:
        """The scope to ask for: a wildcard where the server lists one or lists nothing, else what it lists by type.

        Wildcards first: some servers refuse a system export with per-type scopes, and one unknown type in the scope
        can fail the whole token request.
        """
        suffix = ".rs" if "permission-v2" in self.capabilities else ".read"
        system = {scope for scope in self.scopes if scope.startswith("system/")}
        wildcards = [f"system/*{suffix}", "system/*.rs", "system/*.read", "system/*.cruds", "system/*.*"]
        if not system:
            return wildcards[0]
        for wildcard in wildcards:
            if wildcard in system:
                return wildcard
        wanted = {*types, "Group"} if types else set()  # exports of a Group need to read it
        by_type: dict[str, str] = {}
        for scope in sorted(system):
            name, _, operations = scope.removeprefix("system/").partition(".")
            readable = operations in ("read", "*") or ("r" in operations and "s" in operations)
            usable = readable and "?" not in scope and (not wanted or name in wanted)
            # the form that the server's capabilities prefer wins where both are listed
            if usable and (name not in by_type or scope.endswith(suffix)):
                by_type[name] = scope
        return " ".join(by_type.values()) or wildcards[0]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Types and export levels of a CapabilityStatement. Both may be incomplete: servers export more than they list."""

    fhir_version: str | None = None
    software: str | None = None
    types: tuple[str, ...] = ()
    export_levels: frozenset[Level] = field(default_factory=frozenset)
    token_endpoint: str | None = None
    """Of the security extension, which servers had before the SMART configuration."""

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Capabilities:
        """From the JSON of a CapabilityStatement (R4, R4B)."""
        types: list[str] = []
        levels: set[Level] = set()
        token = None
        for rest in _objects(document.get("rest")):
            if rest.get("mode") == "client":
                continue
            if _exports(rest.get("operation")):
                levels.add("system")
            token = token or _token_uri(rest.get("security"))
            for resource in _objects(rest.get("resource")):
                name = resource.get("type")
                if not isinstance(name, str):
                    continue
                types.append(name)
                if _exports(resource.get("operation")) and name in ("Patient", "Group"):
                    levels.add("patient" if name == "Patient" else "group")
        software = document.get("software")
        return cls(
            fhir_version=document.get("fhirVersion") if isinstance(document.get("fhirVersion"), str) else None,
            software=software.get("name") if isinstance(software, Mapping) else None,
            types=tuple(dict.fromkeys(types)),
            export_levels=frozenset(levels),
            token_endpoint=token,
        )


def _exports(operations: object) -> bool:
    """Whether an operation list names Bulk Data's export (by name, with or without $, or by definition)."""
    for operation in _objects(operations):
        name = str(operation.get("name", "")).lstrip("$")
        definition = str(operation.get("definition", ""))
        if name in ("export", "patient-export", "group-export") or definition.split("|")[0].endswith(
            ("/export", "/patient-export", "/group-export")
        ):
            return True
    return False


def _token_uri(security: object) -> str | None:
    """``token`` of the ``oauth-uris`` extension (SMART App Launch 1.0, still the only place on older servers)."""
    extensions = _objects(security.get("extension")) if isinstance(security, Mapping) else []
    for extension in extensions:
        if str(extension.get("url", "")).endswith("/oauth-uris"):
            for inner in _objects(extension.get("extension")):
                if inner.get("url") == "token" and isinstance(inner.get("valueUri"), str):
                    return str(inner["valueUri"])
    return None


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _strings(value: object) -> frozenset[str]:
    return frozenset(item for item in value if isinstance(item, str)) if isinstance(value, list) else frozenset()
