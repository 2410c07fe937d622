"""How many requests at once to one host: grows while they succeed, halves when the host says it is too much.

Additive increase, multiplicative decrease (AIMD), as TCP does it. Signs of too much: 429 and 503, a response that
broke off or stalled, and answers that take many times as long as the fastest ones did.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

_SLOW = 8.0
"""Times the usual time to first byte after which the host counts as overwhelmed."""
_NOTICEABLE = 1.0
"""Seconds below which no answer counts as slow."""


class AdaptiveLimit:
    """A semaphore whose size adapts between 1 and ``maximum``."""

    def __init__(self, maximum: int, start: int = 4) -> None:
        """Begin with `start` at once."""
        self._maximum = maximum
        self._size = float(max(1, min(start, maximum)))
        self._busy = 0
        self._changed = asyncio.Condition()
        self._usual: float | None = None
        self._grace = 0

    @property
    def size(self) -> int:
        """Requests allowed at once now."""
        return int(self._size)

    async def __aenter__(self) -> None:
        """Wait for a free place."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._busy < self.size)
            self._busy += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the place."""
        async with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    def grow(self) -> None:
        """A request succeeded."""
        self._grace = max(0, self._grace - 1)
        self._size = min(float(self._maximum), self._size + 1 / self._size)

    def shrink(self) -> None:
        """The host was overwhelmed; requests that were under way together count once."""
        if self._grace:
            self._grace -= 1
            return
        self._grace = max(self._busy - 1, 0)
        self._size = max(1.0, self._size / 2)

    def answered(self, seconds: float) -> None:
        """The first byte of a good answer came after that time: far above the usual is a sign of too much."""
        if self._usual is not None and seconds > max(_NOTICEABLE, _SLOW * self._usual):
            self.shrink()
        else:
            self.grow()
        # the usual time follows slowly upwards and fast downwards, so that a host that got slower for good is believed
        weight = 0.5 if self._usual is None or seconds < self._usual else 0.05
        self._usual = seconds if self._usual is None else self._usual + weight * (seconds - self._usual)
