"""What everything that tells others from this process shares: rounds of a thread, and patience with who fails."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from fhir_gateway.faults import away

LONGEST = 3600.0
"""Seconds that a receiver is left alone at most, however often it failed."""


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(datetime.now(UTC).timestamp() * 1000)


def is_due(due: int, now: int) -> bool:
    """Whether an instant has come, both in milliseconds since 1970.

    None is set further ahead than :data:`LONGEST`: one that is was set before the clock was set back.
    """
    return not now < due <= now + int(LONGEST * 1000)


@dataclass(frozen=True, slots=True)
class Setback:
    """How a receiver stands after it failed once more; instants in milliseconds since 1970."""

    state: str
    failures: int
    failing_since: int
    due: int


@dataclass(frozen=True, slots=True)
class Patience:
    """How long failing receivers are borne with, in seconds; ``error_after`` counts attempts."""

    pause: float = 1.0
    first: float = 2.0
    longest: float = LONGEST
    error_after: int = 3
    give_up: float = 3 * 86_400.0
    keep: float = 7 * 86_400.0

    def wait(self, failures: int) -> float:
        """Seconds before the next attempt."""
        return float(min(self.longest, self.first * 2 ** min(failures - 1, 30)))

    def after(self, state: str, failures: int, failing_since: int | None) -> Setback:
        """What one more failure makes of a receiver: in ``error`` after some, ``off`` after days."""
        now, failures = now_ms(), failures + 1
        since = min(failing_since or now, now)  # the clock may have been set back
        if now - since >= self.give_up * 1000:
            state = "off"
        elif failures >= self.error_after:
            state = "error"
        return Setback(state, failures, since, now + int(self.wait(failures) * 1000))


class Rounds:
    """Goes round in a thread of its own while a ``with`` block lasts, a pause after each; failures are logged."""

    def __init__(self, name: str, pause: float, log: logging.Logger) -> None:
        self.leaving = threading.Event()
        self._pause, self._log = pause, log
        self._thread = threading.Thread(target=self._go_on, name=name, daemon=True)

    def round(self) -> None:
        """What is done each time."""
        raise NotImplementedError

    def close(self) -> None:
        """What is let go after the last round."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leaving.set()
        self._thread.join()
        self.close()

    def _go_on(self) -> None:
        while not self.leaving.is_set():
            try:
                self.round()
            except Exception as error:  # noqa: BLE001 - a database that is away for a while must not end the rounds
                told = "%s: this round failed; trying again"
                self._log.error(told, self._thread.name, exc_info=not away(error))
            self.leaving.wait(self._pause)
