"""``POST [base]/$import``: senders push NDJSON or Bundles, and what they send goes the way of every pull.

The body is NDJSON of resources of any type, mixed, or one Bundle (collection, transaction, batch) or resource in JSON;
either may be gzipped. Each client is a source of its own (``push-...``), so no sender can overwrite what another source
said. The answer is a Parameters resource with the ledger and an OperationOutcome that names each refused line.

A transaction is stored whole or not at all, and answered as FHIR says, with a Bundle (``transaction-response``); of
anything else what passes is stored, and what does not is quarantined and named. What a Bundle may ask for is in
:mod:`fhir_gateway.sources.push`.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.conformance.declared import Broken, broken_promises
from fhir_gateway.errors import InputError, Location
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.matching import StoredMatches
from fhir_gateway.jobs.pull import PullReport, held
from fhir_gateway.jobs.push import DRAFT, SENDER, push
from fhir_gateway.lake.lines import read_blocks
from fhir_gateway.lake.quarantine import QuarantinedLine
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
from fhir_gateway.server.transaction_answers import by_type, transaction_response
from fhir_gateway.sources.contents import resource_types
from fhir_gateway.sources.files import stage_files
from fhir_gateway.sources.models import StagedFile, StagedPull
from fhir_gateway.sources.outcome import SourceIssue
from fhir_gateway.sources.push import Push, read_push

NDJSON_FORMATS = frozenset({"application/fhir+ndjson", "application/ndjson", "application/x-ndjson", "ndjson"})
_NAMED_LINES = 200
"""Refused lines that the answer names; the rest is counted (the quarantine has them all)."""
MOST_BUNDLE_BYTES = 2**27
"""A Bundle is read whole, unlike NDJSON."""
_NAME = "upload.ndjson"


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
        token = await run_in_threadpool(sender, gateway, request.headers.get("authorization"))
        access.client_id = token.client_id
        ndjson = kind in NDJSON_FORMATS
        with ExitStack() as held:
            folder = await run_in_threadpool(draft, gateway, held)
            path = folder / (_NAME if ndjson else "upload.json")
            limit = gateway.settings.import_max_bytes
            with path.open("wb") as out:
                await receive(request, out, limit if ndjson else min(limit, MOST_BUNDLE_BYTES))
            status, body = await run_in_threadpool(_take_in, gateway, path, token, ndjson=ndjson)
        return Response(orjson.dumps(body), status, media_type=FHIR_JSON)

    return routes


def sender(gateway: Gateway, header: str | None) -> AccessToken:
    """The caller, who must be allowed to create something before a byte of the body is read."""
    if not header:
        raise MissingToken("a bearer token is needed")
    token = gateway.authorization.verify(header)
    if not any("c" in scope.interactions and "u" in scope.interactions for scope in token.scopes):
        raise InsufficientScope("an import needs system/[type].cu for every type that is sent")
    return token


def draft(gateway: Gateway, held: ExitStack) -> Path:
    """A folder for a body, gone at the end of ``held``; its lock says that somebody is at work in it."""
    name = f"{DRAFT}{secrets.token_hex(8)}"
    held.enter_context(hold(gateway, name, once=True, fresh=True))
    folder = gateway.staging_folder / name
    folder.mkdir(parents=True, mode=0o700)
    held.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


async def receive(request: Request, out: BinaryIO, limit: int) -> None:
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


def _take_in(gateway: Gateway, path: Path, token: AccessToken, *, ndjson: bool) -> tuple[int, dict[str, Any]]:
    """Status and answer."""
    source = source_name(token.client_id)
    if ndjson:
        return _carry_out(gateway, Push(False, ()), stage_files([path], source, path.parent), path, token)
    # what a condition finds must not change before the Bundle is stored
    with held(gateway, source):
        stored = StoredMatches(gateway.lake, source)
        sent, staged = _bundle(path, source, stored)
        return _carry_out(gateway, sent, staged, path, token, stored)


def _carry_out(
    gateway: Gateway,
    sent: Push,
    staged: StagedPull,
    path: Path,
    token: AccessToken,
    stored: StoredMatches | None = None,
) -> tuple[int, dict[str, Any]]:
    """Check and store; with what is ``stored`` already the sender's place is held."""
    found = {one.reference.partition("/")[0] for one in sent.asked if one.found}
    authorize(token, resource_types(staged.files) | found, sent.deletions)
    if sent.atomic and (refused := refusals(staged.files)):
        return 422, outcome(*named(refused, sent.places), issue("error", "processing", "nothing was stored"))
    noted, refusal = promises(gateway, staged.files)
    if refusal is not None:
        return 422, refusal
    before = {}
    if stored is not None and sent.atomic:
        before = {kind: stored.has(kind, ids) for kind, ids in by_type(sent.asked).items()}
    report = push(gateway, staged, path.parent, sent.deletions, noted, holding=stored is not None)
    return 200, transaction_response(gateway, report, sent, before) if sent.atomic else _answer(gateway, report, sent)


