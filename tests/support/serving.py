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

from tests.support.waiting import HANG

_kept: list[socket.socket] = []


def free_port() -> int:
    """A port that nobody listens on, and that nobody else is given while this process lives."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # so that a server may bind it; asking for any does not
    found.bind(("127.0.0.1", 0))
    _kept.append(found)
    port: int = found.getsockname()[1]
    return port


@contextmanager
def serving(
    folder: Path, port: int, held_at: tuple[str, str] | None = None, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """``fhir-gateway serve`` over a data folder; its output goes to ``serve.log`` beside that.

    ``held_at`` is a pattern of files and a part of a module's path: where what that module does stands still.
    """
    stated = {"DATA_DIR": str(folder), "PUBLIC_URL": f"http://127.0.0.1:{port}", **settings}
    environment = {**os.environ, **{f"FHIR_GATEWAY_{name}": value for name, value in stated.items()}}
    module = ["tests.support.moments", str(folder), *held_at] if held_at else ["fhir_gateway.cli"]
    command = [sys.executable, "-m", *module, "serve", "--port", str(port)]
    with (folder.parent / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=Path(__file__).parents[2], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + HANG
            while True:
                try:
                    httpx.get(f"http://127.0.0.1:{port}/health", timeout=HANG)
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline
                    assert process.poll() is None
                    time.sleep(0.1)
            yield process
        finally:
            process.kill()
            process.wait()
