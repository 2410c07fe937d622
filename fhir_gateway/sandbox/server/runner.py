"""Run a sandbox inside a thread of this process (demo, tests) on the loopback interface."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn

from fhir_gateway.errors import ConfigurationError, GatewayError
from fhir_gateway.sandbox.server.app import create_app

_START_SECONDS = 120.0
_STOP_SECONDS = 60.0


class SandboxServer:
    """A sandbox that listens while the ``with`` block lasts (or from ``start`` to ``stop``).

    ``port`` 0 takes a free one. ``options`` go to :func:`fhir_gateway.sandbox.server.create_app`. The folder is
    indexed in the constructor, so that a bad one fails there.
    """

    def __init__(
        self, folder: Path, *, clients: Mapping[str, Mapping[str, Any] | str], port: int = 0, **options: Any
    ) -> None:
        self._socket = _listen(port)
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        try:
            self.app = create_app(folder, base_url=self.base_url, clients=clients, **options)
        except GatewayError:
            self._socket.close()
            raise
        config = uvicorn.Config(
            self.app, lifespan="on", ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=5
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.run, name="sandbox", daemon=True)

    @property
    def fhir_url(self) -> str:
        """Base of the FHIR endpoint, as one would register it."""
        return f"{self.base_url}/fhir"

    @property
    def token_url(self) -> str:
        """The token endpoint."""
        return f"{self.base_url}/auth/token"

    def run(self) -> None:
        """Serve in the calling thread until stopped or interrupted."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def start(self) -> Self:
        """Serve in a thread of its own; returns when requests are answered."""
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.stop()
                raise GatewayError("the sandbox did not start; its log says why")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """Finish what is being answered, then end the thread, the jobs and the scratch files."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)
            if self._thread.is_alive():
                raise GatewayError(f"the sandbox did not stop within {_STOP_SECONDS:.0f} s")
        self._socket.close()
        self.app.state.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"port {port} of 127.0.0.1 cannot be used: {error.strerror}") from error
    return listener
