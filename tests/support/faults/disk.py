"""A disk that is full: a small one of memory, with ballast that leaves as much room as a test wants.

The data folder lies on it, with its databases, the lake and what is staged. A command finds room for a part of what it
writes, and no more; whatever it was at, the lake is as before, it says why, and it succeeds once there is room.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.chaos import content
from tests.support.faults.callers import Caller
from tests.support.faults.site import Site, World, differing, outcome
from tests.support.serving import free_port, serving
from tests.support.waiting import until

SAID = "the disk is full"
_BALLAST = "ballast"


@dataclass(frozen=True)
class Disk:
    """A file system of its own at ``folder``."""

    folder: Path

    def leave(self, free: int) -> None:
        """Fill it with ballast until so many bytes are free."""
        self.clear()
        room = shutil.disk_usage(self.folder).free - free
        with (self.folder / _BALLAST).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(room, 1))

    def clear(self) -> None:
        """Throw the ballast away."""
        (self.folder / _BALLAST).unlink(missing_ok=True)


@contextmanager
def disk(folder: Path, megabytes: int = 256) -> Iterator[Disk]:
    """A disk of memory; skips visibly where none can be mounted."""
    folder.mkdir(parents=True)
    options = f"size={megabytes}m,mode=0755"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs a disk of its own, which only root can mount: {mounted.stderr.strip()[:200]}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def on(small: Disk, folder: Path, world: World, pulled: Path | None = None) -> Site:
    """A site whose data folder lies on the disk; what its processes say lies elsewhere."""
    folder.mkdir(parents=True)
    data = small.folder / "data"
    if pulled is None:
        data.mkdir()
    else:
        shutil.copytree(pulled, data)
    (folder / "data").symlink_to(data)
    return Site(folder, world)


def pulls(folder: Path, world: World, rooms: list[int]) -> int:
    """Take files in with so much room, for each of ``rooms``, then with enough; how often it was too little."""
    too_little = 0
    whole: Mapping[str, Any] | None = None
    command = ("pull", "--files", str(world.population / "ehr"), "--source", "ehr")
    for number, room in enumerate(rooms):
        with disk(folder / f"disk-{number}") as small:
            site = on(small, folder / f"site-{number}", world)
            _ = site.gateway.endpoints, site.gateway.lake, site.book.jobs()
            small.leave(room)
            process = site.start(*command)
            process.join()
            if process.exitcode != 0:
                too_little += 1
                assert process.exitcode == 6, (room, process.exitcode, site.log[-3000:])
                assert SAID in site.log, (room, site.log[-3000:])
            assert "Traceback" not in site.log, (room, site.log[-3000:])
            assert site.gateway.lake.version in (0, 1)
            small.clear()
            again = site.start(*command)
            again.join()
            assert again.exitcode == 0, (room, site.log[-3000:])
            assert _sound(site)
            found = {"lake": content(site.gateway), "served": site.gateway.resources.counts()}
            whole = whole or found
            assert found == whole, room
            assert [one.ledger.balanced for one in site.gateway.lake.versions()] == [True]
            assert not list(site.gateway.staging_folder.iterdir()), room
            site.close()
    return too_little


def calculations(folder: Path, world: World, pulled: Path, expected: Mapping[str, Any], kinds: list[str]) -> int:
    """Calculations by a worker, with room for less and less, until all is done; how many of them found none.

    Each is first left a few KiB, then ever more, as an operator would who frees some space and tries again.
    """
    struck = 0
    with disk(folder / "disk") as small:
        site = on(small, folder / "site", world, pulled)
        site.submit(kinds[:1])
        with site.workers(1):
            for kind in kinds:
                room = 1 << 15
                if site.book.find(kind) is None:
                    site.submit([kind])
                while True:
                    small.leave(room)
                    until(lambda: _at_rest(site, kind), pause=0.2)  # noqa: B023 - waited for here
                    small.clear()
                    job = site.book.job(kind)
                    if job.state == "done":
                        break
                    assert job.error is None or SAID in job.error, job.error
                    struck += 1
                    room *= 8
                    until(lambda: _retried(site, kind), pause=0.2)  # noqa: B023 - waited for here
        wrong = differing(outcome(site.gateway), expected)
        assert not wrong, wrong
        assert _sound(site)
        site.close()
    return struck


def _at_rest(site: Site, kind: str) -> bool:
    return site.book.job(kind).state in ("done", "failed")


def _retried(site: Site, kind: str) -> bool:
    if site.book.job(kind).state == "failed":
        site.book.again(kind, "jobs")
        return True
    return False


def readers(folder: Path, world: World, pulled: Path) -> int:
    """Clients of a server whose disk is full are answered, or told that it is full; how many answers there were."""
    port = free_port()
    public = f"http://127.0.0.1:{port}"
    with disk(folder / "disk") as small:
        site = on(small, folder / "site", world, pulled)
        caller = Caller.registered(site.gateway, public)
        with serving(folder / "site" / "data", port, None, LAKE_BUCKETS="2"):
            headers = caller.headers()
            small.leave(0)
            with caller.asking(("/fhir/metadata", "/fhir/Patient?_count=2", "/health"), headers):
                until(lambda: sum(caller.answers.values()) > 40)
                small.clear()
                until(lambda: caller.ask("/fhir/Patient?_count=2", headers) == 200)
        assert not caller.wrong, caller.wrong[:5]
        assert _sound(site)
        site.close()
    return sum(caller.answers.values())


def _sound(site: Site) -> bool:
    """Whether the control plane is whole, by its own word."""
    with site.gateway.engine.connect() as connection:
        return bool(connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok")
