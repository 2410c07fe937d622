"""How fast the synthetic population is written: persons per second on one core, and peak memory.

    python bench/population.py [PATIENTS]        # default 100000; writes to a temporary folder and removes it

One core: numpy is single-threaded here and Arrow is held to one thread.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from fhir_gateway.sandbox.population import generate


def main(patients: int) -> None:
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    folder = Path(tempfile.mkdtemp(prefix="population-"))
    try:
        started, cpu = time.perf_counter(), time.process_time()
        summary = generate(folder / "out", patients=patients, seed=7, year=2025)
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{patients:,} persons, {summary.resources:,} resources, {size / 1e9:.2f} GB: "
        f"{wall:.1f} s wall, {cpu:.1f} s CPU, {patients / wall:,.0f} persons/s, peak memory {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
