"""Short work beside the event loop: a look-up by key takes less than what Starlette's thread pool does around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

Found = TypeVar("Found")
#: Few: they take turns anyway, and each may hold a connection to the database.
_THREADS = ThreadPoolExecutor(8, thread_name_prefix="beside")


async def beside(work: Callable[[], Found]) -> Found:
    """What ``work`` returns or raises, done in a thread with the caller's context (the request id of log lines)."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, copy_context().run, work)
