"""A full disk: what was under way says so and has changed nothing; with room it succeeds, and what came is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.faults.disk import calculations, pulls, readers
from tests.support.faults.site import World

KIB = 1 << 10


def test_a_pull_without_room_leaves_the_lake_as_it_was(tmp_path: Path, world: World) -> None:
    assert pulls(tmp_path, world, [0, 300 * KIB, 900 * KIB, 1500 * KIB]) >= 2


def test_calculations_without_room_are_done_once_when_there_is_some(
    tmp_path: Path, world: World, pulled: Path, expected: dict[str, Any]
) -> None:
    assert calculations(tmp_path, world, pulled, expected, ["evaluate", "attribute", "settle", "compact", "retain"])


def test_clients_of_a_server_without_room_are_told_so(tmp_path: Path, world: World, pulled: Path) -> None:
    assert readers(tmp_path, world, pulled)
