"""All published measures over one population, in one run and one at a time.

``python -m bench.many_measures [--patients 10000] [--processes 1] [--data ../shared/data/ecqm/dqm2025]``

The population is mixed: the cases of all measures in turn, replicated under new ids, so every measure has patients of
its own and those of all others. Compilation is told apart: both ways need it once. Results are compared file by file.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from bench import child
from bench.measures import ingest, read_cases, replicate

NOW = datetime(2026, 12, 31, tzinfo=UTC)
PERIOD = (date(2026, 1, 1), date(2026, 12, 31))


def packages(data: Path) -> list[Path]:
    """Folders of the published measures."""
    return sorted(path for path in data.iterdir() if path.is_dir())


def stage(data: Path, patients: int, folder: Path) -> int:
    """Write the population: one case of each measure, then the next of each, and again from the start."""
    rounds = zip_longest(*(read_cases(path) for path in packages(data)))
    return replicate([case for case in chain.from_iterable(rounds) if case is not None], patients, folder)


def evaluate(data: Path, lake_folder: Path, store: Path, together: bool, processes: int) -> None:
    """Child process: compile all, then evaluate them in one run or one after the other."""
    import pyarrow as pa

    from fhir_gateway.lake.store import Lake
    from fhir_gateway.measures import Evaluator, MeasurePackage, ResultStore
    from fhir_gateway.measures.run import evaluate_lake

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    cpu = time.process_time()
    evaluators = [Evaluator(MeasurePackage.load(path)) for path in packages(data)]
    compiled = time.process_time() - cpu
    lake, results = Lake.open(str(lake_folder)), ResultStore(store)
    wall, cpu = time.perf_counter(), time.process_time()
    batches = [evaluators] if together else [[evaluator] for evaluator in evaluators]
    for batch in batches:
        evaluate_lake(batch, lake, PERIOD, NOW, results, processes=processes)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        json.dumps(
            {
                "measures": len(evaluators),
                "compile": compiled,
                "wall": time.perf_counter() - wall,
                "cpu": time.process_time() - cpu + children.ru_utime + children.ru_stime,
            }
        )
    )


def files(store: Path) -> dict[str, bytes]:
    """All files of a store of results, without how long they took."""
    found = {}
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(json.loads(content) | {"seconds": 0}).encode()
        found[str(path.relative_to(store))] = content
    return found


def main() -> None:
    """Parent: print what both ways took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data/ecqm/dqm2025")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data}: no published measures here; name their folder with --data")
    with tempfile.TemporaryDirectory() as scratch:
        source, lake = Path(scratch) / "source", Path(scratch) / "lake"
        source.mkdir()
        resources = stage(options.data, options.patients, source)
        child.run("bench.many_measures", "--ingest", str(source), str(lake))
        rows: list[tuple[str, dict[str, Any]]] = []
        for name, together in (("one at a time", "no"), ("in one run", "yes")):
            store = Path(scratch) / f"together-{together}"
            arguments = (str(options.data), str(lake), str(store), together, str(options.processes))
            step = child.run("bench.many_measures", "--evaluate", *arguments, one_core=options.processes == 1)
            rows.append((name, step))
        same = files(Path(scratch) / "together-no") == files(Path(scratch) / "together-yes")
    machine = platform.processor() or platform.machine()
    measures = rows[0][1]["measures"]
    print(f"{machine}, Python {platform.python_version()}, processes {options.processes}")
    print(f"{measures} measures, {options.patients} patients, {resources} resources")
    print("way | evaluate CPU s | evaluate s | compile CPU s | peak MB")
    for name, row in rows:
        cells: Sequence[Any] = (name, *(f"{row[key]:.1f}" for key in ("cpu", "wall", "compile")), row["tree_mb"])
        print(" | ".join(map(str, cells)))
    print(f"one run takes {rows[1][1]['cpu'] / rows[0][1]['cpu']:.0%} of the CPU of the single runs; results", end=" ")
    print("are the same to the byte" if same else "DIFFER")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ingest"]:
        ingest(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["--evaluate"]:
        evaluate(*map(Path, sys.argv[2:5]), sys.argv[5] == "yes", int(sys.argv[6]))
    else:
        main()
