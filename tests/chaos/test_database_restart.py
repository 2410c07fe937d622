"""The database goes away while jobs run and clients ask: they are told to come again, and everything is done once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.faults.database import restarts
from tests.support.faults.postgresql_server import postgresql
from tests.support.faults.site import World


def test_a_database_that_is_restarted_at_any_moment_costs_nothing(
    tmp_path: Path, world: World, expected: dict[str, Any]
) -> None:
    with postgresql() as server:
        assert restarts(tmp_path, server, world, expected, seed=1, most=2) == 2
