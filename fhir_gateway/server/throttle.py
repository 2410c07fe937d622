"""How often a client, and an address without a client, may ask; whoever asks more often is told when to come back.

Counted in this process alone, by a window that moves with the clock: of several API processes behind a balancer each
allows its share, so that together they allow what is set, and no request waits for a counter elsewhere. A balancer that
keeps a client to one process holds it to that share. The limits keep one client's mistake from being everybody's, they
are no defence against a flood.
"""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from fhir_gateway.errors import TooManyRequests

#: Seconds that a clock is corrected by without anybody noticing.
_MOST_BACK = 5.0


class Throttle:
    """Requests per minute of one client, and of one address at the authorization server. Zero is no limit.

    ``processes`` share them; each allows the part that is its own, rounded up.
    """

    def __init__(self, client_per_minute: int, address_per_minute: int, processes: int = 1) -> None:
        self._counts = MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(self._counts)
        self._last = 0.0
        self._client, self._address = (
            RateLimitItemPerMinute(math.ceil(limit / processes)) if limit else None
            for limit in (client_per_minute, address_per_minute)
        )

    def client(self, client_id: str) -> None:
        """Count one request of a client; TooManyRequests when it is one too many."""
        self._count(self._client, "client", client_id)

    def allows(self, client_id: str) -> bool:
        """Count one request of a client; False, and nothing is counted, when it is one too many."""
        return self._client is None or self._hit(self._client, "client", client_id)

    def address(self, address: str | None) -> None:
        """Count one request of an address for a token; TooManyRequests when it is one too many."""
        self._count(self._address, "address", address or "unknown")

    def _count(self, limit: RateLimitItemPerMinute | None, kind: str, key: str) -> None:
        if limit is not None and not self._hit(limit, kind, key):
            raise self._too_many(limit, kind, key)

    def _hit(self, limit: RateLimitItemPerMinute, kind: str, key: str) -> bool:
        now = time.time()
        if now < self._last - _MOST_BACK:  # the clock was set back: what is counted would expire by the old one
            self._counts.reset()
        self._last = now
        return self._limiter.hit(limit, kind, key)

    def _too_many(self, limit: RateLimitItemPerMinute, kind: str, key: str) -> TooManyRequests:
        resets = self._limiter.get_window_stats(limit, kind, key).reset_time
        wait = max(1, math.ceil(resets - time.time()))
        return TooManyRequests(f"too many requests in a minute by one {kind}", min(wait, 60))
