"""Batch and transaction: many interactions in one request (R4 http.html 3.1.0.11).

The entries of a batch, and what a transaction reads, are requests of their own through the same door as any other: each
is authorized, audited and refused by itself. The writes of a transaction happen in one, or none happens; what it reads,
it reads after them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, MutableMapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.db.writing import Writing
from fhir_gateway.errors import GatewayError, InputError, Location
from fhir_gateway.r4 import exact
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.audit import Access, AuditTrail
from fhir_gateway.server.bundle_answers import entry_answer
from fhir_gateway.server.bundle_entries import Entry, entries_of
from fhir_gateway.server.changing import answer, conditions_of, read_resource
from fhir_gateway.server.interactions import begin
from fhir_gateway.server.negotiation import json_body, preferences, require_json
from fhir_gateway.server.patch_documents import Patch, unwrapped
from fhir_gateway.server.patching import ATTEMPTS, apply
from fhir_gateway.server.problems import (
    FHIR_JSON,
    MethodNotAllowed,
    MissingToken,
    MultipleMatches,
    PreconditionFailed,
    TooCostly,
    UnsupportedType,
    error_response,
)
from fhir_gateway.server.pushing import PUSHED, PushedWrites
from fhir_gateway.server.registry import SERVED
from fhir_gateway.server.remarking import Remarked, Remarking
from fhir_gateway.server.writing import Change, Resolved, Writes, Written

MAX_BUNDLE_BYTES = 16 * 1024 * 1024
#: What the answers of the entries may hold together; the rest is refused entry by entry.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_WRITES = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
#: The order in which a transaction is carried out, whatever the order of its entries.
_ORDER = {"delete": 0, "create": 1, "update": 2}
_CONDITIONAL = re.compile(r"(?P<type>[A-Z][A-Za-z]+)\?(?P<query>.+)", re.DOTALL)


class Bundles:
    """Handler of ``POST [base]``."""

    def __init__(
        self, writes: Writes, pushed: PushedWrites, remarking: Remarking, trail: AuditTrail, base_path: str
    ) -> None:
        self._writes = writes
        self._pushed = pushed
        self._remarking = remarking
        self._rest = writes.rest
        self._trail = trail
        self._base_path = base_path

    async def handle(self, request: Request) -> Response:
        """Carry out a batch or a transaction; the answer is a Bundle whose entries are in the same order."""
        access = begin(request, "batch", None, None)
        require_json(request)
        header = request.headers.get("authorization")
        body = await json_body(request, MAX_BUNDLE_BYTES)

        def opened() -> tuple[str, list[Entry]]:
            if not header:
                raise MissingToken("a bearer token is needed")
            token = self._rest.verifier.verify(header)
            access.client_id, access.purpose = token.client_id, token.purpose
            return entries_of(body, self._rest.base_url)

        kind, entries = await run_in_threadpool(opened)
        access.interaction = kind
        if kind == "transaction":
            answers = await self._transaction(request, entries)
        else:
            answers = await self._each(request, entries)
        head = orjson.dumps({"resourceType": "Bundle", "type": f"{kind}-response"})[:-1]
        found = b",".join(answers[entry.number] for entry in entries)
        return Response(head + (b',"entry":[' + found + b"]" if entries else b"") + b"}", media_type=FHIR_JSON)

    async def _each(self, request: Request, entries: Sequence[Entry]) -> dict[int, bytes]:
        """The answers of entries that stand each for itself, by number."""
        answers: dict[int, bytes] = {}
        size = 0
        for entry in entries:
            if size > MAX_ANSWER_BYTES:
                refused = error_response(
                    TooCostly(f"the answers have more than {MAX_ANSWER_BYTES} bytes: ask in parts")
                )
                answers[entry.number] = entry_answer(refused.status_code, {}, bytes(refused.body))
            else:
                answers[entry.number] = await self._ask(request, entry)
            size += len(answers[entry.number])
        return answers

    async def _ask(self, request: Request, entry: Entry) -> bytes:
        """Send one entry through the whole application, as a request with the caller's token."""
        body, media = b"", FHIR_JSON
        if entry.resource is not None:
            try:
                body, media = unwrapped(entry.resource) if entry.method == "PATCH" else _plain(entry.resource)
            except InputError as error:
                refused = error_response(error)
                return entry_answer(refused.status_code, {}, bytes(refused.body))
        carried = {name: value for name in ("authorization", "prefer") if (value := request.headers.get(name))}
        headers = {
            **carried,
            **entry.conditions,
            "accept": FHIR_JSON,
            "content-length": str(len(body)),
            "x-request-id": f"{access_of(request).request_id[:56]}.{entry.number}",
        }
        if body:
            headers["content-type"] = media
        path = f"{self._base_path}/{entry.path}"
        scope: MutableMapping[str, Any] = {
            **{key: value for key, value in request.scope.items() if key in _OF_CONNECTION},
            "method": entry.method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": entry.query.encode(),
            "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()],
            "state": {},
        }
        sent: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        status, answered, chunks = 500, dict[str, str](), list[bytes]()

        async def receive() -> Message:
            if sent:
                return sent.pop()
            await asyncio.Event().wait()  # the caller is still there: whoever asks is told nothing
            raise RuntimeError("an event that nobody sets")

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answered.update((name.decode().lower(), value.decode("latin-1")) for name, value in message["headers"])
            elif message["type"] == "http.response.body":
                chunks.append(message.get("body", b""))

        await request.app(scope, receive, send)
        return entry_answer(status, answered, b"".join(chunks))

    async def _transaction(self, request: Request, entries: Sequence[Entry]) -> dict[int, bytes]:
        reads = [one for one in entries if one.method in ("GET", "HEAD") or one.is_search]
        writes = [one for one in entries if one not in reads]
        header = request.headers.get("authorization")
        access = access_of(request)
        noted: dict[int, Access] = {}

        def work() -> dict[int, Written]:
            tokens: dict[int, AccessToken] = {}
            changes: dict[int, Change] = {}
            for entry in writes:
                change = self._change(entry)
                noted[entry.number] = mine = _noted(access, entry, change)
                tokens[entry.number] = admit(self._rest.verifier, header, mine, change.type, change.letters)
                changes[entry.number] = change
            full_urls = {one.number: one.full_url for one in writes if one.full_url}
            again = any(one.patch is not None and one.if_match is None for one in changes.values())
            for _ in range(ATTEMPTS if again else 1):
                try:
                    return self._carry_out(changes, tokens, full_urls)
                except PreconditionFailed as error:
                    # a patch is applied to the version that is there: when somebody was faster, to that one
                    if not again or isinstance(error, MultipleMatches):
                        raise
                    last = error
            raise last

        try:
            written = await run_in_threadpool(work)
        except GatewayError as error:
            for mine in noted.values():  # nothing happened, but it was tried
                mine.status = error.status
                await self._trail.record(mine)
            raise
        returned = preferences(request).returned or "minimal"
        answers: dict[int, bytes] = {}
        for number, one in written.items():
            mine = noted[number]
            mine.status = one.status
            if one.stored is not None:
                mine.resource_id, mine.resource_version = one.stored.id, one.stored.version
            await self._trail.record(mine)
            shown = answer(self._rest.base_url, mine.interaction, one, returned)
            answers[number] = entry_answer(shown.status_code, dict(shown.headers), bytes(shown.body))
        return answers | await self._each(request, reads)

    def _carry_out(
        self, asked: Mapping[int, Change], tokens: Mapping[int, AccessToken], full_urls: Mapping[int, str]
    ) -> dict[int, Written]:
        """What became of the writes of a transaction; all of them or none."""
        changes: dict[int, Change] = {}
        remarks: dict[int, Remarked] = {}
        for number, change in asked.items():
            token = tokens[number]
            if change.patch is not None:
                current, patched = apply(self._rest, change, token)
                if self._remarking.concerns(current):
                    patched = replace(patched, if_match=change.if_match)
                    remarks[number] = self._remarking.prepare(patched, current, token)
                    continue
                change = patched
            elif (remarked := self._remarking.of(change, token)) is not None:
                remarks[number] = remarked
                continue
            changes[number] = change
        if changes and not remarks and all(one.type in PUSHED for one in changes.values()):
            return self._pushed.carry_out(changes, tokens, full_urls)
        for number, change in changes.items():
            if change.type in PUSHED:
                text = "resources that go into the lake (Patient, clinical, claims) need a transaction of their own"
                raise InputError(text, location=Location(path=change.place, rule="transaction"))
            changes[number] = self._writes.prepare(change, tokens[number])
        return self._write(changes, remarks, tokens, full_urls)

    def _change(self, entry: Entry) -> Change:
        """The write that an entry asks for; raises InputError for what cannot be part of a transaction."""
        kind, _, resource_id = entry.path.partition("/")
        if kind not in SERVED:
            raise UnsupportedType("this resource type is not served here", location=Location(path=entry.place))
        interaction = _WRITES.get(entry.method, "")
        served = SERVED[kind].writes
        if interaction not in served or "/" in resource_id or "$" in resource_id:
            raise MethodNotAllowed(f"{entry.place}: a transaction cannot do this to {kind}; data is sent to $import")
        if (interaction == "create") == bool(resource_id) and (interaction == "create" or not entry.query):
            raise InputError("not the url of such an interaction", location=Location(path=f"{entry.place}.request.url"))
        query = entry.conditions.get("if-none-exist") if interaction == "create" else entry.query or None
        criteria = None if query is None else conditions_of(kind, query, entry.place)
        resource = None
        if interaction == "patch" and resource_id and criteria:
            raise InputError("an id or criteria, not both", location=Location(path=f"{entry.place}.request.url"))
        if interaction == "patch":
            patch = Patch.of_entry(entry.resource, entry.place)
            if_match = entry.conditions.get("if-match")
            return Change("update", kind, resource_id or None, criteria, None, if_match, entry.place, patch)
        if interaction != "delete":
            where = f"{entry.place}.resource"
            try:
                resource = read_resource(exact.dumps(entry.resource), kind)
            except InputError as error:
                raise InputError(error.message, location=Location(path=where, rule=error.location.rule)) from None
        given = resource_id or (str(resource["id"]) if criteria and resource and "id" in resource else None)
        if interaction == "create":
            given = None
        return Change(interaction, kind, given, criteria, resource, entry.conditions.get("if-match"), entry.place)

    def _write(
        self,
        changes: Mapping[int, Change],
        remarks: Mapping[int, Remarked],
        tokens: Mapping[int, AccessToken],
        full_urls: Mapping[int, str],
    ) -> dict[int, Written]:
        with self._rest.store.writing() as writing:
            resolved: dict[int, Resolved] = {}
            for number, change in changes.items():
                resolved[number] = self._writes.resolve(writing, change, tokens[number])
            about = [(one.change.type, one.id) for one in resolved.values() if one.change.interaction != "create"]
            about += [(one.current.type, one.current.id) for one in remarks.values()]
            if len(about) != len(set(about)):
                raise InputError("two entries are about the same resource", location=Location(path="Bundle.entry"))
            names = {
                full_url: f"{resolved[number].change.type}/{resolved[number].id}"
                for number, full_url in full_urls.items()
            }
            done: dict[int, Written] = {}
            for number in sorted(resolved, key=lambda one: (_ORDER[resolved[one].change.interaction], one)):
                one, token = resolved[number], tokens[number]
                if one.change.resource is not None:
                    linked = self._linked(one.change.resource, names, writing, token, one.change.place)
                    one = replace(one, change=replace(one.change, resource=linked))
                done[number] = self._writes.perform(writing, one, token)
            for number, remarked in remarks.items():
                if remarked.new:
                    self._remarking.write(writing, remarked, tokens[number])
        return done | {number: self._remarking.written(one, tokens[number]) for number, one in remarks.items()}

    def _linked(self, node: Any, names: Mapping[str, str], writing: Writing, token: AccessToken, place: str) -> Any:
        """A resource whose references by ``fullUrl``, or by criteria, are references by type and id."""
        if isinstance(node, list):
            return [self._linked(one, names, writing, token, place) for one in node]
        if not isinstance(node, dict):
            return names[node] if isinstance(node, str) and node.startswith("urn:") and node in names else node
        found = {key: self._linked(value, names, writing, token, place) for key, value in node.items()}
        reference = node.get("reference")
        if isinstance(reference, str):
            found["reference"] = names.get(reference) or self._found(reference, writing, token, place)
        return found

    def _found(self, reference: str, writing: Writing, token: AccessToken, place: str) -> str:
        match = _CONDITIONAL.fullmatch(reference)
        if match is None:
            return reference
        kind = match["type"]
        if kind not in SERVED or not token.allows(kind, "s", some=True):
            raise UnsupportedType(f"a conditional reference needs a served type and system/{kind}.s")
        found = self._rest.seen(token, "s").matches_in(writing, kind, conditions_of(kind, match["query"], place))
        if len(found) != 1:
            where = Location(path=place, rule="conditional-reference")
            raise MultipleMatches("a conditional reference does not mean exactly one resource", location=where)
        return f"{kind}/{found[0].id}"


#: Of a request's scope what an entry shares with its Bundle.
_OF_CONNECTION = frozenset({"type", "asgi", "http_version", "scheme", "server", "client"})


def _plain(resource: Any) -> tuple[bytes, str]:
    return exact.dumps(resource), FHIR_JSON


def _noted(access: Access, entry: Entry, change: Change) -> Access:
    """The audit entry of one write."""
    mine = copy(access)
    mine.request_id = f"{access.request_id[:56]}.{entry.number}"
    mine.interaction = change.interaction if change.patch is None else "patch"
    mine.resource_type, mine.resource_id = change.type, change.id
    mine.named([name for name, _ in change.criteria or ()])
    return mine
