"""The clock is set ahead and back by minutes and by a day: no wait is endless, nothing is lost, nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.faults.clocks import pulls, server
from tests.support.faults.site import World


def test_a_pull_whose_clock_jumps(tmp_path: Path) -> None:
    assert pulls(tmp_path, seed=1) == 5


def test_jobs_tokens_and_subscribers_of_a_server_whose_clock_jumps(
    tmp_path: Path, world: World, pulled: Path, expected: dict[str, Any]
) -> None:
    assert server(tmp_path, world, pulled, expected) == 4
