"""What waits for an instant does not wait for a day when the clock is set back by one."""

from __future__ import annotations

import time

import pytest
import time_machine

from fhir_gateway.auth import jwks
from fhir_gateway.auth.jwks import JwksCache
from fhir_gateway.jobs.patience import LONGEST, Patience, is_due
from fhir_gateway.server.throttle import Throttle

DAY = 86_400_000


def test_what_was_due_tomorrow_by_a_clock_that_was_ahead_is_due() -> None:
    now = 1_700_000_000_000
    assert is_due(now, now)
    assert is_due(now - DAY, now)
    assert not is_due(now + 1, now)
    assert not is_due(now + int(LONGEST * 1000), now)  # as far ahead as a failing receiver is left alone
    assert is_due(now + DAY, now)


def test_a_receiver_that_fails_since_tomorrow_fails_since_now() -> None:
    now = int(time.time() * 1000)
    after = Patience().after("active", 0, now + DAY)
    assert after.failing_since <= int(time.time() * 1000)
    assert after.state == "active"


def test_a_client_is_not_shut_out_for_a_day() -> None:
    throttle = Throttle(2, 0)
    now = time.time()
    with time_machine.travel(now + 86_400, tick=False):
        assert throttle.allows("a")
        assert throttle.allows("a")
        assert not throttle.allows("a")
    with time_machine.travel(now, tick=False):
        assert throttle.allows("a")
        assert throttle.allows("a")
        assert not throttle.allows("a")


def test_keys_are_fetched_again_when_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def request(self: JwksCache, url: str, public: bool) -> tuple[dict[str, list[str]], float]:
        asked.append(url)
        return {"keys": []}, 300.0

    monkeypatch.setattr(JwksCache, "_request", request)
    cache, now = JwksCache(), time.time()
    with time_machine.travel(now + 86_400, tick=False):
        cache.get("https://one.example")
        assert cache.refresh("https://one.example") is None
    with time_machine.travel(now, tick=False):
        cache.get("https://one.example")
        assert len(asked) == 2
        assert cache.refresh("https://one.example") is None
    with time_machine.travel(now - 86_400 - jwks.RETRY_SECONDS, tick=False):
        assert cache.refresh("https://one.example") is not None
    assert len(asked) == 3
