"""``fhir-gateway`` without waiting for its imports: each call is a process of its own, forked from one that has them.

``python -m tests.support.warm SOCKET`` imports the command line with everything that its commands import when they run,
and forks for each call. A call brings its arguments, folder, environment and the three streams, and gets the exit code;
the child is as a new interpreter would be, but for modules that are loaded already. ``CALL`` is the program that calls.
"""

from __future__ import annotations

import array
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import HANG

#: What stands on the path as ``fhir-gateway``: no site packages, a few modules.
CALL = """#!{python} -IS
import array, json, os, socket, sys
calling = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
calling.connect({socket!r})
said = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
calling.sendmsg([len(said).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
calling.sendall(said)
code = calling.recv(1)
sys.exit(code[0] if code else 70)
"""


@contextmanager
def warmed(folder: Path) -> Iterator[Path]:
    """A folder for the beginning of a path, with ``fhir-gateway`` in it, while the process that forks lives."""
    bin_folder, address = folder / "bin", str(folder / "s")
    bin_folder.mkdir()
    command = bin_folder / "fhir-gateway"
    command.write_text(CALL.format(python=sys.executable, socket=address), "utf-8")
    command.chmod(0o755)
    root = Path(__file__).parents[2]
    forking = subprocess.Popen(
        [sys.executable, "-m", "tests.support.warm", address], cwd=root, stdout=subprocess.PIPE, env=_single()
    )
    try:
        assert forking.stdout
        assert forking.stdout.readline() == b"ready\n"
        yield bin_folder
    finally:
        forking.terminate()
        forking.communicate(timeout=HANG)


def _single() -> dict[str, str]:
    """Without threads of libraries: a process that has some cannot be forked."""
    calm = "background_thread:false"  # of the allocators of Arrow and of delta-rs
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": calm, "_RJEM_MALLOC_CONF": calm}


def main(address: str) -> None:
    """Import, listen, fork."""
    for name in ("OPENBLAS_NUM_THREADS", "JE_ARROW_MALLOC_CONF", "_RJEM_MALLOC_CONF"):
        assert name in os.environ, "started by warmed()"
    _import_all()
    alive = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else threading.active_count()
    assert alive == 1, f"{alive} threads: what was imported cannot be forked"
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(address)
        listening.listen(16)
        print("ready", flush=True)
        while True:
            called, _ = listening.accept()
            if os.fork() == 0:
                break
            called.close()
            _reap()
    _answer(called)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _answer(called: socket.socket) -> None:
    """Be the command that was called; between it and the caller stands one more process, which tells how it ended."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    head, control, _, _ = called.recvmsg(8, socket.CMSG_SPACE(3 * 4))
    streams = array.array("i")
    streams.frombytes(control[0][2])
    size, said = int.from_bytes(head, "big"), b""
    while len(said) < size:
        said += called.recv(size - len(said))
    command = os.fork()
    if command:
        code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        called.send(bytes([code if code >= 0 else 128 - code]))
        os._exit(0)
    called.close()
    _become(json.loads(said), list(streams))


def _become(said: tuple[list[str], str, dict[str, str]], streams: list[int]) -> None:
    """Run the command; it ends as an interpreter ends."""
    arguments, folder, environment = said
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout, sys.stderr = (open(n, "r" if n == 0 else "w", closefd=False) for n in range(3))  # noqa: SIM115
    sys.argv = ["fhir-gateway", *arguments]
    sys.modules["__main__"].__package__ = None  # usage is that of a program, not of a module
    from fhir_gateway.cli.app import run

    run()


def _import_all() -> None:
    import fhir_gateway

    for module in pkgutil.walk_packages(fhir_gateway.__path__, "fhir_gateway."):
        room = module.name.split(".")[1]
        if room in ("cli", "jobs", "reports") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)


if __name__ == "__main__":
    main(sys.argv[1])
