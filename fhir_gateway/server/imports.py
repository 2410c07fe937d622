"""``POST [base]/$import``: senders push NDJSON or Bundles, and what they send goes the way of every pull.

The body is NDJSON of resources of any type, mixed, or one Bundle (collection, transaction, batch) or resource in JSON;
either may be gzipped. Each client is a source of its own (``push-...``), so no sender can overwrite what another source
said. The answer is a Parameters resource with the ledger and an OperationOutcome that names each refused line.

A transaction is taken in like a collection: what passes is stored, what does not is quarantined and named. Entries that
ask for anything but a create or update are refused before anything is stored.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.errors import AuthorizationError, InputError, Location
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import PullReport, pull_files
from fhir_gateway.server import documentation
from fhir_gateway.server.access import access_of
from fhir_gateway.server.negotiation import JSON_FORMATS, require_json
from fhir_gateway.server.problems import (
    FHIR_JSON,
    InsufficientScope,
    MissingToken,
    PayloadTooLarge,
    UnsupportedMediaType,
    issue,
    outcome,
)
from fhir_gateway.sources.contents import resource_types
from fhir_gateway.sources.files import stage_files

NDJSON_FORMATS = frozenset({"application/fhir+ndjson", "application/ndjson", "application/x-ndjson", "ndjson"})
_NAMED_LINES = 200
"""Refused lines that the answer names; the rest is counted (the quarantine has them all)."""
_WRITES = frozenset({"POST", "PUT"})


def router(gateway: Gateway) -> APIRouter:
    """The operation's route, below the FHIR base."""
    routes = APIRouter(tags=["import"])

    @routes.post("/$import", **documentation.upload(["application/fhir+ndjson", FHIR_JSON]))
    async def upload(request: Request) -> Response:
        access = access_of(request)
        access.interaction = "$import"
        require_json(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in NDJSON_FORMATS | JSON_FORMATS:
            raise UnsupportedMediaType("send application/fhir+ndjson, or a Bundle as application/fhir+json")
        token = await run_in_threadpool(_sender, gateway, request.headers.get("authorization"))
        access.client_id = token.client_id
        with tempfile.TemporaryDirectory(prefix="import-", dir=_staging(gateway)) as folder:
            path = Path(folder) / ("upload.ndjson" if kind in NDJSON_FORMATS else "upload.json")
            with path.open("wb") as out:
                await _receive(request, out, gateway.settings.import_max_bytes)
            body = await run_in_threadpool(_take_in, gateway, path, token)
        return Response(body, media_type=FHIR_JSON)

    return routes


def _sender(gateway: Gateway, header: str | None) -> AccessToken:
    """The caller, who must be allowed to create something before a byte of the body is read."""
    if not header:
        raise MissingToken("a bearer token is needed")
    token = gateway.authorization.verify(header)
    if not any("c" in scope.interactions and "u" in scope.interactions for scope in token.scopes):
        raise InsufficientScope("an import needs system/[type].cu for every type that is sent")
    return token


def _staging(gateway: Gateway) -> Path:
    folder = gateway.staging_folder
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


async def _receive(request: Request, out: BinaryIO, limit: int) -> None:
    """Write the body, decompressed, and count: what is too large is refused before it fills the disk."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise UnsupportedMediaType("the body may be gzipped, and nothing else")
    stream = zlib.decompressobj(wbits=31) if "gzip" in encoding else None
    size = 0
    async for received in request.stream():
        rest = received
        while rest:
            if stream is None:
                piece, rest = rest, b""
            else:
                try:
                    piece = stream.decompress(rest, 1 << 20)
                except zlib.error:
                    raise InputError("the gzipped body is damaged", location=Location(rule="gzip")) from None
                rest = stream.unconsumed_tail
            size += len(piece)
            if size > limit:
                raise PayloadTooLarge(f"an import may hold {limit} bytes; send it in parts")
            out.write(piece)
    if stream is not None and size and not stream.eof:
        raise InputError("the gzipped body is truncated", location=Location(rule="gzip"))
    if not size:
        raise InputError("the body is empty", location=Location(rule="body"))


def _take_in(gateway: Gateway, path: Path, token: AccessToken) -> bytes:
    if path.suffix == ".json":
        _writes_only(path)
    staged = stage_files([path], "push", path.parent / "split")
    short = sorted(kind for kind in resource_types(staged.files) if not _may(token, kind))
    if short:
        raise InsufficientScope(f"the token needs {' '.join(f'system/{kind}.cu' for kind in short[:20])}")
    return orjson.dumps(_answer(gateway, pull_files(gateway, [path], source_name(token.client_id))))


def _may(token: AccessToken, kind: str) -> bool:
    try:
        token.require(kind, "cu")
    except AuthorizationError:
        return False
    return True


def _writes_only(path: Path) -> None:
    """Refuse a Bundle whose entries ask for what an import does not do."""
    try:
        bundle = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        raise InputError("the body is not JSON", location=Location(rule="json")) from None
    entries = bundle.get("entry") if isinstance(bundle, dict) else None
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        asked = entry.get("request") if isinstance(entry, dict) else None
        method = asked.get("method", "PUT") if isinstance(asked, dict) else "PUT"
        if method not in _WRITES:
            raise InputError(
                "an import creates and updates; other methods are not done here",
                location=Location(path=f"Bundle.entry[{index}].request.method", rule="method"),
            )


def source_name(client_id: str) -> str:
    """The source that a sender is: its client id where that is a name, always with a digest, so that none can collide.

    The prefix keeps senders apart from endpoints that we pull from.
    """
    digest = hashlib.sha256(client_id.encode()).hexdigest()[:8]
    words = re.sub(r"[^a-z0-9]+", "-", client_id.lower()).strip("-")[:16].strip("-")
    return f"push-{words}-{digest}" if words else f"push-{digest}"


def _answer(gateway: Gateway, report: PullReport) -> dict[str, Any]:
    """The ledger and what was refused, as a Parameters resource."""
    refused = gateway.lake.quarantined(report.pull_id)
    issues = [one for line in refused[:_NAMED_LINES] for one in line.outcome()["issue"]]
    if len(refused) > _NAMED_LINES:
        issues.append(issue("error", "incomplete", f"{len(refused) - _NAMED_LINES} more lines were refused"))
    issues += [issue(one.severity, "processing", one.message) for one in report.issues]
    stored = sum(entry.rows_stored + entry.rows_replaced + entry.rows_unchanged for entry in report.ledger.entries)
    issues.append(issue("information", "informational", f"{stored} resources are here"))
    counts = ("lines_read", "rows_stored", "rows_replaced", "rows_unchanged", "rows_quarantined")
    ledger = [
        {
            "name": "ledger",
            "part": [
                {"name": "type", "valueString": entry.resource_type or "unknown"},
                *({"name": name.replace("_", "-"), "valueInteger": getattr(entry, name)} for name in counts),
            ],
        }
        for entry in report.ledger.entries
    ]
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "source", "valueString": report.source},
            {"name": "pull", "valueString": report.pull_id},
            *ledger,
            {"name": "outcome", "resource": outcome(*issues)},
        ],
    }
