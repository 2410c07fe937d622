"""A backup is made in the middle of the work and restored elsewhere: the work goes on there to the same end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.support.faults.postgresql_server import PostgreSQL
from tests.support.faults.site import CALCULATED, UPKEEP, Site, World, differing, outcome
from tests.support.waiting import HANG, until


def while_at_work(
    folder: Path, world: World, pulled: Path, expected: Mapping[str, Any], server: PostgreSQL | None = None
) -> int:
    """Two backups under the hands of a worker: one when a job is under way, one when the first has ended.

    Each is restored into a place of its own (with ``server``, a database of its own), where a worker ends what was
    under way. Reports, rosters and settlements are those of a quiet run, byte for byte. How many were restored.
    """
    if server is None:
        site = Site.of(folder / "site", world, pulled)
    else:
        site = Site(folder / "site", world, server.url)
        site.prepare()
    ids = site.submit(CALCULATED)
    backups = [folder / "backup-0", folder / "backup-1"]
    with site.workers(1):
        until(lambda: any(site.book.job(id).state != "waiting" for id in ids))
        _command(site, "backup", str(backups[0]))
        until(lambda: any(site.book.job(id).state == "done" for id in ids))
        _command(site, "backup", str(backups[1]))
        site.ended(ids)
    _same(site, expected)
    for number, backup in enumerate(backups):
        url = None if server is None else _database(server, f"restored{number}")
        again = Site(folder / f"again-{number}", world, url)
        again.folder.mkdir()
        _command(again, "restore", str(backup))
        with again.workers(1):
            again.ended(ids)
        _same(again, expected)
    return len(backups)


def _same(site: Site, expected: Mapping[str, Any]) -> None:
    site.calculate(UPKEEP)
    wrong = differing(outcome(site.gateway), expected)
    assert not wrong, wrong
    site.close()


def _command(site: Site, *arguments: str) -> None:
    process = site.start(*arguments)
    process.join(HANG)
    assert process.exitcode == 0, site.log[-3000:]


def _database(server: PostgreSQL, name: str) -> str:
    """An empty database of that server."""
    engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return server.url.removesuffix("/postgres") + f"/{name}"
