"""How fast folders of FHIR files become a lake, next to merely parsing the same bytes, and in how much memory.

    python -m bench.ingest [FOLDER] [--patients 4000] [--memory 1000] [--steps 1 4 16 60] [--peer 2000] [--times 3]

measures the sandbox population (``--patients`` persons) and, when it is there, a public Synthea population (FOLDER, by
default ``../shared/data/synthea/generated-sample-data-r4`` beside the checkout). Rows are CPU seconds of one process,
the least of ``--times`` runs:

- ``orjson.loads`` of every line, nothing else: the limit of anything that looks at every resource in Python;
- ``fhir.resources`` validation of every nth line, ``--peer`` in all, scaled to all of them by their bytes: the peer. A
  type is among them as often as among all; its models were made before the clock runs, and its codes are not looked up;
- checked: every line read and fully validated, what a commit does first;
- checked into columns: the same, and every resource typed into Arrow columns;
- the commit into a new lake: checked, typed, sorted by member, compressed, written and committed;
- the same files again under another pull id: everything is unchanged;
- a pull of one resource in a hundred, changed.

Memory: the sandbox populations of ``--memory`` persons, and of 4, 16 and 60 times as many (``--steps``), committed into
a new lake; then the same again, then with half of it changed, then one resource in a hundred of it changed. Each commit
is a process of its own; printed is the most memory that process ever had, and how much more of it more input takes.
Alone: ``--patients 0``. The largest needs some 20 GB of disk where temporary files are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from fhir_gateway.lake.lines import BLOCK_BYTES, read_blocks
from fhir_gateway.lake.scan import Scanned, Scanner
from fhir_gateway.lake.store import Lake
from fhir_gateway.lake.texts import Texts
from fhir_gateway.lake.typed import PIECE_BYTES, typed_rows
from fhir_gateway.r4 import models
from fhir_gateway.sandbox.population import generate
from fhir_gateway.sources.files import stage_files
from fhir_gateway.sources.models import StagedFile, StagedPull

_SYNTHEA = Path(__file__).parents[2] / "shared/data/synthea/generated-sample-data-r4"


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


def least(times: int, work: Callable[[], object]) -> tuple[float, float]:
    """The run that took the least CPU: others' work on the machine only adds to it."""
    return min((timed(work) for _ in range(times)), key=lambda run: run[1])


def lines_of(pull: StagedPull) -> Iterator[bytes]:
    for file in pull.files:
        for block in read_blocks(file):
            yield from block.text.split(b"\n")[:-1]


def parse_only(pull: StagedPull) -> None:
    for line in lines_of(pull):
        orjson.loads(line)


def peer_only(lines: list[bytes]) -> None:
    for line in lines:
        resource = orjson.loads(line)
        models.model_class(resource["resourceType"]).model_validate(resource)


def scanned(pull: StagedPull, scanner: Scanner, texts: Texts | None = None) -> Iterator[Scanned]:
    order = 0
    for file in pull.files:
        for block in read_blocks(file):
            found = scanner.scan(block, file.resource_type, file.name, order, texts)
            order += found.places
            yield found


def check_only(pull: StagedPull) -> None:
    refused = sum(len(found.refused) for found in scanned(pull, Scanner()))
    assert refused == 0


def into_columns(pull: StagedPull) -> None:
    """As a commit does: text laid down, and columns made of as many rows of a type as are written together."""
    scanner = Scanner()
    waiting: dict[str, list[pa.RecordBatch]] = defaultdict(list)
    size: dict[str, int] = defaultdict(int)
    with duckdb.connect() as connection, Texts() as texts:

        def make(name: str) -> None:
            rows = pa.Table.from_batches(waiting.pop(name))
            pieces = typed_rows(connection, scanner.grammar, name, texts, rows, scanner.shape(name))
            deque(pieces, maxlen=0)  # keeps none of them

        for found in scanned(pull, scanner, texts):
            for name, batch in found.rows:
                waiting[name].append(batch)
                size[name] += int(batch["_size"].to_numpy().sum())
                if size[name] > PIECE_BYTES - BLOCK_BYTES:  # else a piece and a little one
                    make(name)
                    size[name] = 0
        for name in list(waiting):
            make(name)


def changed(pull: StagedPull, path: Path, every: int, *, rest: bool = False) -> StagedPull:
    """One resource in `every`, changed; the `rest` as it was, or left out."""
    with path.open("wb") as out:
        for number, line in enumerate(lines_of(pull)):
            if number % every == 0:
                out.write(orjson.dumps({**orjson.loads(line), "language": "en"}) + b"\n")
            elif rest:
                out.write(line + b"\n")
    return StagedPull("changed", pull.source, "files", None, (StagedFile(path, path.name),))


