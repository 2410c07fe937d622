"""The text of a commit's lines and what the walk said of it, on the disk: memory does not grow with the pull.

Blocks of lines are laid down as they are read; checked rows know where their text begins. Writing and reading a page
that the system holds anyway costs a quarter of asking it for fresh memory.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from threading import Lock
from types import TracebackType


class Texts:
    """A file of text that grows at its end and is read anywhere; threads may do both."""

    def __init__(self, folder: Path | None = None) -> None:
        """An empty file without a name, in ``folder``."""
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed with this
        self._size = 0
        self._lock = Lock()

    def add(self, text: bytes | memoryview) -> int:
        """Lay text, or other bytes, down; answers where they begin."""
        with self._lock:
            at = self._size
            rest = memoryview(text)
            self._size += len(rest)
            while rest:
                rest = rest[self._file.write(rest) :]
        return at

    @property
    def number(self) -> int:
        """The open file's number, to be read from."""
        return self._file.fileno()

    def close(self) -> None:
        """Give the disk's space back."""
        self._file.close()

    def __enter__(self) -> Texts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
