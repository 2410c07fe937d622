"""What a 1 % change costs when it is pulled incrementally, next to a full pull of the same source.

``python -m bench.incremental --patients 5000`` serves the synthetic EHR from another process, pulls it in full, changes
one resource in a hundred at the source, and pulls with ``--since last``. Printed are CPU seconds of the pulling process
by phase: download, commit, publish. The server's CPU is not ours and not counted.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from bench.main_job import Meter
from fhir_gateway.config import Settings
from fhir_gateway.demo.sources import make_population, register_endpoint
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import PullReport, pull_endpoint
from fhir_gateway.sandbox.server.runner import SandboxServer

SOURCE = "ehr"


@contextmanager
def served(folder: Path) -> Iterator[None]:
    """The source, in a process of its own."""
    arguments = [sys.executable, "-m", "bench.incremental", "--serve", str(folder)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        yield
        process.stdin.close()


def serve(folder: Path) -> None:
    gateway = Gateway(Settings(data_dir=folder / "gateway"))
    endpoint = register_endpoint(gateway, SOURCE)
    keys = {str(endpoint.client_id): gateway.endpoints.public_jwks(SOURCE)}
    port = urlsplit(endpoint.base_url).port or 0
    with SandboxServer(folder / "population" / SOURCE, clients=keys, port=port):
        print("serving", flush=True)
        sys.stdin.read()


def change(folder: Path, every: int) -> int:
    """Edit one resource in `every` at the source; how many."""
    now = datetime.now(UTC).isoformat()
    changed = 0
    for path in sorted((folder / "population" / SOURCE).glob("*.ndjson")):
        lines = path.read_bytes().splitlines()
        for index in range(0, len(lines), every):
            resource = orjson.loads(lines[index])
            resource["meta"] = {**resource.get("meta", {}), "lastUpdated": now}
            resource["language"] = "en"
            lines[index] = orjson.dumps(resource)
            changed += 1
        path.write_bytes(b"\n".join(lines) + b"\n")
    return changed


def pull(gateway: Gateway, since: str | None = None) -> tuple[PullReport, dict[str, float]]:
    """The pull, and its CPU seconds by phase."""
    meter = Meter()
    meter.mark("download")
    report = pull_endpoint(gateway, SOURCE, since=since, progress=lambda told: meter.mark(_phase(told.phase)))
    meter.end()
    spent: dict[str, float] = {}
    for row in meter.rows:
        spent[row["phase"]] = spent.get(row["phase"], 0.0) + row["cpu"]
    return report, spent


def _phase(told: str) -> str:
    return told if told in ("commit", "publish") else "download"


def measure(folder: Path, patients: int, every: int) -> None:
    make_population(folder / "population", patients, 1, 2025, lambda _done: None)
    gateway = Gateway(Settings(data_dir=folder / "gateway"))
    register_endpoint(gateway, SOURCE)
    _ = gateway.lake, gateway.persons, gateway.resources
    with served(folder):
        full, full_cpu = pull(gateway)
    time.sleep(1)
    changed = change(folder, every)
    with served(folder):
        delta, delta_cpu = pull(gateway, "last")
        nothing, nothing_cpu = pull(gateway, "last")
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {patients:,} patients")
    rows = (("full", full, full_cpu), (f"1/{every} changed", delta, delta_cpu), ("same again", nothing, nothing_cpu))
    print(f"{'pull':16}{'lines':>10}{'new':>8}" + "".join(f"{name:>11}" for name in (*full_cpu, "CPU s", "of full")))
    total = sum(full_cpu.values())
    for name, report, cpu in rows:
        lines = sum(entry.lines_read for entry in report.ledger.entries)
        new = sum(entry.rows_stored + entry.rows_replaced for entry in report.ledger.entries)
        spent = sum(cpu.values())
        phases = "".join(f"{cpu.get(phase, 0.0):11.2f}" for phase in full_cpu)
        print(f"{name:16}{lines:10,}{new:8,}{phases}{spent:11.2f}{spent / total:11.1%}")
    assert sum(entry.rows_replaced for entry in delta.ledger.entries) == changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=5000)
    parser.add_argument("--every", type=int, default=100, help="one resource in so many changes")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), asked.patients, asked.every)


if __name__ == "__main__":
    main()
