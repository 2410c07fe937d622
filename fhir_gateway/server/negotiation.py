"""Formats, preferences and bodies of requests (FHIR R4 http.html sections 2.21.0.6, 3.1.0.1.1 and 3.2.1).

FHIR JSON is the only format served. ``_format`` overrides ``Accept``; what neither names is JSON.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.requests import Request

from fhir_gateway.errors import InputError, Location
from fhir_gateway.server.problems import NotAcceptable, PayloadTooLarge, UnsupportedMediaType

#: Spellings of JSON that clients use in ``_format`` and ``Accept`` (R4 http.html 3.1.0.1.13).
JSON_FORMATS = frozenset({"json", "application/json", "application/fhir+json", "text/json", "application/json+fhir"})
_WILDCARDS = frozenset({"*/*", "application/*"})
_FORM = "application/x-www-form-urlencoded"
#: A search form is a handful of parameters; a Parameters body names measures and one subject.
MAX_FORM_BYTES = 64 * 1024
MAX_PARAMETERS_BYTES = 1024 * 1024
_PREFERENCE = re.compile(r"\s*([A-Za-z-]+)\s*(?:=\s*\"?([^\s\";,]*)\"?)?")


def _media(text: str) -> tuple[str, dict[str, str]]:
    name, *rest = text.split(";")
    parameters = dict(part.strip().lower().partition("=")[::2] for part in rest)
    return name.strip().lower(), parameters


def require_json(request: Request) -> None:
    """Refuse a request that wants another format than JSON, or another FHIR version than 4.0; raises NotAcceptable."""
    chosen = request.query_params.get("_format")
    if chosen is not None:
        # "+" of application/fhir+json arrives as a space from clients that do not encode it
        if _media(chosen)[0].replace(" ", "+") not in JSON_FORMATS:
            raise NotAcceptable("only JSON is served", location=Location(path="_format", rule="format"))
        return
    if not accepts_json(request.headers.get("accept", "")):
        raise NotAcceptable("only FHIR R4 JSON is served", location=Location(path="Accept", rule="format"))


@lru_cache(maxsize=256)
def accepts_json(header: str) -> bool:
    """True when a client that sends this ``Accept`` header takes FHIR JSON of R4; also when it sends none."""
    if not header.strip():
        return True
    for part in header.split(","):
        name, parameters = _media(part)
        if parameters.get("q") in ("0", "0.0", "0.00", "0.000"):
            continue
        if name in JSON_FORMATS or name in _WILDCARDS:
            if parameters.get("fhirversion", "4.0") not in ("4.0", "4.0.1"):
                continue
            return True
    return False


@dataclass(frozen=True, slots=True)
class Preferences:
    """What the ``Prefer`` headers of a request ask for (RFC 7240)."""

    strict: bool = False
    respond_async: bool = False
    lenient: bool = False
    separate_export_status: bool = False
    returned: str | None = None  # representation, minimal or operationoutcome, when the client says


def preferences(request: Request) -> Preferences:
    """Preferences of a request; unknown ones are ignored, as RFC 7240 wants."""
    found: dict[str, str] = {}
    for header in request.headers.getlist("prefer"):
        for part in re.split(r"[,;]", header):
            match = _PREFERENCE.match(part)
            if match:
                found.setdefault(match[1].lower(), (match[2] or "").lower())
    handling = found.get("handling")
    returned = found.get("return")
    return Preferences(
        handling == "strict",
        "respond-async" in found,
        handling == "lenient",
        "separate-export-status" in found,
        returned if returned in ("representation", "minimal", "operationoutcome") else None,
    )


async def read_body(request: Request, limit: int) -> bytes:
    """The body, decompressed, at most ``limit`` bytes; raises PayloadTooLarge before the rest is read."""
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limit:
        raise PayloadTooLarge(f"the body may have at most {limit} bytes")
    chunks: list[bytes] = []
    size = 0
    async for chunk in decompressed(request):
        size += len(chunk)
        if size > limit:
            raise PayloadTooLarge(f"the body may have at most {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def decompressed(request: Request) -> AsyncIterator[bytes]:
    """The pieces of a body, gunzipped where it is gzipped; none is much larger than 1 MiB, however well it packed."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        async for received in request.stream():
            yield received
        return
    if encoding not in ("gzip", "x-gzip"):
        raise UnsupportedMediaType("the body may be gzipped, and nothing else")
    stream = zlib.decompressobj(wbits=31)
    some = False
    async for received in request.stream():
        rest = received
        some = some or bool(received)
        while rest and not stream.eof:
            try:
                piece = stream.decompress(rest, 1 << 20)
            except zlib.error:
                raise InputError("the gzipped body is damaged", location=Location(rule="gzip")) from None
            rest = stream.unconsumed_tail
            yield piece
    if some and (not stream.eof or stream.unused_data):
        raise InputError("the gzipped body is no single whole one", location=Location(rule="gzip"))