def measure(title: str, folders: list[Path], peer: int, times: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        pull = stage_files(folders, "bench", Path(scratch) / "split")
        count, size = 0, 0
        for line in lines_of(pull):
            count += 1
            size += len(line) + 1
        sample = [line for number, line in enumerate(lines_of(pull)) if number % -(-count // peer) == 0]
        scale = size / sum(len(line) + 1 for line in sample)
        peer_only(sample)  # makes the models
        people = EveryoneIsOneself()
        check_only(pull)  # the first use of compiled code loads it
        into_columns(changed(pull, Path(scratch) / "few.ndjson", 500))
        few = changed(pull, Path(scratch) / "changed.ndjson", 100)
        lakes = [Lake.open(Path(scratch) / f"lake-{number}") for number in range(times)]
        runs = {"orjson.loads": least(times, lambda: parse_only(pull))}
        wall, cpu = least(times, lambda: peer_only(sample))
        runs[f"fhir.resources, from {len(sample):,} of them"] = (wall * scale, cpu * scale)
        runs["checked"] = least(times, lambda: check_only(pull))
        runs["checked into columns"] = least(times, lambda: into_columns(pull))
        fresh = iter(lakes)
        runs["commit"] = least(times, lambda: next(fresh).commit(pull, people))
        stored = sum(file.stat().st_size for file in (Path(scratch) / "lake-0").rglob("*.parquet")) / 1e6
        fresh = iter(lakes)
        again = replace(pull, id="again")
        runs["commit again, all unchanged"] = least(times, lambda: next(fresh).commit(again, people))
        fresh = iter(lakes)
        runs["commit of 1 % changed"] = least(times, lambda: next(fresh).commit(few, people))
    limit = runs["orjson.loads"][1]
    slowest = runs[f"fhir.resources, from {len(sample):,} of them"][1]
    headline = f"{title}: {count:,} resources, {size / 1e6:,.0f} MB of JSON, {stored:,.0f} MB stored"
    table = Table(title=headline)
    for heading in (
        "",
        "s",
        "CPU s",
        "MB/s/core",
        "resources/s/core",
        "CPU, times orjson",
        "times fhir.resources' speed",
    ):
        table.add_column(heading, justify="right" if heading else "left")
    for name, (wall, cpu) in runs.items():
        table.add_row(
            name,
            f"{wall:.2f}",
            f"{cpu:.2f}",
            f"{size / 1e6 / cpu:,.0f}",
            f"{count / cpu:,.0f}",
            f"{cpu / limit:.2f}",
            f"{slowest / cpu:,.1f}",
        )
    Console(width=140).print(table)


def sandbox_folders(population: Path) -> list[Path]:
    """The files of both sources, without what the generator says about them."""
    return [population / "ehr", population / "payer"]


#: What is committed after another: of how many resources one is changed (0: none), and whether the rest comes as well.
_COMMITS = {"first": (0, True), "all again": (0, True), "half changed": (2, True), "1 % changed": (100, False)}


def commit_once(lake: Path, name: str, files: list[Path]) -> dict[str, Any]:
    """In a process of its own: the commit of files, and the most memory that took."""
    pull = StagedPull(name, "bench", "files", None, tuple(StagedFile(path, path.name) for path in files))
    ledger = Lake.open(lake).commit(pull, EveryoneIsOneself())
    new = sum(entry.rows_stored + entry.rows_replaced for entry in ledger.entries)
    return {"rows": sum(entry.lines_read for entry in ledger.entries), "new": new, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """The most memory this program ever had; Linux counts in ru_maxrss what its process had before it."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def committed(persons: int) -> tuple[float, dict[str, dict[str, Any]]]:
    """The MB of a sandbox population, and what :func:`commit_once` says of each of ``_COMMITS``."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        population = Path(scratch) / "population"
        generate(population, patients=persons, seed=7, year=2025)
        pull = stage_files(sandbox_folders(population), "bench", Path(scratch) / "split")
        size = sum(file.path.stat().st_size for file in pull.files) / 1e6
        for name, (every, rest) in _COMMITS.items():
            path = Path(scratch) / "changed.ndjson"
            files = changed(pull, path, every, rest=rest).files if every else pull.files
            command = [sys.executable, "-m", "bench.ingest", "--once", str(Path(scratch) / "lake"), name]
            done = subprocess.run([*command, *(str(file.path) for file in files)], check=True, capture_output=True)
            found[name] = json.loads(done.stdout)
    return size, found


def measure_memory(persons: int, steps: list[int]) -> None:
    committed(10)  # compiles the walk, where nobody has: that takes memory as well
    table = Table(title="Peak memory of a commit, MB (and times that of the first row)")
    for heading in ("persons", "resources", "MB of JSON", "times the first", *_COMMITS):
        table.add_column(heading, justify="right")
    first = None
    for times in steps:
        size, found = committed(persons * times)
        first = first or (size, found)
        table.add_row(
            f"{persons * times:,}",
            f"{found['first']['rows']:,}",
            f"{size:,.0f}",
            f"{size / first[0]:.1f}",
            *(f"{of['peak_mb']:,.0f} ({of['peak_mb'] / first[1][name]['peak_mb']:.2f})" for name, of in found.items()),
        )
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=_SYNTHEA)
    parser.add_argument("--patients", type=int, default=4000)
    parser.add_argument("--memory", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 16, 60])
    parser.add_argument("--peer", type=int, default=2000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--once", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        lake, name, *files = options.once
        print(json.dumps(commit_once(Path(lake), name, [Path(file) for file in files])))
        return
    cores = f"{os.cpu_count()} cores, {platform.machine()}, {time.strftime('%Y-%m-%d', time.gmtime())}"
    print(f"python -m bench.ingest --patients {options.patients} --memory {options.memory} ({cores})\n")
    if options.patients:
        with tempfile.TemporaryDirectory() as scratch:
            generate(Path(scratch), patients=options.patients, seed=7, year=2025)
            measure("Sandbox population", sandbox_folders(Path(scratch)), options.peer, options.times)
        if options.folder.is_dir():
            measure("Synthea", [options.folder], options.peer, options.times)
    if options.memory:
        measure_memory(options.memory, options.steps)


if __name__ == "__main__":
    main()