def promises(gateway: Gateway, files: Sequence[StagedFile]) -> tuple[list[SourceIssue], dict[str, Any] | None]:
    """What resources break of the profiles they declare, when that is looked at; an outcome when it refuses them."""
    if gateway.settings.validate_pushed == "off":
        return [], None
    lines = (line for file in files for block in read_blocks(file) for line in block.text.splitlines())
    broken: list[Broken] = broken_promises(gateway.validator, lines)
    if gateway.settings.validate_pushed == "refuse" and any(one.severity == "error" for one in broken):
        told = [issue(one.severity, "invariant", f"{one} ({one.count} times)", one.path) for one in broken]
        return [], outcome(*told[:_NAMED_LINES], issue("error", "processing", "nothing was stored"))
    return [SourceIssue("warning", str(one), _NAME, one.count) for one in broken], None


def _bundle(path: Path, source: str, stored: StoredMatches) -> tuple[Push, StagedPull]:
    """What a body of JSON holds, with its lines in place of the body."""
    body = path.read_bytes()
    sent = read_push(body, stored)
    path.unlink()
    lines = path.with_name(_NAME)
    with lines.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(f"{line}\n" for line in sent.lines)
    digest = hashlib.sha256(source.encode() + b"\0" + body).hexdigest()[:24]
    return sent, StagedPull(f"files-{digest}", source, "files", None, (StagedFile(lines, _NAME),))


def authorize(token: AccessToken, written: set[str], deleted: Iterable[str]) -> None:
    """Every type must be covered, before anything is stored."""
    needed = [(kind, "cu") for kind in sorted(written)] + [(kind, "d") for kind in sorted(deleted)]
    short = [f"system/{kind}.{letters}" for kind, letters in needed if not _may(token, kind, letters)]
    if short:
        raise InsufficientScope(f"the token needs {' '.join(short[:20])}")


def _may(token: AccessToken, kind: str, letters: str) -> bool:
    return all(token.allows(kind, letter) for letter in letters)


def refusals(files: Sequence[StagedFile]) -> list[QuarantinedLine]:
    """The lines that a commit would refuse."""
    from fhir_gateway.lake.scan import Scanner  # loads the compiled walk, which a server that only answers never needs

    scanner = Scanner()
    return [
        line
        for file in files
        for block in read_blocks(file)
        for line in scanner.scan(block, None, file.name, 0).refused
    ]


def named(refused: Sequence[QuarantinedLine], places: Sequence[int]) -> list[dict[str, Any]]:
    """Issues for the first refused lines; those of a Bundle are named by their entry."""
    issues = []
    for line in refused[:_NAMED_LINES]:
        (one,) = line.outcome()["issue"]
        if places:
            where = f"Bundle.entry[{places[line.line - 1]}]"
            inner = (line.path or "").partition(".")[2]
            one["expression"] = [f"{where}.resource" + (f".{inner}" if inner else "")]
            one["diagnostics"] = f"{where}: {line.message}"
        issues.append(one)
    if len(refused) > _NAMED_LINES:
        issues.append(issue("error", "incomplete", f"{len(refused) - _NAMED_LINES} more resources were refused"))
    return issues


def source_name(client_id: str) -> str:
    """The source that a sender is: its client id where that is a name, always with a digest, so that none can collide.

    The prefix keeps senders apart from endpoints that we pull from.
    """
    digest = hashlib.sha256(client_id.encode()).hexdigest()[:8]
    words = re.sub(r"[^a-z0-9]+", "-", client_id.lower()).strip("-")[:16].strip("-")
    return f"{SENDER}{words}-{digest}" if words else f"{SENDER}{digest}"


def _answer(gateway: Gateway, report: PullReport, sent: Push) -> dict[str, Any]:
    """The ledger, the ids that were given, and what was refused, as a Parameters resource."""
    issues = named(gateway.lake.quarantined(report.pull_id), sent.places)
    issues += [issue(one.severity, "processing", one.message) for one in report.issues]
    stored = sum(entry.rows_stored + entry.rows_replaced + entry.rows_unchanged for entry in report.ledger.entries)
    issues.append(issue("information", "informational", f"{stored} resources are here"))
    counts = ("lines_read", "rows_stored", "rows_replaced", "rows_unchanged", "rows_quarantined", "rows_deleted")
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
    assigned = [
        {
            "name": "assigned",
            "part": [
                {"name": "entry", "valueInteger": index},
                {"name": "reference", "valueReference": {"reference": reference}},
            ],
        }
        for index, reference in sent.assigned.items()
    ]
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "source", "valueString": report.source},
            {"name": "pull", "valueString": report.pull_id},
            *ledger,
            *assigned,
            {"name": "outcome", "resource": outcome(*issues)},
        ],
    }
