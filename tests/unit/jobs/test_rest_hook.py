"""Where notifications go: to the address that was looked at, if its certificate is that of the name."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.jobs.rest_hook import DeliveryError, RestHook
from tests.support.certificates import certificate

NAME = "receiver.example"


class Receiver(ThreadingHTTPServer):
    """Remembers the Host and the names that TLS was asked for."""

    hosts: list[str]
    names: list[str | None]

    def handle_error(self, *_: Any) -> None:
        """A client that does not like the certificate hangs up."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        self.server.hosts.append(self.headers["Host"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[Receiver, ssl.SSLContext]]:
    file = certificate(tmp_path, NAME)
    server = Receiver(("127.0.0.1", 0), Handler)
    server.hosts, server.names = [], []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.sni_callback = lambda _socket, name, _context: server.names.append(name)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server, ssl.create_default_context(cafile=str(file))
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_certificate_must_be_that_of_the_name(
    receiver: tuple[Receiver, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, trust = receiver
    port = server.server_port
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", port))])
    hook = RestHook(public_only=False, trust=trust)
    hook.send(f"https://{NAME}:{port}/hook", (), b"{}", 300)
    assert (server.hosts, server.names) == ([f"{NAME}:{port}"], [NAME])
    with pytest.raises(DeliveryError, match="could not be reached"):
        hook.send(f"https://other.example:{port}/hook", (), b"{}", 300)
    assert server.hosts == [f"{NAME}:{port}"]
    hook.close()
    strict = RestHook(public_only=True, trust=trust)
    with pytest.raises(DeliveryError, match="private network"):
        strict.send(f"https://{NAME}:{port}/hook", (), b"{}", 300)
    strict.close()


def test_a_certificate_that_nobody_vouches_for_is_refused(
    receiver: tuple[Receiver, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = receiver
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", server.server_port))])
    hook = RestHook(public_only=False)
    with pytest.raises(DeliveryError, match="could not be reached"):
        hook.send(f"https://{NAME}:{server.server_port}/hook", (), b"{}", 300)
    assert server.hosts == []
    hook.close()
