"""When to ask again: ``Retry-After`` in all the forms servers send, backoff, and the clock that tests replace."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same GET may succeed. 500 is among them: servers answer it once and then 200."""

_EPOCH_SECONDS = 1_000_000_000
_EPOCH_MILLISECONDS = 1_000_000_000_000


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of day, a monotonic time, and a way to wait."""

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def retry_after(value: str | None, now: float, cap: float) -> float | None:
    """Seconds to wait by a ``Retry-After`` header, between 0 and ``cap``; None when it says nothing usable.

    Seconds and HTTP dates are the standard (RFC 9110 section 10.2.3). Numbers too large for seconds are read as the
    epoch in seconds or milliseconds, which real servers send.
    """
    if not value:
        return None
    text = value.strip()
    try:
        number = float(text)
    except ValueError:
        try:
            wait = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    else:
        if number != number or number in (float("inf"), float("-inf")):
            return None
        if number >= _EPOCH_MILLISECONDS:
            wait = number / 1000 - now
        elif number >= _EPOCH_SECONDS:
            wait = number - now
        else:
            wait = number
    return min(max(wait, 0.0), cap)


def backoff(attempt: int, cap: float, base: float = 0.5) -> float:
    """Seconds before attempt ``attempt + 1`` (the first attempt is 1): exponential with jitter, at most ``cap``."""
    ceiling = min(cap, base * 2.0 ** min(attempt - 1, 30))
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not cryptography
