"""kill -9 of whoever is at work: the next one goes on, and what came of it is what comes of a quiet run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.faults.kills import backups, everything_at_once, replays, workers
from tests.support.faults.site import WORK, World


def test_workers_killed_at_each_kind_of_job(
    tmp_path: Path, world: World, pulled: Path, expected: dict[str, Any]
) -> None:
    assert workers(tmp_path, world, pulled, expected, seed=1, kinds=WORK, most=1) >= 4


def test_the_server_and_a_worker_killed_at_once(
    tmp_path: Path, world: World, pulled: Path, expected: dict[str, Any]
) -> None:
    assert everything_at_once(tmp_path, world, pulled, expected, seed=1, most=1) == 2


def test_a_killed_backup_is_none(tmp_path: Path, world: World, pulled: Path) -> None:
    assert backups(tmp_path, world, pulled, seed=1, most=2)


def test_a_killed_replay_is_brought_to_its_end(tmp_path: Path) -> None:
    assert replays(tmp_path, seed=1, most=1) == 1
