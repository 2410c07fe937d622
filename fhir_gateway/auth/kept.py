"""Tokens that were verified a moment ago: a client that asks many things is not looked up for each of them.

What is kept counts for :data:`KEPT_SECONDS` at most, in this process alone, and never beyond the token's own end. A
change of any client or token by this process ends all of it at once; one by another process (``fhir-gateway client
disable``, a second server) is seen when that second is over (docs/adr/0040).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from datetime import UTC, datetime

from fhir_gateway.auth.models import AccessToken
from fhir_gateway.auth.store import digest

#: How long a token counts without being looked up again.
KEPT_SECONDS = 1.0
_MOST = 1000


class KeptTokens:
    """Verified tokens by their digest. Safe to share between threads."""

    def __init__(self, seconds: float = KEPT_SECONDS) -> None:
        self._seconds = seconds
        self._kept: OrderedDict[str, tuple[AccessToken, object, float]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, presented: str, state: object) -> AccessToken | None:
        """The token, if it was verified a moment ago in the same ``state`` of the store; None to have it looked up."""
        with self._lock:
            kept = self._kept.get(digest(presented))
        if kept is None:
            return None
        token, then, until = kept
        current = then is state and time.monotonic() < until and datetime.now(UTC) < token.expires_at
        return token if current else None

    def keep(self, presented: str, token: AccessToken, state: object) -> None:
        """Keep a verified token; ``state`` is that of the store before it was looked up."""
        key = digest(presented)
        with self._lock:
            self._kept[key] = token, state, time.monotonic() + self._seconds
            self._kept.move_to_end(key)
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
