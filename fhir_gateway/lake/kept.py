"""Small tables that are read again and again, kept in memory: those of types that belong to no patient.

A measure of one subject would read all Medications and Organizations of the lake each time. What was read of a version
of a table never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock

import pyarrow as pa

#: Of one table, and of all together.
MOST_BYTES = 1 << 24
MOST_BYTES_IN_ALL = 1 << 27


class KeptTables:
    """The tables that were asked for last; larger ones are read each time."""

    def __init__(self) -> None:
        self._tables: dict[Hashable, pa.Table] = {}
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: Hashable, read: Callable[[], pa.Table]) -> pa.Table:
        """The table known by ``key``, read when it is not here."""
        with self._lock:
            table = self._tables.pop(key, None)
            if table is not None:
                self._tables[key] = table  # the last one now
                return table
        table = read()
        size = table.get_total_buffer_size()
        if size <= MOST_BYTES:
            with self._lock:
                if key not in self._tables:
                    self._tables[key] = table
                    self._bytes += size
                while self._bytes > MOST_BYTES_IN_ALL:
                    oldest = self._tables.pop(next(iter(self._tables)))
                    self._bytes -= oldest.get_total_buffer_size()
        return table
