"""kill -9 of whoever is at work, at any step: workers at every kind of job, the server beside them, a backup, a replay.

A process kills itself at its step of a random number in the data folder (:mod:`tests.support.moments`), so that no
machine is too fast or too slow for it; others go on with what it was at.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fhir_gateway.jobs.backup import MANIFEST
from fhir_gateway.jobs.pull import pull_files
from tests.support.faults.site import CALCULATED, UPKEEP, Site, World, differing, kill, outcome
from tests.support.moments import Moment
from tests.support.serving import free_port, serving
from tests.support.waiting import HANG, until

#: What is in the data folder as soon as a job of that kind has begun to write.
BEGUN: Mapping[str, str] = {
    "evaluate": "results/*/.saving-*",
    "attribute": "attributions/*",
    "settle": "settlements/*",
    "compact": "lake/_lake/scratch/*",
}
#: Steps in the data folder among which a kill is chosen; one that comes too late is not counted.
MOST_STEPS = 200


def workers(
    folder: Path, world: World, pulled: Path, expected: Mapping[str, Any], seed: int, kinds: Sequence[str], most: int
) -> int:
    """Each kind of job, its worker killed up to ``most`` times before another may finish it; how many kills struck."""
    chance = random.Random(seed)  # noqa: S311 - a seed, no secret
    site = Site.of(folder / "site", world, pulled)
    struck = 0
    for kind in kinds:
        site.submit([kind])
        for number in range(most):
            at = Moment(BEGUN[kind]) if number == 0 and kind in BEGUN else chance.randint(1, MOST_STEPS)
            worker = site.start("worker", die_at=at)
            until(lambda: not worker.is_alive() or site.book.job(kind).state == "done")  # noqa: B023 - waited for here
            worker.join(0)
            if not worker.is_alive():
                struck += worker.exitcode == -signal.SIGKILL
                assert worker.exitcode == -signal.SIGKILL, site.log[-3000:]
            kill(worker)
        with site.workers(1):
            site.ended([kind])
    _check(site, expected)
    return struck


def everything_at_once(
    folder: Path, world: World, pulled: Path, expected: Mapping[str, Any], seed: int, most: int
) -> int:
    """The server, which does jobs too, and a worker are killed in the same moment, again and again; how many kills."""
    chance = random.Random(seed)  # noqa: S311 - a seed, no secret
    site = Site.of(folder / "site", world, pulled)
    ids = site.submit(CALCULATED)
    struck = 0

    def under_way() -> bool:
        states = [site.book.job(id).state for id in ids]
        return "running" in states or "waiting" not in states

    for _ in range(most):
        port = free_port()
        with serving(folder / "site" / "data", port, None, LAKE_BUCKETS="2") as server, site.workers(1) as (worker,):
            until(under_way, pause=chance.choice((0.02, 0.2, 0.5)))
            os.kill(server.pid, signal.SIGKILL)
            kill(worker)
            server.wait(HANG)
            struck += 2
    with site.workers(1):
        site.ended(ids)
    site.calculate(UPKEEP)
    _check(site, expected)
    return struck


def backups(folder: Path, world: World, pulled: Path, seed: int, most: int) -> int:
    """A backup that is killed is none and says so; the next one, elsewhere, is whole. How many kills struck."""
    chance = random.Random(seed)  # noqa: S311 - a seed, no secret
    site = Site.of(folder / "site", world, pulled)
    before = outcome(site.gateway)
    struck = 0
    for number in range(most):
        target = folder / f"backup-{number}"
        process = site.start("backup", str(target), die_at=chance.randint(1, 400))
        process.join(HANG)
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0, site.log[-3000:]
            continue
        struck += 1
        assert not (target / MANIFEST).exists()
        refused = site.start("restore", str(target), "--check")
        refused.join(HANG)
        assert refused.exitcode == 2
    whole = site.start("backup", str(folder / "whole"))
    whole.join(HANG)
    assert whole.exitcode == 0, site.log[-3000:]
    site.close()
    again = Site(folder / "again", world)
    again.folder.mkdir()
    restored = again.start("restore", str(folder / "whole"))
    restored.join(HANG)
    assert restored.exitcode == 0, again.log[-3000:]
    wrong = differing(outcome(again.gateway), before)
    assert not wrong, wrong
    again.close()
    return struck


def replays(folder: Path, seed: int, most: int) -> int:
    """A replay of refused lines, killed when the lake has it and before, is there once and in the log; kills."""
    chance = random.Random(seed)  # noqa: S311 - a seed, no secret
    sent, mended = folder / "ehr.ndjson", folder / "mended.json"
    people = [{"resourceType": "Patient", "id": f"p{one}", "gender": "female"} for one in range(5)]
    wrong = people[2] | {"gender": "none"}
    sent.write_text("".join(json.dumps(one) + "\n" for one in [*people[:2], wrong, *people[3:]]))
    mended.write_text(json.dumps(people[2]))
    struck = 0
    for number in range(most):
        site = Site(folder / f"site-{number}", World(folder, ""))
        site.folder.mkdir()
        pull_id = pull_files(site.gateway, [sent], "ehr").pull_id
        (line,) = site.gateway.lake.quarantined(pull_id)
        command = ("quarantine", "replay", pull_id, "--place", f"{line.file}:{line.line}", "--mended", str(mended))
        at = Moment("lake/_lake/v00000002.json") if number == 0 else chance.randint(1, MOST_STEPS)
        process = site.start(*command, die_at=at)
        process.join(HANG)
        struck += process.exitcode == -signal.SIGKILL
        assert number or process.exitcode == -signal.SIGKILL
        if process.exitcode != 0:
            again = site.start(*command)
            again.join(HANG)
            assert again.exitcode == 0, site.log[-3000:]
        rows = site.gateway.lake.read("Patient", ["_raw"])
        assert sorted(rows["id"].to_pylist()) == [one["id"] for one in people]
        assert site.gateway.resources.counts()["Patient"] == len(people)
        assert [one.ledger.balanced for one in site.gateway.lake.versions()] == [True, True]
        assert [one.state for one in site.gateway.pulls.recent()] == ["committed"] * 2
        site.close()
    return struck


def _check(site: Site, expected: Mapping[str, Any]) -> None:
    """As in a quiet run, and nothing that anybody reads is left of those who died."""
    wrong = differing(outcome(site.gateway), expected)
    assert not wrong, wrong
    data = site.gateway.data_folder
    seen = [one for one in (data / "results").rglob("*") if one.is_dir() and len(one.relative_to(data).parts) == 3]
    assert all((one / "header.json").exists() for one in seen if not one.name.startswith(".")), seen
    site.close()
