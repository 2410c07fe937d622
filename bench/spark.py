"""Evaluation by Spark next to this machine's own processes: the same bytes, and what Spark costs.

``python -m bench.spark [--patients 20000] [--batch 2500] [--keep FOLDER]`` (needs ``make test-spark`` once)

All our measures over a synthetic population, in batches of so many members: by one process and by two, by Spark in
local-cluster mode with one executor and with two, of one core each. Each way runs in a process of its own. Printed are
seconds until work can be given out and of the evaluation, each with CPU seconds of all processes, Java's too. The
files of all results are compared byte for byte, and a difference fails the run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from datetime import UTC, date, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
NOW = datetime(2026, 1, 15, tzinfo=UTC)
WAYS = {"here, 1 process": ("here", 1), "here, 2 processes": ("here", 2)} | {
    f"Spark, {count} executor{'s' * (count > 1)}": ("spark", count) for count in (1, 2)
}


def make(folder: Path, patients: int) -> None:
    """A lake of a synthetic population."""
    from fhir_gateway.config import Settings
    from fhir_gateway.demo.sources import make_population
    from fhir_gateway.factory import Gateway
    from fhir_gateway.sources.models import StagedFile, StagedPull

    make_population(folder / "population", patients, 1, 2025, lambda _done: None)
    gateway = Gateway(Settings(data_dir=folder / "gateway"))
    files = sorted((folder / "population" / "ehr").glob("*.ndjson"))
    staged = tuple(StagedFile(one, one.name, None, None) for one in files)
    gateway.lake.commit(StagedPull("all", "ehr", "files", None, staged), gateway.persons)
    shutil.rmtree(folder / "population")


def evaluate(folder: Path, kind: str, count: int, batch: int) -> dict[str, Any]:
    """In a process of its own."""
    from fhir_gateway.config import Settings
    from fhir_gateway.factory import Gateway
    from fhir_gateway.measures import Evaluator, LakePopulation, MeasurePackage, ResultStore
    from fhir_gateway.measures.run import evaluate_lake
    from fhir_gateway.spark.cluster import SparkCluster
    from fhir_gateway.spark.session import spark_context

    gateway = Gateway(Settings(data_dir=folder / "gateway"))
    evaluators = [Evaluator(MeasurePackage.load(path)) for path in gateway.measure_packages()]
    batches = len(LakePopulation(gateway.lake, batch_members=batch).slices())
    begun = time.perf_counter()
    with spark_context(f"local-cluster[{count},1,1024]") if kind == "spark" else nullcontext() as context:
        cluster = SparkCluster(context) if context is not None else None
        if cluster is not None:
            list(cluster.each(attrgetter, "real", list(range(2 * count)), "start"))
        ready, used = time.perf_counter(), sum(map(_cpu, _tree(os.getpid())))
        runs = evaluate_lake(
            evaluators,
            gateway.lake,
            PERIOD,
            NOW,
            ResultStore(folder / f"{kind}-{count}"),
            processes=count,
            batch_members=batch,
            cluster=cluster,
        )
        done = time.perf_counter()
    return {"start": ready - begun, "evaluate": done - ready, "before": used, "runs": runs, "batches": batches}


def saved(folder: Path, run: str) -> dict[str, bytes]:
    """All files of a run, without how long it took."""
    found = {path.name: path.read_bytes() for path in folder.rglob(f"{run}/*")}
    header = json.loads(found.get("header.json", b"{}"))
    return {**found, "header.json": json.dumps({**header, "seconds": 0}).encode()}


def timed(arguments: list[str]) -> dict[str, Any]:
    """Run a way; its words, and the CPU of it and all below it, looked at five times a second (Linux)."""
    used: dict[int, float] = {}
    ended = threading.Event()
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "bench.spark", "--way", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:

        def watch() -> None:
            while not ended.wait(0.2):
                for one in _tree(process.pid):
                    used[one] = max(used.get(one, 0.0), _cpu(one))

        watching = threading.Thread(target=watch)
        watching.start()
        output, _ = process.communicate()
        ended.set()
        watching.join()
    if process.returncode:
        raise SystemExit(f"{arguments}: ended with {process.returncode}")
    return {**json.loads(output.strip().splitlines()[-1]), "cpu": sum(used.values()), "processes": len(used)}


def _tree(pid: int) -> list[int]:
    """A process and all below it; Python starts Java from a thread, whose children count too."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        below = [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # ended meanwhile
        return [pid]
    return [pid, *(other for child in below for other in _tree(int(child)))]


def _cpu(pid: int) -> float:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Make the lake, evaluate each way, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=2500)
    parser.add_argument("--keep", type=Path, help="folder of the lake: made when absent, kept for another run")
    parser.add_argument("--way", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        folder, kind, count, batch = options.way
        print(json.dumps(evaluate(Path(folder), kind, int(count), int(batch))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        if not (folder / "gateway").exists():
            make(folder, options.patients)
        found = {}
        for name, (kind, count) in WAYS.items():
            shutil.rmtree(folder / f"{kind}-{count}", ignore_errors=True)
            found[name] = timed([str(folder), kind, str(count), str(options.batch)])
        first = found["here, 1 process"]
        machine = platform.processor() or platform.machine()
        print(
            f"{machine}, {os.cpu_count()} cores, Python {platform.python_version()}; {options.patients:,} patients in "
            f"{first['batches']} batches, {len(first['runs'])} measures"
        )
        print(f"{'':20}{'start s':>9}{'CPU s':>8}{'evaluate s':>12}{'CPU s':>8}{'over one process':>18}  same bytes")
        different = []
        for name, (kind, count) in WAYS.items():
            row = found[name]
            same = row["runs"] == first["runs"] and all(
                saved(folder / f"{kind}-{count}", run) == saved(folder / "here-1", run) for run in first["runs"]
            )
            different += [] if same else [name]
            used, least = (one["cpu"] - one["before"] for one in (row, first))
            told = f"{name:20}{row['start']:9.1f}{row['before']:8.1f}{row['evaluate']:12.1f}{used:8.1f}"
            print(f"{told}{used - least:+11.1f} ({used / least - 1:+4.0%})  {'yes' if same else 'NO'}")
        if different:
            raise SystemExit(f"other results: {different}")


if __name__ == "__main__":
    main()
