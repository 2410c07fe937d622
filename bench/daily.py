"""What a day's pull costs: one member in a hundred changes, and our measures are evaluated for the day.

``python -m bench.daily --patients 5000`` commits a synthetic population, evaluates all our measures, changes what was
observed of one patient in a hundred, commits that, and evaluates once by the run before and once everybody. Printed are
CPU seconds of this process; both runs are compared to the byte.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path

import orjson

from fhir_gateway.config import Settings
from fhir_gateway.demo.sources import make_population
from fhir_gateway.factory import Gateway
from fhir_gateway.measures import Evaluator, MeasurePackage, ResultStore
from fhir_gateway.measures.run import evaluate_lake
from fhir_gateway.sources.models import StagedFile, StagedPull

PERIOD = (date(2025, 1, 1), date(2025, 12, 31))


def staged(name: str, files: list[Path]) -> StagedPull:
    return StagedPull(name, "ehr", "files", None, tuple(StagedFile(one, one.name, None, None) for one in files))


def change(files: list[Path], folder: Path, every: int) -> tuple[Path, int]:
    """Observations of one patient in so many, as amended."""
    lines, seen = [], set()
    for path in files:
        if not path.name.startswith("Observation"):
            continue
        for line in path.read_bytes().splitlines():
            resource = orjson.loads(line)
            who = resource["subject"]["reference"]
            if hash_of(who) % every == 0:
                seen.add(who)
                lines.append(orjson.dumps(resource | {"status": "amended"}))
    target = folder / "Observation-changed.ndjson"
    target.write_bytes(b"\n".join(lines) + b"\n")
    return target, len(seen)


def hash_of(text: str) -> int:
    """The same in every process."""
    return sum(ord(letter) * 31**place for place, letter in enumerate(text[-9:]))


def saved(folder: Path, run: str) -> dict[str, bytes]:
    found = {}
    for path in folder.rglob(f"{run}/*"):
        content = path.read_bytes()
        if path.name == "header.json":
            content = json.dumps({**json.loads(content), "seconds": 0}).encode()
        found[path.name] = content
    return found


def measure(folder: Path, patients: int, every: int) -> None:
    make_population(folder / "population", patients, 1, 2025, lambda _done: None)
    files = sorted(path for path in (folder / "population" / "ehr").glob("*.ndjson"))
    gateway = Gateway(Settings(data_dir=folder / "gateway"))
    lake, persons = gateway.lake, gateway.persons
    evaluators = [Evaluator(MeasurePackage.load(path)) for path in gateway.measure_packages()]
    rows: list[tuple[str, float]] = []

    def timed(name: str, work: object) -> object:
        before = time.process_time()
        done = work()  # type: ignore[operator]
        rows.append((name, time.process_time() - before))
        return done

    def evaluated(store: ResultStore, day: int, *, reuse: bool) -> tuple[str, ...]:
        now = datetime(2026, 1, day, tzinfo=UTC)
        return evaluate_lake(evaluators, lake, PERIOD, now, store, processes=1, reuse=reuse)

    kept, full = ResultStore(folder / "kept"), ResultStore(folder / "full")
    timed("commit, all", lambda: lake.commit(staged("all", files), persons))
    timed("evaluate, all", lambda: evaluated(kept, 1, reuse=False))
    changed, people = change(files, folder, every)
    timed("commit, changed", lambda: lake.commit(staged("changed", [changed]), persons))
    some = timed("evaluate, changed", lambda: evaluated(kept, 2, reuse=True))
    everybody = timed("evaluate, all again", lambda: evaluated(full, 2, reuse=False))
    assert some == everybody
    assert all(saved(folder / "kept", run) == saved(folder / "full", run) for run in some)  # type: ignore[attr-defined]
    machine = platform.processor() or platform.machine()
    print(
        f"{machine}, Python {platform.python_version()}, {patients:,} patients, {people} changed, "
        f"{len(evaluators)} measures; the same bytes"
    )
    for name, cpu in rows:
        print(f"{name:22}{cpu:8.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=5000)
    parser.add_argument("--every", type=int, default=100, help="one patient in so many changes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), asked.patients, asked.every)


if __name__ == "__main__":
    main()
