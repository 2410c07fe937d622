"""A disk that is full: a small one of memory, with ballast that leaves as much room as a test wants."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_BALLAST = "ballast"


@dataclass(frozen=True)
class Disk:
    """A file system of its own at ``folder``."""

    folder: Path

    def leave(self, free: int) -> None:
        """Fill it with ballast until so many bytes are free."""
        self.clear()
        room = shutil.disk_usage(self.folder).free - free
        with (self.folder / _BALLAST).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(room, 1))

    def clear(self) -> None:
        """Throw the ballast away."""
        (self.folder / _BALLAST).unlink(missing_ok=True)


@contextmanager
def disk(folder: Path, megabytes: int = 256) -> Iterator[Disk]:
    """A disk of memory; skips visibly where none can be mounted."""
    folder.mkdir(parents=True)
    options = f"size={megabytes}m,mode=0755"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs a disk of its own, which only root can mount: {mounted.stderr.strip()[:200]}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
