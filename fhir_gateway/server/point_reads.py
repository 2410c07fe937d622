"""Plain reads by id, many at a time: what most clients ask most of the time, without the frame of a general request.

``GET [type]/[id]`` and ``GET [type]/[id]/_history/[vid]`` of what is stored are gathered while the trail's thread is
busy with those before, read by one statement for each type and audience, entered in the trail by one commit, and
answered when that is done (docs/adr/0175). Everything else goes the general way, with the same answers: other types,
parameters, a token that is not known yet, a scope that is too narrow or restricted, what is not there, deleted or not
visible, a client that asks too often, a database that fails.

Plain ASGI, around the whole application.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.auth.service import AuthorizationServer
from fhir_gateway.db.by_id import MOST_AT_ONCE
from fhir_gateway.db.resources import ResourceStore, StoredResource
from fhir_gateway.db.writing import slices
from fhir_gateway.errors import AuthenticationError
from fhir_gateway.logs import request_id
from fhir_gateway.server.audit import Access, AuditTrail
from fhir_gateway.server.beside import beside
from fhir_gateway.server.disclosure import note
from fhir_gateway.server.interactions import unchanged, version_headers
from fhir_gateway.server.metrics import Metrics
from fhir_gateway.server.middleware import CLIENT_CLOSED, always, chosen_id, log_answer
from fhir_gateway.server.negotiation import accepts_json
from fhir_gateway.server.patience import ANSWER_SECONDS, WHOLE
from fhir_gateway.server.presentation import SMALLEST, gzipped, takes_gzip
from fhir_gateway.server.problems import FHIR_JSON
from fhir_gateway.server.throttle import Throttle
from fhir_gateway.telemetry import requests as request_spans
from fhir_gateway.telemetry import spans

log = logging.getLogger("fhir_gateway.server")

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_VERSION = re.compile(r"[0-9]{1,9}")
#: Headers that a plain read looks at; a request with one of them twice, or with a body, is no plain one.
_HEADERS = frozenset(
    b"accept accept-encoding authorization if-modified-since if-none-match x-request-id".split()
    + b"content-length transfer-encoding".split()
)
_MOST_TOKENS = 1000
_TYPE = (b"content-type", FHIR_JSON.encode())
_VARY = (b"vary", b"Accept-Encoding")
_NOTHING: dict[str, Any] = {}
_GZIP = (b"content-encoding", b"gzip")

RawHeaders = list[tuple[bytes, bytes]]


@dataclass(slots=True, eq=False)
class _Asked:
    """One read: what is asked, and the answer once there is one (none: the general way)."""

    access: Access
    token: AccessToken
    kind: str
    version: str | None
    tags: str | None
    since: str | None
    packed: bool
    done: asyncio.Future[bool]
    headers: RawHeaders | None = None
    body: bytes = b""


class PointReads:
    """Wraps the application; ``kinds`` are the types whose resources are stored."""

    def __init__(
        self,
        app: ASGIApp,
        store: ResourceStore,
        verifier: AuthorizationServer,
        trail: AuditTrail,
        throttle: Throttle,
        metrics: Metrics,
        base_path: str,
        kinds: Collection[str],
        https: bool,
    ) -> None:
        self._app = app
        self._store = store
        self._verifier = verifier
        self._trail = trail
        self._throttle = throttle
        self._metrics = metrics
        self._prefix = f"{base_path}/"
        self._kinds = frozenset(kinds)
        one = f"{base_path}/{{resource_type}}/{{id}}"
        self._routes = {"read": one, "vread": f"{one}/_history/{{vid}}"}
        self._always = always(https)
        self._waiting: defaultdict[asyncio.AbstractEventLoop, deque[_Asked]] = defaultdict(deque)
        self._sent: set[asyncio.AbstractEventLoop] = set()  # loops with a batch under way that is not begun
        self._known: OrderedDict[str, None] = OrderedDict()  # headers whose token was good the last time
        self._verifying: dict[str, asyncio.Future[AccessToken | None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a plain read; pass everything else on."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"]:
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        where = path[len(self._prefix) :].split("/") if path.startswith(self._prefix) else [""]
        named = where[0] in self._kinds and len(where) in (2, 4)
        if not named or not await self._answered(scope, send, where):
            await self._app(scope, receive, send)

    async def _answered(self, scope: Scope, send: Send, where: list[str]) -> bool:
        """Answer, and return True, if this is a plain read of something that is there."""
        started = time.perf_counter()
        asked = await self._asked(scope, where)
        if asked is None:
            return False
        began = time.time_ns() if spans.on() else None
        self._metrics.under_way.inc()
        try:
            self._enqueue(asked)
            if not await asked.done:
                return False
            access, headers = asked.access, asked.headers or []
            whole = scope.get("state", _NOTHING).get(WHOLE)
            if whole is None or not whole(access.status, headers, asked.body):
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await send({"type": "http.response.start", "status": access.status, "headers": headers})
                        await send({"type": "http.response.body", "body": asked.body})
                except TimeoutError:  # the client does not take its answer: the server closes the connection
                    access.status = CLIENT_CLOSED
        finally:
            self._metrics.under_way.dec()
        seconds = time.perf_counter() - started
        self._metrics.answered(access, seconds)
        logged = request_id.set(access.request_id)
        traced = None if began is None else request_spans.begin(scope, began)
        log_answer(access, seconds)
        if traced is not None:
            traced.end(access.interaction, access.resource_type, access.status, self._routes[access.interaction])
        request_id.reset(logged)
        return True

    async def _asked(self, scope: Scope, where: list[str]) -> _Asked | None:
        """The read that a request asks for; None when it is no plain one, or not this client's to ask."""
        kind, identity, *rest = where
        version = rest[1] if rest else None
        if not _ID.fullmatch(identity) or scope.get("root_path"):
            return None
        if version is not None and (rest[0] != "_history" or not _VERSION.fullmatch(version)):
            return None
        found: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            if name in _HEADERS:
                if name in found:
                    return None
                found[name] = value.decode("latin-1")
        header = found.get(b"authorization")
        if header is None or b"content-length" in found or b"transfer-encoding" in found:
            return None
        if not accepts_json(found.get(b"accept", "")):
            return None
        token = self._verifier.verified(header) or await self._verified_anew(header)
        if token is None or token.audience.grants or not token.allows(kind, "r"):
            return None
        if header not in self._known:
            while len(self._known) >= _MOST_TOKENS:
                self._known.popitem(last=False)
            self._known[header] = None
        access = Access(chosen_id(found.get(b"x-request-id", "")))
        access.address = str(scope["client"][0])[:64] if scope.get("client") else None
        access.client_id, access.purpose = token.client_id, token.purpose
        access.interaction = "read" if version is None else "vread"
        access.resource_type, access.resource_id = kind, identity
        return _Asked(
            access,
            token,
            kind,
            version,
            found.get(b"if-none-match"),
            found.get(b"if-modified-since"),
            takes_gzip(found.get(b"accept-encoding", "")),
            asyncio.get_running_loop().create_future(),
        )

    async def _verified_anew(self, header: str) -> AccessToken | None:
        """The token of a header that was good before, looked up once for all who wait; None: ask the general way."""
        if header not in self._known:  # it is good or not: the general way finds out
            return None
        under_way = self._verifying.get(header)
        if under_way is not None and under_way.get_loop() is asyncio.get_running_loop():
            return await asyncio.shield(under_way)
        under_way = self._verifying[header] = asyncio.ensure_future(self._verify(header))
        try:
            return await under_way
        finally:
            self._verifying.pop(header, None)

    async def _verify(self, header: str) -> AccessToken | None:
        try:
            return await beside(lambda: self._verifier.verify(header))
        except AuthenticationError:
            self._known.pop(header, None)
            return None

    def _enqueue(self, asked: _Asked) -> None:
        """Send for the trail's thread at the end of this turn of the loop, unless it is sent for already."""
        loop = asked.done.get_loop()
        self._waiting[loop].append(asked)
        if loop not in self._sent:
            self._sent.add(loop)
            loop.call_soon(self._trail.send, _Batch(self, loop))

    def take(self, loop: asyncio.AbstractEventLoop) -> list[_Asked]:
        """What is waiting now. Reads that come from here on send for the thread again."""
        self._sent.discard(loop)
        waiting, taken = self._waiting[loop], []
        while waiting:
            taken.append(waiting.popleft())
        return taken

    def read(self, batch: list[_Asked]) -> None:
        """Give each its answer, if it has one here."""
        for (kind, _), some in groupby(sorted(batch, key=_group), _group):
            together = list(some)
            view = self._store.seen_by(together[0].token.audience.to("r"))
            ids = list({str(one.access.resource_id): None for one in together})
            found = {stored.id: stored for part in slices(ids, MOST_AT_ONCE) for stored in view.current(kind, part)}
            for one in together:
                stored = found.get(str(one.access.resource_id))
                if stored is not None and not stored.deleted and one.version in (None, str(stored.version)):
                    self._answer(one, stored)

    def _answer(self, asked: _Asked, stored: StoredResource) -> None:
        access = asked.access
        if not self._throttle.allows(access.client_id or ""):
            return
        headers = [(name.lower().encode(), value.encode()) for name, value in version_headers(stored).items()]
        if unchanged(stored, asked.tags, asked.since):
            access.status = 304
            note(access, headers, b"", True)
            headers.append((b"x-request-id", access.request_id.encode()))
            headers += self._always
        else:
            access.status = 200
            body = stored.body
            place = len(headers)
            headers.append(_TYPE)
            note(access, headers, body, True)
            packed = asked.packed and len(body) >= SMALLEST
            asked.body = gzipped(body) if packed else body
            headers.insert(place, (b"content-length", str(len(asked.body)).encode()))
            headers.append((b"x-request-id", access.request_id.encode()))
            headers += self._always
            headers.append(_VARY)
            if packed:
                headers.append(_GZIP)
        asked.headers = headers


@dataclass(slots=True, eq=False)
class _Batch:
    """The reads that wait when the trail's thread comes to it."""

    reads: PointReads
    loop: asyncio.AbstractEventLoop
    asked: list[_Asked] | None = None

    def work(self) -> list[Access]:
        """Read them; those that have their answer are entered."""
        self.asked = self.reads.take(self.loop)
        self.reads.read(self.asked)
        return [one.access for one in self.asked if one.headers is not None]

    def ended(self, failure: BaseException | None) -> None:
        """Let them answer; when the database failed, the general way says so."""
        if failure is not None:
            log.warning("%d reads go the general way", len(self.asked or ()), exc_info=failure)
        for one in self.asked or ():
            if not one.done.done():
                one.done.set_result(failure is None and one.headers is not None)


def _group(asked: _Asked) -> tuple[str, int]:
    return asked.kind, id(asked.token)
