"""An S3 that is not ours (moto's server), and a way to it on which requests are disturbed.

``make test-third-party`` installs the server; without it the tests that need one are skipped and say so.
"""

from __future__ import annotations

import http.client
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
import pytest

from fhir_gateway.lake import places
from tests.support.serving import free_port
from tests.support.waiting import HANG

MOTO = Path(__file__).parents[2] / ".third-party" / "bin" / "moto_server"
needs_moto = pytest.mark.skipif(not MOTO.exists(), reason="moto is not installed: make test-third-party")

#: What happens to a request: refused, its answer lost, half of its answer, half of what it brings.
Fault = Literal["refused", "answer lost", "half answered", "half written"]
FAULTS: tuple[Fault, ...] = ("refused", "answer lost", "half answered", "half written")
#: moto takes any signature.
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20250101/us-east-1/s3/aws4_request"}


@contextmanager
def moto() -> Iterator[str]:
    """A running server; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [str(MOTO), "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + HANG
        while time.monotonic() < deadline:
            try:
                httpx.get(url, timeout=HANG)
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(HANG)


def make_bucket(url: str, name: str) -> None:
    """A new bucket."""
    assert httpx.put(f"{url}/{name}", headers=SIGNED, timeout=HANG).status_code == 200


def environment(url: str) -> dict[str, str]:
    """The variables that lead to a server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }


class DisturbedStorage:
    """The way to a storage: requests are counted, and ``disturb`` says of each what happens to it.

    ``disturb(number, method, path)`` is asked before a request is passed on (None: nothing happens), ``passed`` told
    after that.
    """

    def __init__(self, upstream: str) -> None:
        self.requests: list[tuple[str, str]] = []
        self.disturb: Callable[[int, str, str], Fault | None] = lambda number, method, path: None
        self.passed: Callable[[int, str, str], None] = lambda number, method, path: None
        self._host = urlsplit(upstream).netloc
        self._lock = threading.Lock()
        way = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and content in one go

            def handle_any(self) -> None:
                way._handle(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def begin(self) -> None:
        """Count anew, with nothing disturbed."""
        with self._lock:
            self.requests = []
        self.disturb = lambda number, method, path: None
        self.passed = lambda number, method, path: None

    def close(self) -> None:
        """No more requests."""
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, asked: BaseHTTPRequestHandler) -> None:
        body = asked.rfile.read(int(asked.headers.get("Content-Length") or 0))
        method, path = asked.command, asked.path
        with self._lock:
            number = len(self.requests)
            self.requests.append((method, path))
        fault = self.disturb(number, method, path)
        asked.close_connection = True
        if fault == "refused":
            asked.send_response(503)
            asked.send_header("Content-Length", "0")
            asked.send_header("Connection", "close")
            asked.end_headers()
            return
        connection = http.client.HTTPConnection(self._host, timeout=HANG)
        try:
            if fault == "half written" and body:
                self._half(connection, asked, body)
                return
            connection.request(method, path, body, dict(asked.headers))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        self.passed(number, method, path)
        if fault in ("answer lost", "half written"):
            return
        asked.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                asked.send_header(name, value)
        length = answer.getheader("Content-Length")
        asked.send_header("Connection", "close")
        asked.send_header("Content-Length", length if method == "HEAD" and length else str(len(content)))
        asked.end_headers()
        asked.wfile.write(content[: len(content) // 2] if fault == "half answered" else content)

    def _half(self, connection: http.client.HTTPConnection, asked: BaseHTTPRequestHandler, body: bytes) -> None:
        """Half of what a request brings arrives at the storage; then both sides hang up."""
        connection.putrequest(asked.command, asked.path, skip_host=True, skip_accept_encoding=True)
        for name, value in asked.headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(body[: len(body) // 2])


@contextmanager
def forgetful(patch: pytest.MonkeyPatch, url: str, retries: int | None = None) -> Iterator[None]:
    """The lake's way to the storage at ``url``; ``retries`` in the place of what is usual."""
    for name, value in environment(url).items():
        patch.setenv(name, value)
    if retries is not None:
        patch.setattr(places, "RETRIES", retries)
    places._store.cache_clear()
    try:
        yield
    finally:
        places._store.cache_clear()