def media_type(request: Request) -> str:
    """What the body of a request is said to be, without parameters, in lower case."""
    return _media(request.headers.get("content-type", ""))[0]


async def json_body(request: Request, limit: int) -> bytes:
    """The body of a request that sends a resource; raises UnsupportedMediaType for anything but JSON in UTF-8."""
    name, parameters = _media(request.headers.get("content-type", ""))
    if name not in JSON_FORMATS or parameters.get("charset", "utf-8").strip('"') not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("a resource is sent as application/fhir+json in UTF-8")
    if parameters.get("fhirversion", "4.0") not in ("4.0", "4.0.1"):
        raise UnsupportedMediaType("only resources of FHIR R4 (4.0) are read")
    return await read_body(request, limit)


async def form_parameters(request: Request) -> list[tuple[str, str]]:
    """Parameters of a ``POST _search``: those of the URL, then those of the form body."""
    parameters = list(request.query_params.multi_items())
    body = await read_body(request, MAX_FORM_BYTES)
    if not body:
        return parameters
    if _media(request.headers.get("content-type", ""))[0] != _FORM:
        raise UnsupportedMediaType(f"a search body is {_FORM}")
    try:
        return parameters + parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=200)
    except ValueError:
        raise InputError("the form body cannot be read") from None


async def operation_parameters(request: Request) -> list[tuple[str, Any]]:
    """Parameters of an operation as (name, value): the URL's as text, then those of a Parameters body.

    A POST with an empty body and everything in the URL is accepted (the DEQM test kit sends those). In a body every
    ``value[x]`` counts by its value, whatever its type; a ``resource`` part comes as the resource.
    """
    parameters: list[tuple[str, Any]] = [
        item for item in request.query_params.multi_items() if item[0] not in ("_format", "_pretty")
    ]
    if request.method == "GET":
        return parameters
    body = await read_body(request, MAX_PARAMETERS_BYTES)
    if not body.strip():
        return parameters
    if _media(request.headers.get("content-type", ""))[0] not in JSON_FORMATS:
        raise UnsupportedMediaType("the body of an operation is a Parameters resource in FHIR JSON")
    return parameters + parse_parameters(body)


def parse_parameters(body: bytes) -> list[tuple[str, Any]]:
    """Read a Parameters resource; raises InputError naming the rule that is broken."""
    try:
        resource = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InputError("the body is not JSON", location=Location(rule="json")) from None
    if not isinstance(resource, Mapping) or resource.get("resourceType") != "Parameters":
        raise InputError("the body is not a Parameters resource", location=Location(path="resourceType"))
    entries = resource.get("parameter", [])
    if not isinstance(entries, list):
        raise InputError("not a list", location=Location(path="Parameters.parameter"))
    found: list[tuple[str, Any]] = []
    for index, entry in enumerate(entries):
        where = Location(path=f"Parameters.parameter[{index}]")
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise InputError("a parameter needs a name", location=where)
        values = [value for key, value in entry.items() if key.startswith("value")]
        if "resource" in entry:
            values.append(entry["resource"])
        if len(values) != 1:
            raise InputError("a parameter needs exactly one value or resource", location=where)
        found.append((entry["name"], values[0]))
    return found
