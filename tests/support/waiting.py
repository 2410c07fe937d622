"""Waiting without guessing how fast a machine is: for what others do, and for time that need not pass.

No test may fail because the machine is busy. So what another thread or process does is waited for until it is done
(:data:`HANG` only ends what hangs), and what happens after some seconds happens on a :class:`LeapingLoop`.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

HANG = 600.0
"""Seconds after which something hangs; nothing takes that long on any machine."""

T = TypeVar("T")


def until(due: Callable[[], object], pause: float = 0.02) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + HANG
    while not due():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(pause)


class _Leaps(selectors.DefaultSelector):
    """Instead of waiting for the next timer it says that its moment has come."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0 if timeout is not None else None)
        if not found and timeout is not None:
            self.now += max(timeout, 0.0)
        return found


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still while anything is to be done, and else leaps to the next timer.

    For what happens in this loop alone: threads and sockets have a time of their own.
    """

    def __init__(self) -> None:
        self._leaps = _Leaps()
        super().__init__(self._leaps)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._leaps.now


def leaping(story: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a time of its own."""
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        return runner.run(story)
