"""One subject, warm: CPU milliseconds of each published measure over a lake of 10,000 patients.

``python -m bench.single_subject [MEASURE ...] [--patients 10000] [--subjects 15] [--data ...]``

The lake holds the published cases of all measures, replicated under new ids. Measures are compiled and the lake is
open, as in a server; each subject is read from the lake and evaluated alone, with supplemental data. The first of each
measure is not counted. ``eval`` is the part that is not spent reading.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from bench.measures import NOW, child, machine, open_lake, read_cases, replicate, report


def measure_subjects(package: Path, lake_folder: Path, period: tuple[str, str], members: Sequence[str]) -> None:
    """Child process: some subjects of one measure."""
    import pyarrow as pa

    from fhir_gateway.cql import Batch
    from fhir_gateway.measures import Evaluator, MeasurePackage
    from fhir_gateway.measures.population import LakePopulation

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    days = date.fromisoformat(period[0]), date.fromisoformat(period[1])
    evaluator = Evaluator(MeasurePackage.load(package))
    lake = open_lake(lake_folder)
    reading = 0.0

    class Timed(LakePopulation):
        def batches(self) -> Any:
            for batch in super().batches():
                yield Batch(batch.members, timed(batch.read), narrows=batch.narrows)

    def timed(read: Any) -> Any:
        def run(*asked: Any) -> Any:
            nonlocal reading
            cpu = time.process_time()
            try:
                return read(*asked)
            finally:
                reading += time.process_time() - cpu

        return run

    whole, rest = [], []
    for member in members:
        reading = 0.0
        cpu = time.process_time()
        evaluator.evaluate(Timed(lake, members=[member]), days, NOW)
        cpu = time.process_time() - cpu
        whole.append(cpu * 1000)
        rest.append((cpu - reading) * 1000)
    report(whole=whole[1:], rest=rest[1:])


def build(folders: Sequence[Path], patients: int, lake: Path) -> dict[str, list[str]]:
    """A lake of all measures' cases; some members for each measure."""
    members: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, folder in enumerate(folders):
            cases = read_cases(folder)
            part = Path(scratch) / folder.name
            part.mkdir()
            # ids recur between measures: each has a number of its own before the copy's
            replicate(cases, max(1, patients // len(folders)), part, prefix=f"m{number}c")
            with (part / "Patient.ndjson").open(encoding="utf-8") as lines:
                members[folder.name] = [json.loads(line)["id"] for line in lines]
        child("--ingest", scratch, str(lake))
    return members


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*")
    parser.add_argument("--patients", type=int, default=10_000)
    parser.add_argument("--subjects", type=int, default=15)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data/ecqm/dqm2025")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data}: no published measures here; name their folder with --data")
    folders = [folder for folder in sorted(options.data.iterdir()) if (folder / "bundle.json.gz").is_file()]
    print(f"{machine()}, {options.patients} patients in the lake, {options.subjects} subjects of each measure")
    print("measure | p50 CPU ms | max CPU ms | p50 eval ms")
    slowest = []
    with tempfile.TemporaryDirectory() as scratch:
        lake = Path(scratch) / "lake"
        members = build(folders, options.patients, lake)
        for folder in folders:
            if options.measures and not folder.name.startswith(tuple(options.measures)):
                continue
            period = read_cases(folder)[0]["measurementPeriod"]
            some = members[folder.name][: options.subjects + 1]
            arguments = [str(folder), str(lake), period["start"], period["end"], *some]
            done = child("--child", *arguments, module="bench.single_subject")
            middle = statistics.median(done["whole"])
            slowest.append(middle)
            rest = statistics.median(done["rest"])
            print(f"{folder.name} | {middle:.0f} | {max(done['whole']):.0f} | {rest:.0f}", flush=True)
    print(f"all {len(slowest)}: median {statistics.median(slowest):.0f} ms, slowest measure {max(slowest):.0f} ms")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        measure_subjects(Path(sys.argv[2]), Path(sys.argv[3]), (sys.argv[4], sys.argv[5]), sys.argv[6:])
    else:
        main()
