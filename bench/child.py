"""Steps of a benchmark in processes of their own, and how much memory they and their children take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from bench.measures import ONE_CORE


def run(module: str, *arguments: str, one_core: bool = True) -> dict[str, Any]:
    """Run a step, and return the JSON of its last line with ``tree_mb``: the peak of resident memory, all summed.

    Memory is looked at five times a second; pages that processes share count in each (Linux only, else 0).
    """
    environment = {**os.environ, **(ONE_CORE if one_core else {})}
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        peak = [0]
        ended = threading.Event()
        watch = threading.Thread(target=_watch, args=(process.pid, peak, ended))
        watch.start()
        output, _ = process.communicate()
        ended.set()
        watch.join()
    if process.returncode:
        raise SystemExit(f"{module} {arguments[0]} ended with {process.returncode}")
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return {**result, "tree_mb": peak[0] >> 10}


def _watch(pid: int, peak: list[int], ended: threading.Event) -> None:
    while not ended.wait(0.2):
        peak[0] = max(peak[0], sum(map(_resident, _tree(pid))))


def _tree(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(other for child in below for other in _tree(int(child)))]
    except OSError:  # ended meanwhile, or no Linux
        return []


def _resident(pid: int) -> int:
    """Kilobytes."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
