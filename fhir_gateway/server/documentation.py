"""OpenAPI descriptions of the routes, from the registry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from fhir_gateway.server.problems import FHIR_JSON
from fhir_gateway.server.registry import RESULT_PARAMETERS, SERVED, Operation
from fhir_gateway.server.search import COMMON

DESCRIPTION = (
    "FHIR R4 REST face of the gateway. Every route below /fhir except metadata and discovery needs a bearer token of "
    "SMART Backend Services (see /fhir/.well-known/smart-configuration). Errors are OperationOutcome resources."
)
_OUTCOMES = {400: "Wrong request", 401: "No valid token", 403: "Scopes are short", 404: "Not found", 410: "Deleted"}
_OUTCOMES |= {
    405: "Not for this resource",
    406: "Not JSON",
    409: "Not now",
    412: "Not the version that If-Match names, or more than one resource",
    413: "Body too large",
    415: "Body of another kind",
    422: "The measure cannot be run, or a transaction not stored whole",
}
_RESULT = {
    "_count": "resources on a page, at most 1000; 0 gives the total only",
    "_elements": "comma-separated elements to return",
    "_format": "json or one of its media types",
    "_pretty": "true: indented",
    "_sort": "comma-separated search parameters, each descending with a leading -",
    "_summary": "true, text, data, count or false",
    "_total": "none, estimate or accurate",
}


def _content(schema_name: str) -> dict[str, Any]:
    schema = {"type": "object", "title": schema_name, "required": ["resourceType"]}
    return {FHIR_JSON: {"schema": schema | {"properties": {"resourceType": {"const": schema_name}}}}}


def route(summary: str, resource: str, errors: tuple[int, ...] = (406,), **openapi: Any) -> dict[str, Any]:
    """Arguments of a route that answers one resource."""
    answers: dict[int | str, dict[str, Any]] = {200: {"description": resource, "content": _content(resource)}}
    for status in errors:
        answers[status] = {"description": _OUTCOMES[status], "content": _content("OperationOutcome")}
    extra = dict(openapi)
    return {"summary": summary, "responses": answers, "openapi_extra": extra, "response_model": None}


_ALL = (400, 401, 403, 404, 406)
_WRITTEN = (400, 401, 403, 405, 406, 412, 413, 415, 422)
_SECURITY: list[dict[str, list[str]]] = [{"backend": []}]


def _query(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": {"type": "string"}}


def _searchable(name: str) -> list[tuple[str, str]]:
    found = [(code, f"{kind} search parameter") for code, kind in SERVED[name].parameters()]
    found.append(("_include", f"{name}:parameter of resources to send along; again for those by _include:iterate"))
    found.append(("_revinclude", f"Type:parameter of resources that refer to {name}, to send along"))
    found.append(("_has", "_has:Type:reference:parameter=value: what such a resource refers to"))
    return found + [(code, _RESULT[code]) for code in RESULT_PARAMETERS]


def search(name: str) -> dict[str, Any]:
    """``GET [type]``."""
    parameters = [_query(code, text) for code, text in _searchable(name)]
    return route(f"Search {name}", "Bundle", _ALL, parameters=parameters, security=_SECURITY)


def search_form(name: str) -> dict[str, Any]:
    """``POST [type]/_search``."""
    properties = {code: {"type": "string", "description": text} for code, text in _searchable(name)}
    form = {"application/x-www-form-urlencoded": {"schema": {"type": "object", "properties": properties}}}
    return route(
        f"Search {name} by form", "Bundle", _ALL, requestBody={"content": form, "required": False}, security=_SECURITY
    )


def read(name: str) -> dict[str, Any]:
    """``GET [type]/[id]``."""
    parameters = [_query(code, _RESULT[code]) for code in ("_elements", "_format", "_summary")]
    return route(f"Read {name}", name, (*_ALL, 410), parameters=parameters, security=_SECURITY)


def vread(name: str) -> dict[str, Any]:
    """``GET [type]/[id]/_history/[vid]``."""
    return route(f"Read a version of {name}", name, (*_ALL, 410), security=_SECURITY)


def _searched(name: str) -> list[dict[str, Any]]:
    return [_query(code, f"{kind} search parameter") for code, kind in SERVED[name].parameters()]


def create(name: str) -> dict[str, Any]:
    """``POST [type]``."""
    body = {"content": _content(name), "required": True}
    found = route(f"Create {name}", name, _WRITTEN, requestBody=body, security=_SECURITY)
    found["responses"][201] = {"description": "Created", "content": _content(name)}
    return found


def update(name: str, conditional: bool = False) -> dict[str, Any]:
    """``PUT [type]/[id]``, or ``PUT [type]?...``."""
    body = {"content": _content(name), "required": True}
    more = {"parameters": _searched(name)} if conditional else {}
    title = f"Update the {name} that meets the criteria" if conditional else f"Update {name}"
    found = route(title, name, _WRITTEN, requestBody=body, security=_SECURITY, **more)
    if conditional:
        found["responses"][201] = {"description": "Created", "content": _content(name)}
    return found


def patch(name: str, conditional: bool = False) -> dict[str, Any]:
    """``PATCH [type]/[id]``, or ``PATCH [type]?...``."""
    operation = {"type": "object", "required": ["op", "path"]}
    content = {"application/json-patch+json": {"schema": {"type": "array", "items": operation}}}
    body = {"content": content | _content("Parameters"), "required": True}
    more = {"parameters": _searched(name)} if conditional else {}
    title = f"Patch the {name} that meets the criteria" if conditional else f"Patch {name}"
    return route(title, name, (*_WRITTEN, 404, 409, 410), requestBody=body, security=_SECURITY, **more)


def delete(name: str, conditional: bool = False) -> dict[str, Any]:
    """``DELETE [type]/[id]``, or ``DELETE [type]?...``."""
    more = {"parameters": _searched(name)} if conditional else {}
    title = f"Delete the {name} that meets the criteria" if conditional else f"Delete {name}"
    found = route(title, "OperationOutcome", (400, 401, 403, 406, 412), security=_SECURITY, **more)
    found["responses"][204] = {"description": "Deleted, or nothing to delete"}
    return found


def bundle() -> dict[str, Any]:
    """``POST [base]``."""
    body = {"content": _content("Bundle"), "required": True}
    answers = (*(one for one in _WRITTEN), 404)
    return route("Batch or transaction", "Bundle", answers, requestBody=body, security=_SECURITY)


#: What the history of the system is of.
EVERYTHING = "everything"


def history(of: str) -> dict[str, Any]:
    """``_history`` of a resource, a type or everything."""
    parameters = [
        _query("_count", _RESULT["_count"]),
        _query("_since", "only versions made at or after this instant"),
        _query("_at", "only versions that were in force at some time of this date or instant"),
    ]
    if of == EVERYTHING:
        parameters.append(_query("_type", "comma-separated types; all that the token is about without it"))
    return route(f"Versions of {of}", "Bundle", _ALL, parameters=parameters, security=_SECURITY)


def search_system(form: bool = False) -> dict[str, Any]:
    """``GET [base]`` and ``POST [base]/_search``: several types."""
    found = [("_type", "comma-separated types; all that the token is about without it")]
    found += [(code, "search parameter of every type") for code in COMMON]
    found += [(code, _RESULT[code]) for code in RESULT_PARAMETERS if code != "_sort"]
    if not form:
        parameters = [_query(*one) for one in found]
        return route("Search several types", "Bundle", _ALL, parameters=parameters, security=_SECURITY)
    properties = {code: {"type": "string", "description": text} for code, text in found}
    content = {"application/x-www-form-urlencoded": {"schema": {"type": "object", "properties": properties}}}
    body = {"content": content, "required": False}
    return route("Search several types by form", "Bundle", _ALL, requestBody=body, security=_SECURITY)


def operation(served: Operation, body: bool = False) -> dict[str, Any]:
    """A FHIR operation with its parameters in the URL, and in the ``body`` where there is one."""
    extra: dict[str, Any] = {"parameters": [_query(*one) for one in served.parameters], "security": _SECURITY}
    if body:
        extra["requestBody"] = {"content": _content("Parameters"), "required": False}
    return route(f"${served.code}", served.returns, (*_ALL, 413, 415, 422), **extra)


def posted(served: Operation, status: int = 200) -> dict[str, Any]:
    """An operation whose parameters come in a Parameters body only."""
    described = "; ".join(f"{name}: {text}" for name, text in served.parameters)
    body = {"content": _content("Parameters"), "required": bool(served.parameters), "description": described}
    extra = route(
        f"${served.code}",
        served.returns,
        (*_ALL, 409, 412, 413, 415, 422),
        requestBody=body,
        security=_SECURITY,
    )
    return extra | {"responses": {status: extra["responses"].pop(200), **extra["responses"]}, "status_code": status}


def validation(served: Operation, body: bool = False) -> dict[str, Any]:
    """``$validate``: answers 200 whatever it finds; the body is a resource of the type, or Parameters."""
    extra: dict[str, Any] = {"parameters": [_query(*one) for one in served.parameters], "security": _SECURITY}
    if body:
        schema = {"type": "object", "required": ["resourceType"]}
        extra["requestBody"] = {"content": {FHIR_JSON: {"schema": schema}}, "required": False}
    return route(f"${served.code}", served.returns, (*_ALL, 413, 415, 422), **extra)


def with_lines(described: dict[str, Any], media_types: Sequence[str]) -> dict[str, Any]:
    """A route whose body may be NDJSON of these types as well."""
    for one in media_types:
        described["openapi_extra"]["requestBody"]["content"][one] = {"schema": {"type": "string"}}
    return described


def upload(media_types: list[str]) -> dict[str, Any]:
    """``POST $import`` with a body of one of these types."""
    body = {"required": True, "content": {one: {"schema": {"type": "string"}} for one in media_types}}
    return route(
        "$import", "Parameters", (400, 401, 403, 406, 409, 413, 415, 422), requestBody=body, security=_SECURITY
    )


def accepted(described: dict[str, Any]) -> dict[str, Any]:
    """A route that may be asked to answer later (``Prefer: respond-async``)."""
    headers = {"Content-Location": {"description": "where to poll", "schema": {"type": "string"}}}
    answer = {"description": "Accepted: poll the Content-Location", "headers": headers}
    later = {202: answer | {"content": _content("OperationOutcome")}}
    later[429] = {"description": "Too much under way, see Retry-After", "content": _content("OperationOutcome")}
    return described | {"responses": described["responses"] | later}


def kick_off(served: Operation, body: bool = False) -> dict[str, Any]:
    """A bulk export: never answered at once."""
    described = accepted(operation(served, body))
    del described["responses"][200], described["responses"][422]
    return described | {"status_code": 202}


def async_status() -> dict[str, Any]:
    """The poll of an asynchronous request."""
    described = route("Poll an asynchronous request", "Bundle", (401, 404), security=_SECURITY)
    manifest = {"application/json": {"schema": {"type": "object", "title": "Manifest"}}}
    described["responses"][200]["description"] = "The manifest of an export, or the answer of an operation"
    described["responses"][200]["content"] |= manifest
    described["responses"][202] = {"description": "Not yet: come back after Retry-After seconds"}
    described["responses"]["default"] = {"description": "The work failed", "content": _content("OperationOutcome")}
    return described


def async_delete() -> dict[str, Any]:
    """The end of an asynchronous request, asked for by its client."""
    described = route("Cancel an asynchronous request, or say that its answer was read", "OperationOutcome", (401, 404))
    described["responses"][202] = described["responses"].pop(200)
    described["openapi_extra"]["security"] = _SECURITY
    return described


def async_file() -> dict[str, Any]:
    """A file of an answer."""
    described = route("A file of an answer, as NDJSON", "Resource", (401, 403, 404), security=_SECURITY)
    ndjson = {"application/fhir+ndjson": {"schema": {"type": "string"}}}
    described["responses"][200] = {"description": "Resources, one a line; gzipped on request", "content": ndjson}
    described["responses"][206] = {"description": "A range of the file", "content": ndjson}
    described["responses"][416] = {"description": "No such range"}
    return described


def _name_path_parameters(path: str, operation: dict[str, Any]) -> None:
    """Routes that read their path from the request do not declare what is in it."""
    named = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
    for name in re.findall(r"{(\w+)}", path):
        if name not in named:
            schema = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            operation.setdefault("parameters", []).append(schema)


_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
#: Answers to mistakes that a route does not list one by one: too many requests, wrong bodies, no token.
_REFUSALS: dict[str, Any] = {
    "Refused": {"description": "Refused", "content": _content("OperationOutcome")},
    "OAuthRefused": {
        "description": "Refused, as OAuth says it (RFC 6749 section 5.2)",
        "content": {"application/json": {"schema": _ERROR}} | _content("OperationOutcome"),
    },
}


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the routes, with how to get in."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        flow = {
            "clientCredentials": {"tokenUrl": "/auth/token", "scopes": {"system/*.rs": "read and search everything"}}
        }
        for path, item in schema["paths"].items():
            for operation in item.values():
                _name_path_parameters(path, operation)
                kind = "OAuthRefused" if path.startswith("/auth/") else "Refused"
                operation["responses"].setdefault("4XX", {"$ref": f"#/components/responses/{kind}"})
        schema.setdefault("components", {})["responses"] = _REFUSALS
        schema["components"]["securitySchemes"] = {"backend": {"type": "oauth2", "flows": flow}}
        app.openapi_schema = schema
    return app.openapi_schema
