"""Bulk export of individual MeasureReports: MB/s, reports/s and peak memory over sizes, next to a bare writer.

``python -m bench.export [--sizes 50000 200000 1000000] [--shapes rate stays]``

A run of so many made-up members is saved in parts, as an evaluation saves it, with its summary. Then the export is
carried out in a process of its own, as a worker does, without HTTP; the bare writer (the limit) writes the same number
of bytes to as many files and does nothing else. A sample of the lines is compared with reports rendered one by one.
Shape ``rate`` is a proportion of two groups with strata and two supplemental data elements; ``stays`` has two episodes
for each member, all listed in the report.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from bench import child

REPORTER = {"reference": "Organization/bench"}
PART = 25_000
_CODE = {"coding": [{"system": "http://loinc.org", "code": "76690-7"}]}
_RACES = [
    orjson.dumps({"valueCodeableConcept": {"coding": [{"system": "urn:oid:2.16.840.1.113883.6.238", "code": code}]}})
    for code in ("1002-5", "2028-9", "2054-5", "2106-3")
]


def main() -> None:
    """Measure all sizes and shapes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--shapes", nargs="+", default=["rate", "stays"])
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        step, folder, shape, size = asked.step
        print(json.dumps(_STEPS[step](Path(folder), shape, int(size))))
        return
    print(f"{platform.machine()}, Python {platform.python_version()}, {' '.join(sys.argv[1:])}")
    print("export: CPU s, MB/s and reports/s of CPU, peak MB of the process (of that before it began)")
    print("shape   reports      MB   CPU s   MB/s  reports/s  wall s  peak MB     | bare CPU s   MB/s  ratio  peak MB")
    for shape in asked.shapes:
        for size in asked.sizes:
            with tempfile.TemporaryDirectory() as folder:
                _row(shape, size, folder)


def _row(shape: str, size: int, folder: str) -> None:
    def step(name: str) -> dict[str, Any]:
        return child.run("bench.export", "--step", name, folder, shape, str(size), one_core=False)

    step("build")
    ours = step("export")
    bare = step("bare")
    megabytes = ours["bytes"] / 1e6
    export = (
        f"{ours['cpu']:7.2f} {megabytes / ours['cpu']:6,.0f} {ours['count'] / ours['cpu']:10,.0f} "
        f"{ours['wall']:7.2f} {ours['peak']:5,} ({ours['base']:,})"
    )
    limit = f"{bare['cpu']:10.2f} {megabytes / bare['cpu']:6,.0f} {ours['cpu'] / bare['cpu']:6.1f} {bare['peak']:8,}"
    print(f"{shape:5} {ours['count']:9,} {megabytes:7,.0f} {export} | {limit}", flush=True)


def _gateway(folder: Path) -> Any:
    from fhir_gateway.config import Settings
    from fhir_gateway.factory import Gateway

    return Gateway(Settings(data_dir=folder / "data"))


def _build(folder: Path, shape: str, size: int) -> dict[str, Any]:
    """Save a run part by part, and its summary."""
    from fhir_gateway.measures import reports

    gateway = _gateway(folder)
    parts = _parts(shape, size)
    header, first = next(parts)
    with gateway.results.writing(header) as writer:
        writer.add(first)
        for _, part in parts:
            writer.add(part)
        run = writer.finish()
    one = next(gateway.results.slices(run, 100))
    gateway.resources.put_many([reports.summary(one, REPORTER) | {"id": run}])
    return {"run": run}


def _export(folder: Path, shape: str, size: int) -> dict[str, Any]:
    """Carry out an export of everybody's reports."""
    from fhir_gateway.jobs.exports.models import Wanted
    from fhir_gateway.jobs.requests import Answer, RequestLog, carry_out, work_of

    work_of("export")  # imported before the clock runs, as in a worker that is up

    gateway = _gateway(folder)
    log = RequestLog(gateway)
    asked = log.accept("bench", "export", Wanted("patient", ("MeasureReport",)).payload(), "http://bench/")
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    wall, cpu = time.perf_counter(), time.process_time()
    state = carry_out(gateway, asked.id, lambda: None)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if state != "done":
        raise SystemExit(f"the export {state}")
    made = log.folder(asked.id)
    answer = Answer.read(made)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    _compare(gateway, made / answer.output[-1].name)
    written = sum((made / one.name).stat().st_size for one in answer.output)
    count = sum(one.count for one in answer.output)
    shutil.rmtree(made)
    (folder / "bytes").write_text(str(written))
    return {"cpu": cpu, "wall": wall, "bytes": written, "count": count, "peak": peak, "base": base}


