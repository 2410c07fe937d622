"""An export of very many files of one line each: ``python -m tests.support.tiny_files --files 20000``.

Of the requests for files 5 % are answered with 429 and 1 % with 502, as busy servers do it. Printed are wall and CPU
time per file, the most file descriptors that were open at once, and how far memory grew. The server is in this process
too, so all of it counts twice over.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_endpoint
from fhir_gateway.sources.endpoint import Endpoint
from tests.support.misbehaving import Fault, MisbehavingSource, patients, running


@dataclass(frozen=True, slots=True)
class Told:
    """What a pull of tiny files took; ``descriptors`` is None where the system does not list them."""

    files: int
    rows: int
    persons: int
    wall: float
    cpu: float
    descriptors: int | None
    grown_mb: float
    faults: int


def pull_tiny_files(folder: Path, count: int) -> Told:
    """Pull, commit and publish ``count`` files of a patient each, from a server in this process."""
    source = MisbehavingSource()
    source.files = {f"Patient-{number}": patients(1, number) for number in range(count)}
    too_much, stray = Fault(429, {"Retry-After": "0"}), Fault(502, {"Retry-After": "0"})
    source.fault_every["file"], source.faults["file"] = 17, [*[too_much] * 5, stray] * (count // 100)
    gateway = Gateway(Settings(data_dir=folder / "data", lake_buckets=2))
    open_now = Path("/proc/self/fd")
    most, over = 0, threading.Event()
    held = len(os.listdir(open_now)) if open_now.is_dir() else 0  # by this process, which did other things before

    def watch() -> None:
        nonlocal most
        while not over.wait(0.02):
            most = max(most, len(os.listdir(open_now)))

    with running(source) as root:
        source.base = f"{root}/fhir"
        gateway.endpoints.add(Endpoint("ehr", source.base, client_id="us"))
        source.jwks = gateway.endpoints.public_jwks()
        watching = threading.Thread(target=watch, daemon=True)
        if open_now.is_dir():
            watching.start()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, cpu = time.perf_counter(), time.process_time()
        report = pull_endpoint(gateway, "ehr", mode="bulk")
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        over.set()
    assert report.ledger.balanced
    assert report.complete
    assert source.kickoffs == 1
    faults = len(source.requests("file")) - count
    assert faults >= count * 6 // 102  # every seventeenth
    assert not list(gateway.staging_folder.iterdir())
    (entry,) = report.ledger.entries
    gateway.engine.dispose()
    descriptors = max(most - held, 0) if open_now.is_dir() else None
    return Told(count, entry.rows_stored, report.persons, wall, cpu, descriptors, grown, faults)


def main() -> None:
    """Pull once and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = pull_tiny_files(Path(folder), asked.files)
    print(
        f"{told.files:,} files, {told.rows:,} rows stored, {told.persons:,} persons, {told.faults:,} faults: "
        f"{told.wall:.1f} s, "
        f"{told.wall / told.files * 1000:.2f} ms wall and {told.cpu / told.files * 1000:.2f} ms CPU per file; "
        f"at most {told.descriptors} descriptors, memory grew by {told.grown_mb:.0f} MB"
    )


if __name__ == "__main__":
    main()
