"""The very moment at which a process is killed, whatever the speed of the machine: it stops there by itself.

Python tells of each file that is opened, renamed or removed, each folder that is made and each database that is
connected to. At each of these steps a process that is to be killed looks whether its moment has come; nothing is there
between two steps that a kill from outside could find.

``python -m tests.support.moments FOLDER PATTERN WORK serve --port 8000`` is the command line, in which the threads that
do the work (of a module whose path has ``WORK`` in it) stand still once ``PATTERN`` is in the data folder.
"""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = frozenset(
    {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "sqlite3.connect"}
)
HELD = "held"
"""The file beside a data folder that says that the moment has come."""


@dataclass(frozen=True)
class Moment:
    """When a file of that pattern is in the data folder, or a step of that name has been taken by a job."""

    pattern: str = ""
    step: str = ""

    def has_come(self, folder: Path) -> bool:
        """Whether it is so now."""
        return any(folder.glob(self.pattern)) if self.pattern else self._stepped(folder / "jobs.db")

    def _stepped(self, path: Path) -> bool:
        if not path.exists():
            return False
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0) as connection:
                asked = "SELECT 1 FROM operation_outputs WHERE function_name = ?"
                return connection.execute(asked, (self.step,)).fetchone() is not None
        except sqlite3.OperationalError:  # locked, or not made yet
            return False


def stop_at(moment: Moment, folder: Path, stop: Callable[[], None]) -> None:
    """Have each thread of this process call ``stop`` at every step it takes from that moment on."""
    looking = threading.local()

    def step(event: str, _: tuple[Any, ...]) -> None:
        if event not in STEPS or getattr(looking, "now", False):
            return
        looking.now = True
        try:
            if moment.has_come(folder):
                stop()
        finally:
            looking.now = False

    sys.addaudithook(step)


def stop_at_step(number: int, folder: Path, stop: Callable[[], None]) -> None:
    """Have this process call ``stop`` at the step of that number (the first is 1) that it takes in ``folder``."""
    taken = itertools.count(1)
    below = str(folder)

    def step(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STEPS and below in str(arguments[0]) and next(taken) == number:
            stop()

    sys.addaudithook(step)


def die() -> None:
    """As by kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def stand_still(folder: Path, work: str) -> None:
    """Wait until this process is killed, or told to leave; threads that do something else go on."""
    frame = sys._getframe()
    while work not in frame.f_code.co_filename:
        if frame.f_back is None:
            return
        frame = frame.f_back
    (folder.parent / HELD).touch()
    from fhir_gateway.jobs import durable

    while durable._working is not None and not durable._working._leaving.is_set():
        time.sleep(0.02)


def main() -> None:
    """The command line, standing still at a moment."""
    from fhir_gateway.cli import main as command

    folder, pattern, work = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    stop_at(Moment(pattern), folder, lambda: stand_still(folder, work))
    sys.argv = ["fhir-gateway", *sys.argv[4:]]
    command()


if __name__ == "__main__":
    main()
