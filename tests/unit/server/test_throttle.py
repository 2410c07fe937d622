"""Rates of clients and addresses, and how several processes share them."""

from __future__ import annotations

import time

import pytest

from fhir_gateway.errors import TooManyRequests
from fhir_gateway.server.throttle import Throttle


@pytest.fixture(autouse=True)
def _one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window moves with the clock: here it stands still."""
    monkeypatch.setattr(time, "time", lambda: 1_800_000_030.0)


@pytest.mark.parametrize(("processes", "share"), [(1, 10), (2, 5), (3, 4), (100, 1)])
def test_each_process_allows_its_share(processes: int, share: int) -> None:
    throttle = Throttle(10, 10, processes)
    assert [throttle.allows("client") for _ in range(share + 1)] == [True] * share + [False]
    assert throttle.allows("another")
    for _ in range(share):
        throttle.address("192.0.2.1")
    with pytest.raises(TooManyRequests) as refused:
        throttle.address("192.0.2.1")
    assert 1 <= (refused.value.retry_after or 0) <= 60


def test_zero_is_no_limit() -> None:
    throttle = Throttle(0, 0, 4)
    for _ in range(1000):
        throttle.client("client")
        throttle.address(None)
