"""Who may scrape metrics, and the port at which a process without a server (a worker) answers Prometheus and probes."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import threading
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from prometheus_client.exposition import choose_encoder

from fhir_gateway.errors import AuthenticationError, ConfigurationError
from fhir_gateway.telemetry import meters

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
_SILENCE_SECONDS = 20
_log = logging.getLogger("fhir_gateway.telemetry")


def admit(headers: Mapping[str, str], host: str, token: str | None) -> None:
    """Raise AuthenticationError unless the scraper has the token or, where none is set, is on this machine."""
    if token is not None:
        presented = (headers.get("authorization") or "").encode()
        if not hmac.compare_digest(presented, f"Bearer {token}".encode()):
            raise AuthenticationError("metrics need the token of the setting metrics_token")
        return
    if any(name in headers for name in _FORWARDED) or not _is_loopback(host):
        raise AuthenticationError("metrics are for this machine alone, unless the setting metrics_token is made")


def exposition(parts: Sequence[bytes]) -> bytes:
    """Several registries, each written out whole, as one text: OpenMetrics ends only once."""
    end = b"# EOF\n"
    whole = b"".join(part.removesuffix(end) for part in parts)
    return whole + end if any(part.endswith(end) for part in parts) else whole


class ScrapePort:
    """Answers ``/metrics`` and ``/health`` of this process while a ``with`` block lasts.

    On all addresses where scrapers have a token, else on this machine's own.
    """

    def __init__(self, port: int, token: str | None) -> None:
        class Handler(_Handler):
            secret = token

        host = "127.0.0.1" if token is None else "0.0.0.0"  # noqa: S104  # probes and scrapers come from other machines
        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigurationError(f"cannot listen on port {port} (metrics_port): {reason}") from None
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics-port", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Nobody is asked who they are for ``/health``; it says nothing that a stranger should not know."""

    secret: str | None = None
    timeout = _SILENCE_SECONDS
    server_version = "fhir-gateway"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one request."""
        if self.path == "/health":
            self._answer(HTTPStatus.OK, "application/json", b'{"status":"ok"}')
            return
        if self.path != "/metrics":
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"")
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            admit(headers, self.client_address[0], self.secret)
        except AuthenticationError:
            self._answer(HTTPStatus.UNAUTHORIZED, "text/plain", b"")
            return
        encode, content_type = choose_encoder(headers.get("accept", ""))
        self._answer(HTTPStatus.OK, content_type, encode(meters.REGISTRY))

    def log_message(self, format: str, *args: Any) -> None:
        """The address that was asked for may be anything: the log gets none of it."""
        _log.debug("metrics port: answered")

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
