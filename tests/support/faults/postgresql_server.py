"""A PostgreSQL server of a test's own, which it stops, starts and kills; nobody else's is touched."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pytest

from tests.support.serving import free_port

Mode = Literal["fast", "immediate"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass
class PostgreSQL:
    """A server in a folder. ``url`` leads to its database."""

    programs: Path
    folder: Path
    port: int

    @property
    def url(self) -> str:
        """Of a database that belongs to us."""
        return f"postgresql+psycopg://gateway@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.folder}"
        self._control("start", "--wait", "--log", str(self.folder / "log"), "--options", options)

    def stop(self, mode: Mode = "immediate") -> None:
        """Stop: ``immediate`` as by kill -9, ``fast`` with a word to those connected."""
        self._control("stop", "--wait", "--mode", mode)

    def restart(self, mode: Mode = "immediate") -> None:
        """Stop and start."""
        self.stop(mode)
        self.start()

    def _control(self, verb: str, *arguments: str) -> None:
        command = [str(self.programs / "pg_ctl"), verb, "--pgdata", str(self.folder / "data"), "--silent", *arguments]
        subprocess.run([*_as(), *command], check=True, stdin=subprocess.DEVNULL, cwd="/", timeout=300)


def _as() -> list[str]:
    """The server refuses to run as root."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []


def programs() -> Path | None:
    """Where the server's programs are, if they are installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda one: int(one.parts[-3]))
    there = shutil.which("initdb")
    return found[-1].parent if found else Path(there).parent if there else None


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A server that runs; skips visibly where its programs are missing."""
    where = programs()
    if where is None:
        pytest.skip("needs the programs of a PostgreSQL server (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))  # not below a test's own, which only its owner may enter
    if os.getuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    server = PostgreSQL(where, folder, free_port())
    options = ["--auth", "trust", "--username", "gateway", "--encoding", "UTF8", "--no-sync"]
    made = [*_as(), str(where / "initdb"), "--pgdata", str(folder / "data"), *options]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=300)
    server.start()
    try:
        yield server
    finally:
        with suppress(subprocess.CalledProcessError):  # it may be down already
            server.stop()
        shutil.rmtree(folder)