def _compare(gateway: Any, file: Path) -> None:
    """Some lines with what a read of these reports gives."""
    from fhir_gateway.measures import reports

    (run,) = gateway.results.runs()
    with file.open("rb") as lines:
        found = {one["id"].rpartition("-")[2]: one for one in map(orjson.loads, islice(lines, 100))}
    compared = 0
    for part in gateway.results.slices(run, PART):
        for index, member in enumerate(part.members.to_pylist()):
            if member in found:
                made = reports.individual(part, index, REPORTER)
                if {**made, "id": 0, "meta": 0} != {**found[member], "id": 0, "meta": 0}:
                    raise SystemExit("a line differs from the report")
                compared += 1
    if compared != len(found):
        raise SystemExit("lines of nobody")


def _bare(folder: Path, shape: str, size: int) -> dict[str, Any]:
    """Write as many bytes, in blocks of the same kind, to files."""
    left = int((folder / "bytes").read_text())
    block = memoryview(bytes(range(256)) * 50_000)
    cpu = time.process_time()
    number = 0
    while left:
        with (folder / f"bare-{number}").open("wb") as out:
            for _ in range(20):
                out.write(block[: min(left, len(block))])
                left -= min(left, len(block))
        number += 1
    cpu = time.process_time() - cpu
    return {"cpu": max(cpu, 0.001), "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}


def _parts(shape: str, size: int) -> Iterator[tuple[Any, Any]]:
    """A run's header with each of its parts."""
    from fhir_gateway.measures.model import PartResult, RunHeader

    header = RunHeader(
        url="http://bench.example/Measure/One",
        version="1.0.0",
        name="One",
        title="One",
        period=(date(2025, 1, 1), date(2025, 12, 31)),
        evaluated_at=datetime(2026, 1, 15, tzinfo=UTC),
        engine_version="0",
        package_hash="0" * 64,
        terminology_hash="0" * 64,
        lake_version=1,
    )
    for start in range(0, size, PART):
        count = min(PART, size - start)
        random = np.random.default_rng(start)
        members = pa.array([f"p{number:016x}" for number in range(start, start + count)])
        groups = _stays(random, count) if shape == "stays" else _rates(random, count)
        supplemental = tuple(_supplemental(random, count, number) for number in range(2))
        yield header, PartResult(members, groups, {}, supplemental, (), 0.0)


def _rates(random: np.random.Generator, size: int) -> tuple[Any, ...]:
    from fhir_gateway.measures.model import GroupResult, PopulationResult, StratifierResult

    found = []
    for name in ("one", "two"):
        masks = [np.ones(size, np.bool_), *(random.random(size) < share for share in (0.9, 0.05, 0.6))]
        codes = ("initial-population", "denominator", "denominator-exclusion", "numerator")
        columns = [mask.astype(np.int16) for mask in masks]
        populations = tuple(PopulationResult(code, code, one, one) for code, one in zip(codes, columns, strict=True))
        values = tuple(({"valueString": age},) for age in ("18-44", "45-64", "65+"))
        numbers = {"boolean": random.integers(0, 3, size).astype(np.int32)}
        strata = (StratifierResult("age", _CODE, (), codes, False, values, numbers),)
        found.append(
            GroupResult(name, {"text": name}, "proportion", "increase", "boolean", populations, stratifiers=strata)
        )
    return tuple(found)


def _stays(random: np.random.Generator, size: int) -> tuple[Any, ...]:
    from fhir_gateway.measures.model import Cases, GroupResult, PopulationResult

    member = np.repeat(np.arange(size, dtype=np.int32), 2)
    codes = ("initial-population", "denominator", "numerator")
    masks = {code: random.random(len(member)) < share for code, share in zip(codes, (1.0, 0.9, 0.2), strict=True)}
    ids = random.integers(0, 2**40, len(member)).tolist()
    reference = pa.array([f"Encounter/e{one:012x}" for one in ids])
    populations = []
    for code, mask in masks.items():
        counts = np.bincount(member[mask], minlength=size)
        populations.append(PopulationResult(code, code, counts, counts))
    cases = (Cases("Encounter", member, reference, masks),)
    return (GroupResult("stays", None, "proportion", "decrease", "Encounter", tuple(populations), cases=cases),)


def _supplemental(random: np.random.Generator, size: int, number: int) -> Any:
    from fhir_gateway.measures.model import SupplementalResult

    value = pa.array(_RACES, pa.binary()).cast(pa.string()).take(pa.array(random.integers(0, 4, size)))
    member = np.arange(size, dtype=np.int32)
    return SupplementalResult(f"sde-{number}", "supplemental-data", _CODE, (), member, value)


_STEPS = {"build": _build, "export": _export, "bare": _bare}

if __name__ == "__main__":
    main()
