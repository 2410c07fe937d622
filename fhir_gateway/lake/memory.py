"""Memory that was used for one step of a commit is given back to the system before the next."""

from __future__ import annotations

import ctypes

import pyarrow as pa

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only the C library of GNU has it


def give_back() -> None:
    """Give back what is free: each thread's allocator would keep it, and no other thread could use it."""
    pa.default_memory_pool().release_unused()
    if _trim is not None:
        _trim(0)
