"""The real server in a process of its own, which tests kill."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def serving(folder: Path, port: int, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """``fhir-gateway serve`` over a data folder; its output goes to ``serve.log`` beside that."""
    stated = {"DATA_DIR": str(folder), "PUBLIC_URL": f"http://127.0.0.1:{port}", **settings}
    environment = {**os.environ, **{f"FHIR_GATEWAY_{name}": value for name, value in stated.items()}}
    command = [sys.executable, "-m", "fhir_gateway.cli", "serve", "--port", str(port)]
    with (folder.parent / "serve.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    httpx.get(f"http://127.0.0.1:{port}/health")
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline
                    assert process.poll() is None
                    time.sleep(0.1)
            yield process
        finally:
            process.kill()
            process.wait()
