"""One subject, warm: CPU milliseconds of every published case of each measure, from a lake and in memory.

``python -m bench.single_subject [MEASURE ...] [--patients 5000] [--subjects N] [--data ...]``

The lake holds the published cases of all measures, replicated under new ids. Measures are compiled, made ready as a
server does it, and the lake is open; each subject is read from the lake, or from the resources of its case, and
evaluated alone, with supplemental data. The first subjects of each measure are evaluated beforehand and not counted,
then all are; with ``--subjects`` that many of each measure, spread over its cases.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from bench.measures import NOW, child, machine, open_lake, read_cases, replicate, report

#: Subjects that are evaluated before any is counted.
WARM = 8
WAYS = ("lake", "memory")
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


def measure_subjects(package: Path, lake_folder: Path, members_file: Path, subjects: int) -> None:
    """Child process: each subject of one measure both ways."""
    import pyarrow as pa

    from fhir_gateway.measures import Evaluator, MeasurePackage, MemoryPopulation
    from fhir_gateway.measures.catalog import keep_ready
    from fhir_gateway.measures.population import LakePopulation

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    evaluator = Evaluator(MeasurePackage.load(package))
    lake, cases = open_lake(lake_folder), read_cases(package)
    keep_ready(evaluator)
    members: list[str] = json.loads(members_file.read_text())[package.name]
    chosen = range(len(cases))[:: max(1, len(cases) // subjects)] if subjects else range(len(cases))

    def taken(number: int, way: str) -> float:
        case = cases[number]
        days = tuple(date.fromisoformat(case["measurementPeriod"][end][:10]) for end in ("start", "end"))
        if way == "lake":
            population: Any = LakePopulation(lake, members=[members[number]])
        else:
            population = MemoryPopulation([("subject", case["resources"])])
        cpu = time.process_time()
        evaluator.evaluate(population, (days[0], days[1]), NOW)
        return (time.process_time() - cpu) * 1000

    for way in WAYS:
        for number in range(min(WARM, len(cases))):
            taken(number, way)
    report(**{way: [taken(number, way) for number in chosen] for way in WAYS})


def build(folders: Sequence[Path], patients: int, lake: Path) -> dict[str, list[str]]:
    """A lake of all measures' cases; the member of each case of each measure."""
    members: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, folder in enumerate(folders):
            cases = read_cases(folder)
            part = Path(scratch) / folder.name
            part.mkdir()
            # ids recur between measures: each has a number of its own before the copy's
            replicate(cases, max(len(cases), patients // len(folders)), part, prefix=f"m{number}c")
            with (part / "Patient.ndjson").open(encoding="utf-8") as lines:
                ids = [json.loads(line)["id"] for line in lines]
            by_case = {int(one.partition("-")[0].rpartition("c")[2]): one for one in reversed(ids)}
            members[folder.name] = [by_case[case] for case in range(len(cases))]
        child("--ingest", scratch, str(lake))
    return members


def cells(times: Iterable[float]) -> list[str]:
    """The shares of some times that are told."""
    ordered = sorted(times)
    return [f"{ordered[min(len(ordered) - 1, int(share * len(ordered)))]:.0f}" for share in SHARES.values()]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*")
    parser.add_argument("--patients", type=int, default=5_000)
    parser.add_argument("--subjects", type=int, default=0, help="of each measure, about (default: every case)")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data/ecqm/dqm2025")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data}: no published measures here; name their folder with --data")
    folders = [folder for folder in sorted(options.data.iterdir()) if (folder / "bundle.json.gz").is_file()]
    print(f"{machine()}, about {options.patients} patients in the lake, CPU ms of one subject")
    print(" | ".join(["measure", "subjects", *(f"{way} {share}" for way in WAYS for share in SHARES)]))
    every: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as scratch:
        lake, known = Path(scratch) / "lake", Path(scratch) / "members.json"
        known.write_text(json.dumps(build(folders, options.patients, lake)))
        for folder in folders:
            if options.measures and not folder.name.startswith(tuple(options.measures)):
                continue
            arguments = ["--child", str(folder), str(lake), str(known), str(options.subjects)]
            done = child(*arguments, module="bench.single_subject")
            row = [folder.name, str(len(done["lake"]))]
            for way in WAYS:
                every[way] += done[way]
                row += cells(done[way])
            print(" | ".join(row), flush=True)
    print(" | ".join(["all", str(len(every["lake"])), *(cell for way in WAYS for cell in cells(every[way]))]))
    slow = {way: sum(one > 200 for one in every[way]) for way in WAYS}
    print(f"over 200 ms: {slow['lake']} from the lake, {slow['memory']} in memory")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        measure_subjects(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
