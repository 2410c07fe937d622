"""The main job at the size of a population: wall time, CPU time and peak memory of each step.

    python -m bench.main_job [--patients 20000] [--buckets 2] [--folder FOLDER] [--profile] [--only STEP ...]

The steps are those of the demo (``python -m fhir_gateway.demo``). Each runs in a process of its own, so that its peak
memory is its own; the sandboxes that are pulled from run in another one and are not counted. A pull is three steps:
download, commit (validate, match persons, write), publish (serve Patients, providers and coverages). ``--profile``
also writes ``FOLDER/profiles/STEP.prof`` (cProfile of the main thread, which slows the step down). ``--only`` takes
steps that came before from the folder of an earlier run.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

#: Steps in their order; ``attribute`` and ``settle`` run once per contract of the demo, the evaluation once for all.
STEPS = (
    *("generate", "pull-ehr", "pull-payer", "match", "attribute-0", "attribute-1"),
    *("evaluate", "settle-0", "settle-1"),
)


class Meter:
    """Wall, CPU and peak memory between marks."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._begin("")

    def mark(self, phase: str) -> None:
        """From here on it is ``phase``; nothing happens when it was already."""
        if phase != self._phase:
            self.end()
            self._begin(phase)

    def end(self) -> None:
        """Write down the phase that ends here; one without a name is not kept."""
        if self._phase:
            self.rows.append(
                {
                    "phase": self._phase,
                    "wall": time.perf_counter() - self._wall,
                    "cpu": time.process_time() - self._cpu,
                    "peak_mb": _peak_mb(),
                }
            )

    def _begin(self, phase: str) -> None:
        _reset_peak()
        self._phase, self._wall, self._cpu = phase, time.perf_counter(), time.process_time()


def _reset_peak() -> None:
    """Let the kernel measure peak memory anew (Linux); elsewhere it stays that of the whole process."""
    marks = Path("/proc/self/clear_refs")
    if marks.exists():
        marks.write_text("5")


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run_step(step: str, patients: int, buckets: int, folder: Path, profiled: bool) -> None:
    """Child process: one step; prints its phases as one JSON line."""
    from fhir_gateway.config import Settings
    from fhir_gateway.demo import sources, tour
    from fhir_gateway.factory import Gateway
    from fhir_gateway.jobs.attribute import attribute
    from fhir_gateway.jobs.evaluate import evaluate
    from fhir_gateway.jobs.pull import pull_endpoint
    from fhir_gateway.jobs.settle import settle

    options = tour.Options(folder=folder, patients=patients)
    gateway = Gateway(Settings(data_dir=folder / "gateway", lake_buckets=buckets))
    population = folder / "population"
    if step == "serve":
        with sources.Sandboxes(gateway, population):
            print("serving", flush=True)
            sys.stdin.read()
        return
    _ = gateway.engine, gateway.lake  # opening them is no part of any step
    name, _, which = step.partition("-")

    def pull(meter: Meter) -> dict[str, object]:
        meter.mark("download")
        later = ("commit", "publish")
        report = pull_endpoint(
            gateway, which, progress=lambda told: meter.mark(told.phase if told.phase in later else "download")
        )
        return {"lines": sum(entry.lines_read for entry in report.ledger.entries), "published": dict(report.published)}

    def contract() -> str:
        return str(tour.CONTRACTS[int(which)])

    work: dict[str, Callable[[Meter], object]] = {
        "generate": lambda _: sources.make_population(
            population, patients, options.seed, options.year, lambda _done: None
        )[0]["counts"],
        "pull": pull,
        "match": lambda _: tour.count_persons(gateway),
        "attribute": lambda _: len(attribute(gateway, contract(), now=options.as_of).members),
        "evaluate": lambda meter: [
            report.run
            for report in evaluate(
                gateway,
                (),
                options.period,
                now=options.as_of,
                progress=lambda told: meter.mark(f"{told.phase} {told.message if told.phase == 'evaluate' else ''}"),
            )
        ],
        "settle": lambda _: str(settle(gateway, contract(), now=options.as_of).settlement.total),
    }
    meter, profile = Meter(), cProfile.Profile()
    meter.mark("all")
    with profile if profiled else nullcontext():
        outcome = work[name](meter)
    meter.end()
    if profiled:
        (folder / "profiles").mkdir(exist_ok=True)
        profile.dump_stats(folder / "profiles" / f"{step}.prof")
    print(json.dumps({"step": step, "phases": meter.rows, "outcome": outcome}, default=str))


@contextmanager
def serving(command: list[str]) -> Iterator[None]:
    """The sandboxes in a process of their own."""
    with subprocess.Popen([*command, "--step", "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        if server.stdout.readline() != b"serving\n":
            raise SystemExit("the sandboxes did not start")
        try:
            yield
        finally:
            assert server.stdin is not None
            server.stdin.close()


def measure(command: list[str], step: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run a step and yield (name, row) of each of its phases."""
    with serving(command) if step.startswith("pull") else nullcontext():
        done = subprocess.run([*command, "--step", step], stdout=subprocess.PIPE, check=True)
    told = json.loads(done.stdout)
    print(f"  {step}: {str(told['outcome'])[:160]}", file=sys.stderr)
    rows = [row for row in told["phases"] if row["phase"] != "all" or len(told["phases"]) == 1]
    for row in rows:
        yield (step if row["phase"] == "all" else f"{step}: {row['phase'].strip()}"), row


def main() -> None:
    """Parent: run the steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=20_000)
    parser.add_argument("--buckets", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="kept afterwards; default: a temporary one")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run_step(options.step, options.patients, options.buckets, options.folder, options.profile)
        return
    with nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory() as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "bench.main_job", "--folder", str(folder)]
        command += ["--patients", str(options.patients), "--buckets", str(options.buckets)]
        command += ["--profile"] if options.profile else []
        print(f"{options.patients:,} patients, {options.buckets} buckets; {os.cpu_count()} cores, {platform.machine()}")
        print(f"{'step':<56}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}")
        wall = cpu = 0.0
        for step in options.only:
            for name, row in measure(command, step):
                print(f"{name:<56}{row['wall']:9.1f}{row['cpu']:9.1f}{row['peak_mb']:9.0f}", flush=True)
                wall, cpu = wall + row["wall"], cpu + row["cpu"]
        print(f"{'all':<56}{wall:9.1f}{cpu:9.1f}")


if __name__ == "__main__":
    main()
