"""How many requests at once: grows while they succeed, halves when the server says it is too much."""

from __future__ import annotations

import asyncio
from types import TracebackType


class AdaptiveLimit:
    """A semaphore whose size adapts (additive increase, multiplicative decrease), between 1 and ``maximum``."""

    def __init__(self, maximum: int, start: int = 4) -> None:
        """Begin with `start` at once."""
        self._maximum = maximum
        self._size = float(max(1, min(start, maximum)))
        self._busy = 0
        self._changed = asyncio.Condition()

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
        self._size = min(float(self._maximum), self._size + 1 / self._size)

    def shrink(self) -> None:
        """The server was overwhelmed (429, 502, 503, a broken or stalled response)."""
        self._size = max(1.0, self._size / 2)
