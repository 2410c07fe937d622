"""How fast a folder of FHIR files becomes a lake, next to merely parsing the same bytes.

``python bench/ingest.py FOLDER`` prints seconds, CPU seconds, MB/s and resources/s per core (per CPU second) of

- ``orjson.loads`` of every line, nothing else (the floor of anything that looks at every resource in Python);
- reading and checking every line (the first half of a commit);
- the whole commit into a new lake: checked, typed, written and committed;
- the same files again under another pull id: everything unchanged.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from fhir_gateway.lake.lines import read_lines
from fhir_gateway.lake.store import Lake
from fhir_gateway.lake.validate import Shapes, check, collector_off
from fhir_gateway.sources.files import stage_files
from fhir_gateway.sources.models import StagedPull


class EveryoneIsOneself:
    """Persons by source and patient id: costs nothing worth measuring."""

    def assign(self, source: str, patients: pa.Table) -> pa.Array:
        return self.lookup(source, patients["id"])

    def lookup(self, source: str, patient_ids: pa.Array) -> pa.Array:
        texts = (f"{source}/{patient}".encode() for patient in patient_ids.to_pylist())
        return pa.array(["p" + hashlib.blake2b(text, digest_size=8).hexdigest() for text in texts], pa.string())


def timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def parse_only(pull: StagedPull) -> None:
    with collector_off():
        for file in pull.files:
            for batch in read_lines(file):
                for line in batch.lines:
                    orjson.loads(line)


def check_only(pull: StagedPull) -> None:
    shapes = Shapes()
    with collector_off():
        for file in pull.files:
            for batch in read_lines(file):
                check(batch.lines, batch.numbers, file.resource_type, file.name, shapes)


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        pull = stage_files([folder], "bench", Path(scratch) / "split")
        batches = [batch for file in pull.files for batch in read_lines(file)]
        resources = sum(len(batch.lines) for batch in batches)
        size = sum(len(line) for batch in batches for line in batch.lines) / 1e6
        del batches
        lake = Lake.open(Path(scratch) / "lake")
        people = EveryoneIsOneself()
        runs = {
            "orjson.loads": timed(lambda: parse_only(pull)),
            "read and check": timed(lambda: check_only(pull)),
            "commit": timed(lambda: lake.commit(pull, people)),
            "commit again, unchanged": timed(lambda: lake.commit(replace(pull, id="again"), people)),
        }
        stored = sum(file.stat().st_size for file in lake.root.rglob("*.parquet")) / 1e6
    floor = runs["orjson.loads"][1]
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    title = f"{resources:,} resources, {size:,.0f} MB of JSON, {stored:,.0f} MB stored; {machine}"
    table = Table(title=title)
    for heading in ("", "s", "CPU s", "MB/s/core", "resources/s/core", "CPU, times parsing"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, (wall, cpu) in runs.items():
        table.add_row(
            name, f"{wall:.2f}", f"{cpu:.2f}", f"{size / cpu:,.0f}", f"{resources / cpu:,.0f}", f"{cpu / floor:.1f}"
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
