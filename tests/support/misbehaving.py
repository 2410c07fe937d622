"""A FHIR source that misbehaves on demand, over real HTTP on loopback.

It behaves until told otherwise. Faults are queued per kind of request and used up one by one::

    source.faults["file"] += [Fault(status=502), Fault(truncate=True)]

Switches (attributes) change how it always behaves. Kinds: smart, metadata, token, kickoff, poll, file, delete, search.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import itertools
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs, urlsplit

import uvicorn
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.support.waiting import HANG


@dataclass
class Fault:
    """One wrong answer. ``truncate``, ``stall``, ``endless`` break the right one; else status and body replace it."""

    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    truncate: bool = False
    stall: float = 0.0
    endless: bool = False


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    kind: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    method: str = "GET"
    body: bytes = b""

    @property
    def authorized(self) -> bool:
        """Whether it carried a token."""
        return "authorization" in self.headers


def patients(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Made-up patients."""
    return [{"resourceType": "Patient", "id": f"p{first + n}", "gender": "unknown"} for n in range(count)]


class MisbehavingSource:
    """The source; ``files`` are served as an export's output, in order."""

    def __init__(self) -> None:
        self.base = ""
        self.files: dict[str, list[dict[str, Any]]] = {"Patient-1": patients(3), "Patient-2": patients(2, 3)}
        self.error_files: dict[str, list[dict[str, Any]]] = {}
        self.deleted_files: dict[str, list[dict[str, Any]]] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.fault_every: dict[str, int] = {}
        self.connections = 0
        self._clients: set[Any] = set()
        self.seen: list[Seen] = []
        self.jwks: dict[str, Any] = {"keys": []}
        self.jtis: list[str] = []
        self.capabilities = ["permission-v2", "client-confidential-asymmetric"]
        self.export_levels: set[str] = {"system", "patient", "group"}
        self.scopes_supported: list[str] | None = None
        self.client_secret: str | None = None
        self.open = False
        self.smart_document = True
        self.security_extension = False
        self.algorithms: list[str] | None = None
        self.audience: str | None = None
        self.known_scopes: set[str] | None = None
        self.clock_ahead = 0.0
        self.longest_assertion = 300
        self.jku: str | None = None
        self.group_status = 200
        self.group_members: list[str] | None = None
        self.kickoff_methods = {"GET", "POST"}
        self.refused_types: dict[str, int] = {}
        self.future_since = False
        self.organized_by: str | None = None
        self.early_manifest = False
        self.expired_links = 0
        self.poll_budget: int | None = None
        self.read_only_by_id = False
        self.key_paging = False
        self.ndjson_type = "application/fhir+ndjson"
        self.granted_scope: str | None = "same"
        self.expires_in: Any = 300
        self.token_uses: int | None = None
        self.token_type = "bearer"
        self.requires_access_token: bool = True
        self.refuse_token_on_files = False
        self.relative_urls = False
        self.file_host: str | None = None
        self.file_redirect: str | None = None
        self.counts: str = "number"
        self.count_error = 0
        self.trailing_newline = True
        self.gzip = False
        self.presigned = False
        self.errors_name: str | None = "error"
        self.moving_transaction_time = False
        self.transaction_time = "2025-06-01T00:00:00.000Z"
        self.manifest_pages = 1
        self.manifest_extra: dict[str, Any] = {}
        self.manifest_headers: dict[str, str] = {}
        self.item_extra: dict[str, Any] = {}
        self.polls_before_done = 1
        self.page_cap = 2
        self.hide_next = False
        self.dates: str = "ignored"
        """What a search does with ``_lastUpdated``: ``ignored``, ``known``, or ``nothing`` is found by it."""
        self.now: str | None = None
        """``Date`` of search answers."""
        self.directory: list[dict[str, Any]] = []
        self.extra_entries: list[dict[str, Any]] = []
        self.deleted_jobs: set[str] = set()
        self.asked: list[dict[str, list[str]]] = []
        self.kickoffs = 0
        self.manifests = 0
        self._polls = 0
        self._met: Counter[str] = Counter()
        self._uses: dict[str, int] = {}
        self._tokens = itertools.count(1)
        self._signature = 0

    def requests(self, kind: str) -> list[Seen]:
        """Requests of one kind, in order."""
        return [one for one in self.seen if one.kind == kind]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        query = parse_qs(scope["query_string"].decode())
        path = scope["path"]
        kind = self._kind(scope["method"], path)
        seen = Seen(kind, path, query, headers, scope["method"], body)
        self.seen.append(seen)
        self._clients.add(tuple(scope["client"]))  # those that were open at any time
        self.connections = len(self._clients)
        self._met[kind] += 1
        due = self._met[kind] % self.fault_every.get(kind, 1) == 0
        fault = self.faults[kind].pop(0) if self.faults[kind] and due else None
        if fault is not None and not (fault.truncate or fault.stall or fault.endless):
            await _answer(send, fault.status, fault.headers, fault.body)
            return
        status, answer_headers, content = self._respond(seen, body)
        if fault is None:
            await _answer(send, status, answer_headers, content)
            return
        if fault.endless:
            await _start(send, status, answer_headers)
            piece = content * (1 + (1 << 14) // len(content))
            while not await _gone(receive):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            return
        declared = {**answer_headers, "Content-Length": str(len(content))}
        await _start(send, status, declared)
        await send({"type": "http.response.body", "body": content[: len(content) // 2], "more_body": True})
        if fault.stall:
            with suppress(TimeoutError):
                await asyncio.wait_for(receive(), fault.stall)  # or until the client goes away
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _kind(self, method: str, path: str) -> str:
        if path.endswith("/.well-known/smart-configuration"):
            return "smart"
        if path.endswith("/metadata"):
            return "metadata"
        if path == "/token":
            return "token"
        if path.endswith("/$export"):
            return "kickoff"
        if path.startswith("/jobs/"):
            return "delete" if method == "DELETE" else "poll"
        if path.startswith(("/files/", "/moved/")):
            return "file"
        return "search"

    def _respond(self, seen: Seen, body: bytes) -> tuple[int, dict[str, str], bytes]:
        handler = getattr(self, f"_{seen.kind}")
        if seen.kind not in ("smart", "metadata", "token"):
            open_file = seen.kind == "file" and not self.requires_access_token
            if open_file and seen.authorized and self.refuse_token_on_files:
                return 401, {}, b"two kinds of authorization"
            if not (open_file or self.open) and not self._token_good(seen):
                return 401, {"Content-Type": "text/html"}, b"<html>who are you</html>"
        answer: tuple[int, dict[str, str], bytes] = handler(seen, body)
        return answer

    def _token_good(self, seen: Seen) -> bool:
        token = seen.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self._uses:
            return False
        self._uses[token] += 1
        return self.token_uses is None or self._uses[token] <= self.token_uses

    def revoke_tokens(self) -> None:
        """No token given so far is good any more."""
        self._uses.clear()

    def _smart(self, seen: Seen, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if not self.smart_document:
            return 404, {"Content-Type": "text/html"}, b"<html>no such page</html>"
        document: dict[str, Any] = {
            "token_endpoint": "/token" if self.relative_urls else f"{_root(self.base)}/token",
            "capabilities": self.capabilities,
            "grant_types_supported": ["client_credentials"],
        }
        if self.scopes_supported is not None:
            document["scopes_supported"] = self.scopes_supported
        if self.algorithms is not None:
            document["token_endpoint_auth_signing_alg_values_supported"] = self.algorithms
        return _json(document)

    def _metadata(self, seen: Seen, body: bytes) -> tuple[int, dict[str, str], bytes]:
        export = [{"name": "export", "definition": "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export"}]
        resources: list[dict[str, Any]] = [{"type": "Observation"}]
        for level, name in (("patient", "Patient"), ("group", "Group")):
            resources.append({"type": name, "operation": export if level in self.export_levels else []})
        rest: dict[str, Any] = {"mode": "server", "resource": resources}
        if "system" in self.export_levels:
            rest["operation"] = export
        if self.security_extension:
            uris = {
                "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
                "extension": [{"url": "token", "valueUri": f"{_root(self.base)}/token"}],
            }
            rest["security"] = {"extension": [uris]}
        return _json({"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "rest": [rest]})

    def _token(self, seen: Seen, body: bytes) -> tuple[int, dict[str, str], bytes]:
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        now = time.time() + self.clock_ahead
        date = {"Date": formatdate(now, usegmt=True)} if self.clock_ahead else {}
        refused = self._secret_wrong(seen) if self.client_secret is not None else self._assertion_wrong(form, now)
        if refused is not None:
            status, _, content = _json({"error": "invalid_client", **refused}, 401)
            return status, {"Content-Type": "application/json", **date}, content
        if self.known_scopes is not None and not set(form.get("scope", "").split()) <= self.known_scopes:
            return _json({"error": "invalid_scope"}, 400)
        token = f"secret-token-{next(self._tokens)}"
        self._uses[token] = 0
        answer = {"access_token": token, "token_type": self.token_type, "expires_in": self.expires_in}
        if self.granted_scope is not None:
            answer["scope"] = form.get("scope", "") if self.granted_scope == "same" else self.granted_scope
        return 200, {"Content-Type": "application/json", **date}, json.dumps(answer).encode()

    def _secret_wrong(self, seen: Seen) -> dict[str, str] | None:
        expected = base64.b64encode(f"us:{self.client_secret}".encode()).decode()
        return None if seen.headers.get("authorization") == f"Basic {expected}" else {}

    def _assertion_wrong(self, form: dict[str, str], now: float) -> dict[str, str] | None:
        """Why an assertion is refused, in words that only some servers say; None when it is good."""
        try:
            token = jwt.decode(
                form["client_assertion"],
                KeySet.import_key_set(self.jwks),
                algorithms=self.algorithms or ["ES384", "RS384"],
            )
            claims = token.claims
        except Exception:  # noqa: BLE001 - whatever is wrong with the assertion is invalid_client
            return {}
        if claims["aud"] != (self.audience or f"{_root(self.base)}/token"):
            return {}
        if not now < claims["exp"] <= now + self.longest_assertion:
            return {}
        if self.jku is not None and token.header.get("jku") != self.jku:
            return {}
        if claims["jti"] in self.jtis:
            return {"error_description": "jti was used"}
        self.jtis.append(claims["jti"])
        return None

    def _kickoff(self, seen: Seen, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if seen.method not in self.kickoff_methods:
            return 405, {}, b""
        asked = _asked(seen)
        self.asked.append(asked)
        for kind in asked.get("_type", []):
            if kind in self.refused_types:
                return _outcome("not-supported", self.refused_types[kind])
        if self.future_since and "_since" in asked:
            return _outcome("value", 400)
        self.kickoffs += 1
        self._polls = 0
        location = f"/jobs/{self.kickoffs}" if self.relative_urls else f"{_root(self.base)}/jobs/{self.kickoffs}"
        return 202, {"Content-Location": location}, b""

    def _poll(self, seen: Seen, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if seen.path in self.deleted_jobs:
            return _outcome("not-found", 404)
        self._polls += 1
        if self.poll_budget is not None and self._polls > self.poll_budget:
            self.poll_budget = None
            return 429, {"Retry-After": str(int((time.time() + 300) * 1000))}, b""
        if self._polls <= self.polls_before_done:
            early = json.dumps(self._manifest(1)).encode() if self.early_manifest else b""
            return 202, {"X-Progress": "working on it", "Retry-After": "0"}, early
        status, headers, content = _json(self._manifest(int(seen.query.get("page", ["1"])[0])))
        return status, {**headers, **self.manifest_headers}, content

    def _manifest(self, page: int) -> dict[str, Any]:
        self.manifests += 1
        self._signature += 1
        wanted = (self.asked[-1] if self.asked else {}).get("_type")
        names = [name for name in self.files if wanted is None or name.split("-")[0] in wanted]
        size = -(-len(names) // self.manifest_pages)
        mine = names[(page - 1) * size : page * size]
        moment = f"2025-06-0{self.manifests}T00:00:00.000Z" if self.moving_transaction_time else self.transaction_time
        manifest: dict[str, Any] = {
            "transactionTime": moment,
            "request": f"{self.base}/$export",
            "requiresAccessToken": self.requires_access_token,
            "output": [self._item(name, self.files[name]) for name in mine],
            **self.manifest_extra,
        }
        if self.organized_by:
            manifest["outputOrganizedBy"] = self.organized_by
        if self.errors_name:
            manifest[self.errors_name] = [
                {"type": "OperationOutcome", "url": self._url(name)} for name in self.error_files
            ]
        if self.deleted_files:
            manifest["deleted"] = [{"type": "Bundle", "url": self._url(name)} for name in self.deleted_files]
        if page < self.manifest_pages:
            manifest["link"] = [{"relation": "next", "url": f"{_root(self.base)}/jobs/{self.kickoffs}?page={page + 1}"}]
        return manifest

    def _item(self, name: str, resources: list[dict[str, Any]]) -> dict[str, Any]:
        item: dict[str, Any] = {
            "type": name.split("-")[0],
            "url": self._url(name),
            "unknown": {"x": 1},
            **self.item_extra,
        }
        count = len(resources) + self.count_error
        if self.counts == "number":
            item["count"] = count
        elif self.counts == "string":
            item["count"] = str(count)
        return item

    def _url(self, name: str) -> str:
        path = f"/files/{name}" + (f"?sig={self._signature}" if self.presigned else "")
        if self.relative_urls:
            return path
        return (self.file_host or _root(self.base)) + path

    def _file(self, seen: Seen, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.file_redirect and seen.path.startswith("/files/"):
            return 307, {"Location": f"{self.file_redirect}{seen.path.replace('/files/', '/moved/')}"}, b""
        name = seen.path.rsplit("/", 1)[-1]
        if self.presigned and int(seen.query.get("sig", ["0"])[0]) <= self.expired_links:
            return 410, {}, b"expired"
        resources = {**self.files, **self.error_files, **self.deleted_files}.get(name)
        if resources is None or f"/jobs/{self.kickoffs}" in self.deleted_jobs:
            return 404, {}, b"gone"
        content = "\n".join(json.dumps(resource) for resource in resources).encode()
        if self.trailing_newline:
            content += b"\n"
        headers = {"Content-Type": self.ndjson_type}
        if self.gzip and "gzip" in seen.headers.get("accept-encoding", ""):
            return 200, {**headers, "Content-Encoding": "gzip"}, gzip.compress(content)
        return 200, headers, content

    def _delete(self, seen: Seen, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self.deleted_jobs.add(seen.path)
        return 202, {}, b""

    def _search(self, seen: Seen, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Searches page through all resources of a type by offset."""
        kind = seen.path.rsplit("/", 1)[-1]
        everything = [one for resources in self.files.values() for one in resources if one["resourceType"] == kind]
        if seen.path.split("/")[-2] == "Group":
            if self.group_status != 200:
                return _outcome("not-found", self.group_status)
            ids = self.group_members or [one["id"] for one in self.files["Patient-1"]]
            members = [{"entity": {"reference": f"Patient/{one}"}} for one in ids]
            return _json({"resourceType": "Group", "id": kind, "member": members})
        by_type = {one["id"]: one for one in self.directory if one["resourceType"] == seen.path.split("/")[-2]}
        if by_type:
            found = by_type.get(kind)
            return _json(found) if found else _outcome("not-found", 404)
        if kind in {one["resourceType"] for one in self.directory}:
            ids = seen.query.get("_id", [""])[0].split(",")
            if self.read_only_by_id:
                return _outcome("not-supported", 400)
            hits = [one for one in self.directory if one["resourceType"] == kind and one["id"] in ids]
            return _json({"resourceType": "Bundle", "entry": [{"resource": one} for one in hits]})
        wanted = seen.query.get("patient") or seen.query.get("_id")
        if wanted:
            everything = [one for one in everything if one["id"] in wanted or _subject(one) in wanted]
        since = seen.query.get("_lastUpdated", [""])[0]
        if self.key_paging and since.startswith("ge"):
            everything = [one for one in everything if one["meta"]["lastUpdated"] >= since[2:]]
        if since.startswith("gt") and self.dates != "ignored":
            known = [one for one in everything if one.get("meta", {}).get("lastUpdated", "") > since[2:]]
            everything = known if self.dates == "known" else []
        offset, count = int(seen.query.get("offset", ["0"])[0]), int(seen.query.get("_count", ["2"])[0])
        count = min(count, self.page_cap)
        bundle: dict[str, Any] = {
            "resourceType": "Bundle",
            "type": "searchset",
            "total": len(everything),
            "entry": [{"resource": one, "search": {"mode": "match"}} for one in everything[offset : offset + count]],
        }
        bundle["entry"] += self.extra_entries
        if offset + count < len(everything) and not self.hide_next:
            changed = f"&_lastUpdated={since}" if since else ""
            next_page = f"{kind}?_count={count}&offset={offset + count}{changed}"
            bundle["link"] = [{"relation": "next", "url": f"{self.base}/{next_page}"}]
        status, headers, content = _json(bundle)
        return status, {**headers, **({"Date": self.now} if self.now else {})}, content


def _asked(seen: Seen) -> dict[str, list[str]]:
    """Parameters of a kick-off by GET or POST, comma lists split; patients as references."""
    if seen.method == "GET":
        return {name: values[0].split(",") if name == "_type" else values for name, values in seen.query.items()}
    asked: dict[str, list[str]] = defaultdict(list)
    for one in json.loads(seen.body)["parameter"]:
        value = one.get("valueReference", {}).get("reference") or one.get("valueString") or one.get("valueInstant")
        asked[one["name"]].append(value)
    return asked


def _outcome(code: str, status: int) -> tuple[int, dict[str, str], bytes]:
    issue = {"severity": "error", "code": code}
    return _json({"resourceType": "OperationOutcome", "issue": [issue]}, status)


def _subject(resource: dict[str, Any]) -> str:
    reference: str = resource.get("subject", {}).get("reference", "")
    return reference.removeprefix("Patient/")


def _json(document: Any, status: int = 200) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(document).encode()


def _root(base: str) -> str:
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc}"


async def _gone(receive: Any) -> bool:
    """Whether the client went away; lets the loop run meanwhile."""
    try:
        message = await asyncio.wait_for(receive(), 0.001)
    except TimeoutError:
        return False
    return bool(message["type"] == "http.disconnect")


async def _start(send: Any, status: int, headers: dict[str, str]) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _answer(send: Any, status: int, headers: dict[str, str], body: bytes) -> None:
    await _start(send, status, {"Content-Length": str(len(body)), **headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def running(app: Any, certificate: tuple[str, str] | None = None) -> Iterator[str]:
    """Serve an ASGI app on a free loopback port, by TLS with a ``certificate`` (and key) file; gives its root URL."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_level="critical",
        ws="none",
        lifespan="off",
        date_header=False,
        timeout_keep_alive=3600,  # who closes a connection that waits is the client, however slow both are
        ssl_certfile=certificate[0] if certificate else None,
        ssl_keyfile=certificate[1] if certificate else None,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + HANG
    while not server.started:
        if time.monotonic() > deadline:
            raise TimeoutError("the test server did not start")
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)
