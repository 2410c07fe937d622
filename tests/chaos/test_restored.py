"""Back up in the middle of the work, restore elsewhere, end the work there: the same reports, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.faults.postgresql_server import postgresql
from tests.support.faults.restored import while_at_work
from tests.support.faults.site import World


def test_a_backup_of_sqlite_while_jobs_run(
    tmp_path: Path, world: World, pulled: Path, expected: dict[str, Any]
) -> None:
    assert while_at_work(tmp_path, world, pulled, expected) == 2


def test_a_backup_of_postgresql_while_jobs_run(
    tmp_path: Path, world: World, pulled: Path, expected: dict[str, Any]
) -> None:
    with postgresql() as server:
        assert while_at_work(tmp_path, world, pulled, expected, server) == 2
