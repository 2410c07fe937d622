"""Run the application on a socket: until interrupted (``serve``), or in a thread while a ``with`` block lasts.

Uvicorn's access log stays off: it would write query strings, and those name patients. The middleware logs instead.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import uvicorn
from fastapi import FastAPI

from fhir_gateway.config import Settings
from fhir_gateway.errors import ConfigurationError, GatewayError
from fhir_gateway.factory import Gateway
from fhir_gateway.garbage import spare_what_is_kept
from fhir_gateway.server.app import create_app
from fhir_gateway.server.patience import HttpProtocol

_START_SECONDS = 120.0
_STOP_SECONDS = 60.0


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; raises ConfigurationError when the address cannot be had. Port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    return listener


def tls(settings: Settings) -> ssl.SSLContext | None:
    """What the server shows of itself, for TLS 1.2 or newer; None without a certificate.

    ConfigurationError when it cannot be read, or is not that of the key.
    """
    if settings.tls_certificate is None:
        if settings.tls_key is not None:
            raise ConfigurationError("a key for TLS needs its certificate: set tls_certificate")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_no_password)
    except (OSError, ValueError) as error:  # what OpenSSL minds is an OSError too
        reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
        text = reason or "not a certificate in PEM form with its own key, without a password"
        raise ConfigurationError(f"the certificate for TLS cannot be used: {text}") from None
    return context


def _no_password() -> str:
    """What OpenSSL asks of an encrypted key, at the terminal unless it is told."""
    raise ValueError("the key is encrypted")


class _AloneServer(uvicorn.Server):
    """Of a process that was started to serve: what is there once it does, stays."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and spare the collector of garbage what was built and loaded for that."""
        await super().startup(sockets)
        spare_what_is_kept()


class GatewayServer:
    """The FHIR face on a socket. The address clients use is the setting ``public_url``, not this one.

    ``alone``: the process was started to serve.
    """

    def __init__(
        self,
        gateway: Gateway,
        host: str = "127.0.0.1",
        port: int = 8000,
        application: Callable[[Gateway], FastAPI] = create_app,
        *,
        alone: bool = False,
    ) -> None:
        context = tls(gateway.settings)
        self._socket = listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            application(gateway),
            http=HttpProtocol,
            lifespan="on",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
            ssl_context_factory=None if context is None else lambda *_: context,
        )
        self._server = _AloneServer(config) if alone else uvicorn.Server(config)
        self._thread = threading.Thread(target=self.run, name="fhir-face", daemon=True)

    def run(self) -> None:
        """Serve in the calling thread until interrupted."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self._stop()
                raise GatewayError("the server did not start; its log says why")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)
        self._socket.close()


def serve(
    gateway: Gateway,
    host: str = "127.0.0.1",
    port: int = 8000,
    listening: Callable[[int], None] | None = None,
    application: Callable[[Gateway], FastAPI] = create_app,
) -> None:
    """Serve until interrupted; ``listening`` is told the port once the address is ours."""
    server = GatewayServer(gateway, host, port, application, alone=True)
    if listening is not None:
        listening(server.port)
    server.run()
