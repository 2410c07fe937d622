"""HTTP to one endpoint: the token goes to its own origins only, transient failures are asked again, nothing leaks.

Every response and error is named by its URL without query, since queries carry signatures and patient ids.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urljoin

import httpx
import orjson

from fhir_gateway.errors import SourceAuthError, SourceError
from fhir_gateway.sources.endpoint import Endpoint, origin, without_query
from fhir_gateway.sources.limit import AdaptiveLimit
from fhir_gateway.sources.outcome import PullProgress, outcome_codes
from fhir_gateway.sources.retry import TRANSIENT_STATUS, Clock, backoff, retry_after
from fhir_gateway.sources.token import TokenSource
from fhir_gateway.sources.vendors import VendorProfile
from fhir_gateway.telemetry.spans import say, span

log = logging.getLogger(__name__)

FHIR_JSON = "application/fhir+json"
_REDIRECTS = 5
_REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})


_CODED = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Headers that are about the body as it was on the wire."""


def new_client(profile: VendorProfile) -> httpx.AsyncClient:
    """An HTTP client for one endpoint. Redirects are ours to follow; httpx's own log would show whole URLs."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    limits = httpx.Limits(max_connections=profile.max_concurrency + 2)
    timeout = httpx.Timeout(profile.read_timeout, connect=min(30.0, profile.read_timeout), pool=None)
    return httpx.AsyncClient(limits=limits, timeout=timeout, follow_redirects=False)


class SourceSession:
    """Requests to one endpoint."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        endpoint: Endpoint,
        profile: VendorProfile,
        tokens: TokenSource | None = None,
        clock: Clock | None = None,
        progress: Callable[[PullProgress], None] | None = None,
    ) -> None:
        """`tokens` is None for an endpoint without authorization."""
        self.client = client
        self.endpoint = endpoint
        self.profile = profile
        self.tokens = tokens
        self.clock = clock or Clock()
        self._progress = progress
        self._limits: dict[str, AdaptiveLimit] = {}

    def report(self, phase: str, message: str, done: int = 0, total: int | None = None) -> None:
        """Tell whoever watches how far we are."""
        if self._progress is not None:
            self._progress(PullProgress(phase, message, done, total))

    def limit(self, url: str) -> AdaptiveLimit:
        """How many requests at once the host of that URL bears; files often lie on another host than the API."""
        return self._limits.setdefault(origin(url), AdaptiveLimit(self.profile.max_concurrency))

    def may_see_token(self, url: str) -> bool:
        """Whether our access token may be sent there."""
        return self.tokens is not None and origin(url) in self.endpoint.token_origins

    def wait_for(self, response: httpx.Response | None, attempt: int) -> float:
        """Seconds before the next attempt: what the server asks for within our cap, else backoff."""
        header = response.headers.get("Retry-After") if response is not None else None
        wait = retry_after(header, self.clock.now(), self.profile.max_wait)
        return backoff(attempt, self.profile.max_wait) if wait is None else wait

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        authorized: bool = True,
    ) -> AsyncIterator[httpx.Response]:
        """One attempt at a request, its body unread; redirects are followed, a 401 renews the token once."""
        content = None if json is None else orjson.dumps(json)
        response = await self._send(method, url, headers or {}, authorized, content)
        try:
            yield response
        finally:
            await response.aclose()

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        authorized: bool = True,
        attempts: int | None = None,
        statuses: frozenset[int] = TRANSIENT_STATUS,
    ) -> httpx.Response:
        """A request with its body read, asked again after ``statuses`` and transport failures.

        The last response is returned whatever its status; a failure of transport raises `SourceError`.
        """
        limit = attempts or self.profile.max_attempts
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self.stream(method, url, headers=headers, json=json, authorized=authorized) as response:
                    response = await self._read(response)
            except (httpx.TransportError, httpx.DecodingError) as error:
                if attempt >= limit:
                    raise SourceError(f"{without_query(url)}: {failure(error)} after {attempt} attempts") from None
                await self.clock.sleep(self.wait_for(None, attempt))
                continue
            if response.status_code not in statuses or attempt >= limit:
                return response
            wait = self.wait_for(response, attempt)
            log.info("%s %s: %d, again in %.0f s", method, without_query(url), response.status_code, wait)
            if wait >= 5:
                self.report("wait", f"{without_query(url)} answered {response.status_code}; again in {wait:.0f} s")
            await self.clock.sleep(wait)

    async def _read(self, response: httpx.Response) -> httpx.Response:
        """Read a body that is kept in memory; one that does not end is cut off by size and by time."""
        deadline = self.clock.monotonic() + self.profile.file_deadline
        size = 0
        parts = []
        async for part in response.aiter_bytes():
            size += len(part)
            parts.append(part)
            where = without_query(str(response.request.url))
            if size > self.profile.max_body:
                raise SourceError(f"{where}: the answer is larger than {self.profile.max_body >> 20} MiB")
            if self.clock.monotonic() > deadline:
                raise SourceError(f"{where}: the answer did not end within {self.profile.file_deadline:.0f} s")
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in _CODED]
        return httpx.Response(response.status_code, headers=headers, content=b"".join(parts), request=response.request)

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], authorized: bool, content: bytes | None
    ) -> httpx.Response:
        renewed = False
        redirects = 0
        while True:
            sent = dict(headers)
            token = None
            if authorized and self.tokens is not None and self.may_see_token(url):
                token = await self.tokens.token()
                sent["Authorization"] = f"Bearer {token}"
            request = self.client.build_request(method, url, headers=sent, content=content)
            with span(f"source {method}", method=method, server=request.url.host):
                response = await self.client.send(request, stream=True)
                say(status=response.status_code)
            log.debug("%s %s: %d", method, without_query(url), response.status_code)
            if response.status_code in _REDIRECT_STATUS and "Location" in response.headers:
                await response.aclose()
                redirects += 1
                if redirects > _REDIRECTS:
                    raise SourceError(f"{without_query(url)}: more than {_REDIRECTS} redirects")
                url = urljoin(url, response.headers["Location"])
            elif response.status_code == 401 and token is not None and self.tokens is not None and not renewed:
                await response.aclose()
                renewed = True
                self.tokens.discard(token)
            else:
                return response


def failure(error: Exception) -> str:
    """A transport failure in words; httpx's own text may hold a URL."""
    if isinstance(error, httpx.ReadTimeout):
        return "the response stalled"
    if isinstance(error, httpx.RemoteProtocolError):
        return "the response broke off"
    if isinstance(error, httpx.DecodingError):
        return "the response cannot be decompressed"
    return f"no connection ({type(error).__name__})"


def refusal(response: httpx.Response, what: str) -> SourceError:
    """The error for a response that refuses ``what``: names status, URL and the OperationOutcome's issue codes."""
    where = without_query(str(response.request.url))
    codes = outcome_codes(response)
    said = f" ({', '.join(codes)})" if codes else ""
    text = f"{where}: {what} was answered with {response.status_code}{said}"
    if response.status_code == 401:
        sent = "Authorization" in response.request.headers
        note = "our token was refused twice" if sent else "no token was sent, since this is not the endpoint's origin"
        return SourceAuthError(f"{text}; {note}")
    if response.status_code == 403:
        return SourceAuthError(f"{text}; the scopes granted to us may not cover it")
    return SourceError(text)
