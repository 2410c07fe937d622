"""Fetch JWK Sets of clients and issuers from their registered URLs, with a cache that obeys ``Cache-Control``.

The URL of a client that registered itself is its own to choose, so it is fetched from public addresses only: the name
is resolved here, and the connection goes to the very address that was looked at (a second look-up could answer
otherwise). What an operator registered may be anywhere.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from fhir_gateway.auth.keys import candidates
from fhir_gateway.errors import InputError, SourceError

#: A set of public keys is some kilobytes; what is bigger is not one.
MAXIMUM_BYTES = 256 * 1024
#: Life of a set whose server says nothing (RFC 9111 leaves it to us; short, so that a rotation is seen).
DEFAULT_LIFETIME_SECONDS = 300
#: A longer ``max-age`` is cut: a compromised key must disappear within the hour.
MAXIMUM_LIFETIME_SECONDS = 3600
#: Between two fetches that nobody's ``Cache-Control`` asked for (unknown kid, server down), so that bad assertions
#: cannot be used to hammer the client's server.
RETRY_SECONDS = 10

_TIMEOUT = httpx.Timeout(5.0)
_DEADLINE_SECONDS = 10.0
_MAX_AGE = re.compile(r'max-age\s*=\s*"?(\d+)')


def check_jwks_url(url: str) -> None:
    """Refuse (InputError) a JWKS URL that is not https; plain http is allowed to this very machine only."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise InputError("a JWKS URL must be an absolute https URL") from error
    if parts.username or parts.password or parts.fragment:
        raise InputError("a JWKS URL carries neither credentials nor a fragment")
    if parts.scheme == "https" and host:
        return
    if parts.scheme == "http" and (host == "localhost" or _is_loopback(host)):
        return
    raise InputError("a JWKS URL must be an absolute https URL")


def is_public(url: str) -> bool:
    """True when the host of a URL is a name, or an address that anybody in the world may mean by it."""
    host = urlsplit(url).hostname or ""
    try:
        return _is_global(host)
    except ValueError:
        return "." in host.rstrip(".") and not host.rstrip(".").endswith((".localhost", ".local", ".internal"))


@dataclass(slots=True)
class _Entry:
    jwks: Mapping[str, Any] | None
    expires_at: float
    fetched_at: float


def _just_now(entry: _Entry, now: float) -> bool:
    """Whether it was fetched a moment ago; not in what is the future since the clock was set back."""
    return 0 <= now - entry.fetched_at < RETRY_SECONDS


class JwksCache:
    """JWK Sets by URL. Redirects are not followed: the registered URL is the only one that was agreed on."""

    def __init__(self, open_client: Callable[[str], httpx.Client] | None = None) -> None:
        self._open_client = open_client or _open_client
        self._entries: dict[tuple[str, bool], _Entry] = {}
        self._lock = threading.Lock()

    def get(self, url: str, *, public: bool = False) -> Mapping[str, Any]:
        """The set at ``url``, from the cache while it is fresh; SourceError when it cannot be had.

        ``public`` says that the URL is a stranger's, and is not followed to private addresses.
        """
        with self._lock:
            entry = self._entries.get((url, public))
        now = time.time()
        if entry is not None:
            if entry.jwks is not None and entry.fetched_at <= now < entry.expires_at:
                return entry.jwks
            if entry.jwks is None and _just_now(entry, now):
                raise SourceError("the JWK Set could not be fetched a moment ago")
        return self._fetch(url, public)

    def refresh(self, url: str, *, public: bool = False) -> Mapping[str, Any] | None:
        """Fetch again because a key id is unknown (rotation); None when that was just done."""
        with self._lock:
            entry = self._entries.get((url, public))
            if entry is not None and _just_now(entry, time.time()):
                return None
            if entry is not None:
                entry.fetched_at = time.time()  # of threads that come at once, one asks
        return self._fetch(url, public)

    def find(self, url: str, kid: str, algorithm: str, *, public: bool = False) -> list[Mapping[str, Any]]:
        """Keys of the set that fit; when there is none, perhaps the keys were rotated, and the set is fetched again."""
        found = candidates(self.get(url, public=public), kid, algorithm)
        fresh = None if found else self.refresh(url, public=public)
        return candidates(fresh, kid, algorithm) if fresh is not None else found

    def _fetch(self, url: str, public: bool) -> Mapping[str, Any]:
        jwks: Mapping[str, Any] | None = None
        lifetime = 0.0
        try:
            jwks, lifetime = self._request(url, public)
        except httpx.HTTPError as error:
            raise SourceError(f"the JWK Set could not be fetched ({type(error).__name__})") from error
        finally:
            now = time.time()
            with self._lock:
                before = self._entries.get((url, public))
                if jwks is None and before is not None and before.jwks is not None and now < before.expires_at:
                    before.fetched_at = now  # what is fresh stays good while its server is down
                else:
                    self._entries[url, public] = _Entry(jwks, now + lifetime, now)
        return jwks

    def _request(self, url: str, public: bool) -> tuple[Mapping[str, Any], float]:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        body = bytearray()
        with (
            self._open_client(url) as client,
            client.stream("GET", **_place(url, public), follow_redirects=False) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise SourceError(f"the JWKS URL answered {response.status_code}")
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAXIMUM_BYTES:
                    raise SourceError(f"the JWK Set is larger than {MAXIMUM_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise SourceError("the JWKS URL answers too slowly")
        try:
            jwks = json.loads(bytes(body))
        except (ValueError, RecursionError) as error:
            raise SourceError("the JWKS URL did not answer JSON") from error
        if not isinstance(jwks, dict) or not isinstance(jwks.get("keys"), list):
            raise SourceError('the JWKS URL did not answer an object with a list "keys"')
        return jwks, lifetime_seconds(response.headers.get("cache-control"))


def lifetime_seconds(cache_control: str | None) -> float:
    """How long a set may be kept by its ``Cache-Control``; 0 means fetch it again next time."""
    directives = (cache_control or "").lower()
    if "no-store" in directives or "no-cache" in directives:
        return 0.0
    match = _MAX_AGE.search(directives)
    return float(min(int(match[1]), MAXIMUM_LIFETIME_SECONDS)) if match else float(DEFAULT_LIFETIME_SECONDS)


def _place(url: str, public: bool) -> dict[str, Any]:
    """Arguments of the request: of a stranger's URL the address that was looked at, with the name beside it."""
    headers = {"Accept": "application/json"}
    host = urlsplit(url).hostname or ""
    if not public or ("https" in getproxies() and not proxy_bypass(host)):  # then the proxy decides whom it reaches
        return {"url": url, "headers": headers}
    parsed = httpx.URL(url)
    try:
        found = {str(one[4][0]) for one in socket.getaddrinfo(host, parsed.port or 443, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise SourceError("the host of the JWKS URL has no address") from error
    if not all(map(_is_global, found)):
        raise SourceError("the host of the JWKS URL has an address that is not public")
    headers["Host"] = parsed.netloc.decode("ascii")
    pinned = parsed.copy_with(host=sorted(found)[0])
    return {"url": pinned, "headers": headers, "extensions": {"sni_hostname": host}}


def _open_client(url: str) -> httpx.Client:
    # A proxy of the environment may carry https (it cannot answer in the client's name); http is this machine only.
    return httpx.Client(timeout=_TIMEOUT, trust_env=url.startswith("https:"))


def _is_global(host: str) -> bool:
    address = ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_global and not address.is_multicast


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
