"""``make chaos``: rounds of every kind of fault, each with a seed of its own, and a table of what came of them."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from tests.support.chaos import chaos
from tests.support.faults import clocks, database, disk, kills, restored
from tests.support.faults.postgresql_server import postgresql
from tests.support.faults.site import WORK, Site, World, outcome


@dataclass
class Tally:
    """What came of one kind of fault."""

    rounds: int = 0
    faults: int = 0
    failed: int = 0
    skipped: str = ""
    seconds: float = 0.0


Round = Callable[[Path, int], int]
"""A round in a folder, with a seed: how many faults it struck. It raises when something was lost, or came twice."""


def rounds(world: World, pulled: Path, expected: Mapping[str, Any]) -> Mapping[str, Round]:
    """Every kind of fault."""

    def restarts(folder: Path, seed: int) -> int:
        with postgresql() as server:
            return database.restarts(folder, server, world, expected, seed)

    def full(folder: Path, seed: int) -> int:
        chance = random.Random(seed)  # noqa: S311 - a seed, no secret
        return disk.pulls(folder, world, sorted(chance.randint(0, 3 << 20) for _ in range(4)))

    def disturbed(folder: Path, seed: int, mode: Any) -> int:
        field = chaos(folder, seed, mode=mode)
        return field.source.struck + 3

    kinds = [*WORK]
    return {
        "pull: requests disturbed, kill -9 (bulk)": partial(disturbed, mode="bulk"),
        "pull: requests disturbed, kill -9 (search)": partial(disturbed, mode="search"),
        "kill -9: workers at evaluate, attribute, settle, compact, retain": lambda folder, seed: kills.workers(
            folder, world, pulled, expected, seed, WORK, 3
        ),
        "kill -9: server and worker at once": lambda folder, seed: kills.everything_at_once(
            folder, world, pulled, expected, seed, 3
        ),
        "kill -9: replay of refused lines": lambda folder, seed: kills.replays(folder, seed, 4),
        "kill -9: backup": lambda folder, seed: kills.backups(folder, world, pulled, seed, 4),
        "database restarted under jobs and clients": restarts,
        "disk full: pull": full,
        "disk full: calculations": lambda folder, seed: disk.calculations(folder, world, pulled, expected, kinds),
        "disk full: clients": lambda folder, seed: disk.readers(folder, world, pulled),
        "clock jumps: pull": clocks.pulls,
        "clock jumps: jobs, tokens, subscribers": lambda folder, seed: clocks.server(folder, world, pulled, expected),
        "backup while jobs run, restored elsewhere": lambda folder, seed: restored.while_at_work(
            folder, world, pulled, expected
        ),
    }


def main() -> int:
    """Strike, and say what came of it; 1 when anything was lost or came twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    asked = parser.parse_args()
    console = Console(width=150)
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        world = World.make(folder)
        quiet = Site(folder / "pulled", world)
        quiet.prepare()
        reference = Site.of(folder / "reference", world, folder / "pulled" / "data")
        reference.calculate(WORK)
        found = outcome(reference.gateway)
        reference.close()
        for name, one in rounds(world, folder / "pulled" / "data", found).items():
            if asked.only not in name:
                continue
            tally = tallies[name] = Tally()
            for seed in range(asked.seed, asked.seed + asked.rounds):
                began = time.monotonic()
                with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
                    _strike(one, Path(place), seed, tally)
                tally.seconds += time.monotonic() - began
                console.print(f"{name}, seed {seed}: {tally.faults} faults so far", highlight=False)
    table = Table("fault", "rounds", "faults struck", "outcome", "seconds", title="Chaos", title_justify="left")
    for name, tally in tallies.items():
        outcomes = tally.skipped or (
            f"{tally.failed} rounds lost something" if tally.failed else "nothing lost or twice"
        )
        table.add_row(name, str(tally.rounds), str(tally.faults), outcomes, f"{tally.seconds:.0f}")
    total = sum(one.faults for one in tallies.values())
    table.add_row("all", str(sum(one.rounds for one in tallies.values())), str(total), "", "")
    console.print(table)
    return int(any(one.failed for one in tallies.values()))


def _strike(one: Round, folder: Path, seed: int, tally: Tally) -> None:
    try:
        tally.faults += one(folder, seed)
        tally.rounds += 1
    except pytest.skip.Exception as skipped:
        tally.skipped = f"skipped: {skipped}"
    except Exception:  # noqa: BLE001 - the other rounds are struck as well, and the table says it
        traceback.print_exc()
        tally.rounds += 1
        tally.failed += 1


if __name__ == "__main__":
    sys.exit(main())
