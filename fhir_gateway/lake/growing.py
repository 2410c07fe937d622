"""The arrays behind a grammar, which grow while walks go on in other threads.

Entries point from one array into another, so a walk must not meet one that is newer than any of its arrays: it would
read beyond their ends. While tables are lent to a walk nothing is entered into them; what is learned goes into
copies of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np

from fhir_gateway.lake.kernel import tables
from fhir_gateway.lake.kernel.tables import Tables


class GrowingTables:
    """Tables of the walk; whoever changes them holds ``lock``."""

    def __init__(self, lock: Lock) -> None:
        self.now = Tables(
            words=np.zeros(4096, np.uint8),
            hashed=np.full((1024, 4), -1, np.int32),
            keys=np.zeros((256, tables.KEY_FIELDS), np.int64),
            nodes=np.zeros((64, 4), np.int32),
            groups=np.zeros(64, np.int64),
        )
        self.words = 0  # bytes of words so far
        self._entered: set[tuple[int, bytes]] = set()
        self._lent = 0  # to how many walks, those of now
        self._lock = lock

    @contextmanager
    def lent(self) -> Iterator[Tables]:
        """The tables as they are now, for one walk; without the lock.

        Walks write in them which key followed last: any of several is as good.
        """
        with self._lock:
            lent = self.now
            self._lent += 1
        try:
            yield lent
        finally:
            with self._lock:
                if lent is self.now:
                    self._lent -= 1

    def own(self) -> Tables:
        """The tables, to be written to: those that are lent are left to the walks."""
        if self._lent:
            self.now = Tables(*(array.copy() for array in self.now))
            self.now.nodes[:, tables.FIRST] = -1  # walks write here at any time, also while this was copied
            self.now.keys[:, tables.NEXT] = -1
            self._lent = 0
        return self.now

    def reserve(self, name: str, size: int) -> None:
        """Have room for so many entries in the array of a name."""
        old = getattr(self.own(), name)
        if size > len(old):
            new = np.zeros((2 * size, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            self.now = self.now._replace(**{name: new})

    def enter(self, space: int, text: bytes, value: int) -> None:
        """Put a word into the hash; its text goes to the end of all words."""
        if (space, text) in self._entered:  # a walk asked by older tables
            return
        self._entered.add((space, text))
        self.reserve("words", self.words + len(text) + 8)
        if 2 * len(self._entered) > len(self.now.hashed):
            self._rehash()
        t = self.own()
        t.words[self.words : self.words + len(text)] = np.frombuffer(text, np.uint8)
        _put(t, space, self.words, len(text), value)
        self.words += len(text)

    def _rehash(self) -> None:
        old = self.own().hashed
        self.now = self.now._replace(hashed=np.full((2 * len(old), old.shape[1]), -1, np.int32))
        for space, start, length, value in old[old[:, tables.SPACE] != -1].tolist():
            _put(self.now, space, start, length, value)


def _put(t: Tables, space: int, start: int, length: int, value: int) -> None:
    mask = len(t.hashed) - 1
    at = tables.word_hash(t.words, start, start + length, space) & mask
    while t.hashed[at, tables.SPACE] != -1:
        at = (at + 1) & mask
    t.hashed[at] = (space, start, length, value)
