"""Measures over populations of published test cases replicated under new ids.

``python -m bench.measures [MEASURE ...] [--patients 100000] [--data ../shared/data/ecqm/dqm2025]``

Three things are measured apart, each in its own process: ingest (NDJSON to the lake, full validation), and load (lake
columns to memory) and evaluation (ELM over columns) of one core, with patients per CPU-second and peak memory; then the
whole run by all cores. Where Node.js and npm are found, the reference engine (npm ``fqm-execution``) runs over
``--peer-patients`` of the same patients in the same run; its time includes neither start-up nor the reading of files,
and it leaves supplemental data out, so they are left out here too; what they add is said beside. For CMS122 a
hand-written SQL query (``cms122.sql``) runs over the same files. Counts that differ from the published ones or from the
query's fail the run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ONE_CORE = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
NOW = datetime(2026, 12, 31, tzinfo=UTC)
#: The JavaScript reference engine of the field, measured in the same run on some of the same patients.
PEER = "fqm-execution@1.8.6"
PEER_FOLDER = Path(__file__).resolve().parent.parent / ".bench"


def read_cases(folder: Path) -> list[dict[str, Any]]:
    """Published cases of a measure."""
    with gzip.open(folder / "cases.ndjson.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def replicate(cases: Sequence[dict[str, Any]], patients: int, folder: Path, prefix: str = "c") -> int:
    """Write ``patients`` copies of the cases in turn, one NDJSON file per type; every id gets the copy's number."""
    texts = []
    for case in cases:
        ids = sorted({r["id"] for r in case["resources"]}, key=len, reverse=True)
        patient = next(r["id"] for r in case["resources"] if r["resourceType"] == "Patient")
        # some published cases refer to a patient of another case; here as there, a case is about its own patient
        texts.append(
            (
                ids,
                [
                    (
                        r["resourceType"],
                        re.sub(r'"Patient/[^"]+"', f'"Patient/{patient}"', json.dumps(r, separators=(",", ":"))),
                    )
                    for r in case["resources"]
                ],
            )
        )
    files: dict[str, Any] = {}
    written = 0
    for number in range(patients):
        ids, resources = texts[number % len(texts)]
        for kind, text in resources:
            for own in ids:
                text = text.replace(f'"id":"{own}"', f'"id":"{prefix}{number}-{own[:40]}"')
                text = text.replace(f'/{own}"', f'/{prefix}{number}-{own[:40]}"')
            if kind not in files:
                files[kind] = (folder / f"{kind}.ndjson").open("w", encoding="utf-8")
            files[kind].write(text + "\n")
            written += 1
    for file in files.values():
        file.close()
    return written


class EachPatientAPerson:
    """Persons of a single source: every patient is one."""

    def assign(self, source: str, patients: Any) -> Any:
        """The patient's own id."""
        return patients["id"].combine_chunks() if hasattr(patients["id"], "combine_chunks") else patients["id"]

    def lookup(self, source: str, patient_ids: Any) -> Any:
        """The patient's own id."""
        return patient_ids


def ingest(folder: Path, lake_folder: Path) -> None:
    """Child process: NDJSON to the lake."""
    from fhir_gateway.lake.store import Lake
    from fhir_gateway.sources.models import StagedFile, StagedPull

    lake = Lake.open(str(lake_folder), buckets=8)
    files = tuple(StagedFile(path, path.name, path.stem, None) for path in sorted(folder.rglob("*.ndjson")))
    started, cpu = time.perf_counter(), time.process_time()
    ledger = lake.commit(StagedPull("bench", "bench", "files", None, files), EachPatientAPerson())
    lines = sum(e.lines_read for e in ledger.entries)
    refused = sum(e.rows_quarantined for e in ledger.entries)
    report(wall=time.perf_counter() - started, cpu=time.process_time() - cpu, lines=lines, quarantined=refused)


def evaluate(package_folder: Path, lake_folder: Path, period: tuple[str, str], members: Sequence[str]) -> None:
    """Child process: load and evaluate, one core; first without supplemental data, then with them."""
    import pyarrow as pa

    from fhir_gateway.cql import Batch
    from fhir_gateway.measures import Evaluator, MeasurePackage
    from fhir_gateway.measures.population import LakePopulation

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    loading = {"cpu": 0.0, "rows": 0}

    class Timed(LakePopulation):
        def batches(self) -> Iterator[Batch]:
            for batch in super().batches():
                yield Batch(batch.members, timed(batch.read), narrows=batch.narrows)

    def timed(read: Any) -> Any:
        def run(*asked: Any) -> Any:
            cpu = time.process_time()
            try:
                table = read(*asked)
                loading["rows"] += table.num_rows
                return table
            finally:
                loading["cpu"] += time.process_time() - cpu

        return run

    days = date.fromisoformat(period[0]), date.fromisoformat(period[1])
    package = MeasurePackage.load(package_folder)
    found: dict[str, Any] = {}
    for supplemental in ("none", "noted"):
        cpu = time.process_time()
        evaluator = Evaluator(package, supplemental=supplemental)
        found["compile_cpu"] = time.process_time() - cpu
        loading.update(cpu=0.0, rows=0)
        cpu = time.process_time()
        result = evaluator.evaluate(Timed(open_lake(lake_folder), members=members or None), days, NOW)
        total = time.process_time() - cpu
        if supplemental == "noted":
            found["all_cpu"] = total
            continue
        found |= {
            "patients": len(result.members),
            "load_cpu": loading["cpu"],
            "rows": loading["rows"],
            "evaluate_cpu": total - loading["cpu"],
            "failed": len(result.failed),
            "counts": {f"{g.id}.{p.code}": int(p.counts.sum()) for g in result.groups for p in g.populations},
        }
    report(**found)


def all_cores(package_folder: Path, lake_folder: Path, period: tuple[str, str]) -> None:
    """Child process: the same by all cores, results saved, as the job does it."""
    from fhir_gateway.measures import Evaluator, MeasurePackage
    from fhir_gateway.measures.processes import usable_cores
    from fhir_gateway.measures.run import evaluate_lake
    from fhir_gateway.measures.store import ResultStore

    days = date.fromisoformat(period[0]), date.fromisoformat(period[1])
    evaluator = Evaluator(MeasurePackage.load(package_folder))
    with tempfile.TemporaryDirectory() as folder:
        wall = time.perf_counter()
        evaluate_lake(
            [evaluator], open_lake(lake_folder), days, NOW, ResultStore(Path(folder)), processes=usable_cores()
        )
        report(wall=time.perf_counter() - wall, processes=usable_cores())


def open_lake(folder: Path) -> Any:
    """The lake in a folder, with as many buckets as it has."""
    from fhir_gateway.lake.store import Lake

    return Lake.open(str(folder), buckets=json.loads((folder / "_lake" / "lake.json").read_bytes())["buckets"])


def report(**values: Any) -> None:
    """One JSON line to the parent, with the peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**values, "peak_mb": round(peak)}))


def child(*arguments: str, module: str = "bench.measures") -> dict[str, Any]:
    """Run one step in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **ONE_CORE},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def peer(folder: Path, cases: Sequence[dict[str, Any]], patients: int, period: dict[str, str]) -> dict[str, Any] | None:
    """CPU seconds and counts of the reference engine; None without Node.js or npm."""
    if patients == 0 or not shutil.which("node") or not shutil.which("npm"):
        return None
    module = PEER_FOLDER / "node_modules" / PEER.partition("@")[0]
    if not module.is_dir():
        PEER_FOLDER.mkdir(exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--prefix", str(PEER_FOLDER), PEER], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".ndjson", encoding="utf-8") as bundles:
        for number in range(patients):
            entries = [{"resource": r} for r in cases[number % len(cases)]["resources"]]
            bundles.write(json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}) + "\n")
        bundles.flush()
        script = str(Path(__file__).with_name("peers") / "fqm.mjs")
        measure = str(folder / "bundle.json.gz")
        done = subprocess.run(
            ["node", script, measure, bundles.name, period["start"], period["end"]],
            env={**os.environ, "FQM": str(module)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a line for each element it does not find
            check=True,
            text=True,
        )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def run(folder: Path, patients: int, peer_patients: int) -> dict[str, Any]:
    """Ingest and evaluate one measure; the counts must be the published ones times the copies."""
    cases = read_cases(folder)
    copies, patients = divmod(patients, len(cases))[0], patients // len(cases) * len(cases)
    period = cases[0]["measurementPeriod"]
    with tempfile.TemporaryDirectory() as scratch:
        source, lake = Path(scratch) / "source", Path(scratch) / "lake"
        source.mkdir()
        resources = replicate(cases, patients, source)
        taken = child("--ingest", str(source), str(lake))
        done = child("--evaluate", str(folder), str(lake), period["start"], period["end"])
        cores = child("--cores", str(folder), str(lake), period["start"], period["end"])
        sql = None
        if folder.name.startswith("CMS122"):
            sql = child(str(lake), str(folder), period["start"], period["end"], module="bench.cms122")
    expected: dict[str, int] = {}
    for case in cases:
        for group in case["expected"]["groups"]:
            for code, count in group["population"].items():
                key = f"{group['id']}.{code}"
                expected[key] = expected.get(key, 0) + count * copies
    reference = peer(folder, cases, peer_patients, period)
    row = {"resources": resources, "ingest": taken, "expected": expected, "peer": reference, "sql": sql}
    return {**row, "cores": cores, **done}


HEAD = (
    *("measure", "patients", "resources", "ingest res/CPU-s", "load s", "eval s", "all with supplemental data s"),
    *("patients/CPU-s", f"{PEER} patients/CPU-s", "ratio of eval", "ratio of load + eval"),
    *("all cores s (processes)", "peak MB", "counts"),
)


def cells_of(name: str, row: dict[str, Any], counts: str) -> list[str]:
    """A row of the table."""
    both = row["load_cpu"] + row["evaluate_cpu"]
    reference = row["peer"]["patients"] / row["peer"]["cpu"] if row["peer"] else None
    ingested = f"{row['resources'] / row['ingest']['cpu']:,.0f}" if "ingest" in row else ""
    return [
        *(name, f"{row['patients']:,}", f"{row['resources']:,}", ingested),
        *(f"{row['load_cpu']:.2f}", f"{row['evaluate_cpu']:.2f}", f"{row['all_cpu']:.2f}"),
        f"{row['patients'] / both:,.0f}",
        f"{reference:,.1f}" if reference else "not measured",
        f"{row['patients'] / row['evaluate_cpu'] / reference:,.0f}" if reference else "",
        f"{row['patients'] / both / reference:,.0f}" if reference else "",
        f"{row['cores']['wall']:.1f} ({row['cores']['processes']})",
        str(row["peak_mb"]),
        counts,
    ]


def machine() -> str:
    """What the figures are of."""
    kind = platform.processor() or platform.machine()
    return f"{kind}, {os.cpu_count()} cores, Python {platform.python_version()}"


def yardstick(row: dict[str, Any]) -> str:
    """The hand-written query beside the engine; exits when their counts differ."""
    sql = row["sql"]
    ours = {key.partition(".")[2].replace("-", "_"): count for key, count in row["counts"].items()}
    if any(ours[name] != count for name, count in sql["counts"].items()):
        raise SystemExit(f"the SQL's counts are {sql['counts']}, the engine's {ours}")
    both = row["load_cpu"] + row["evaluate_cpu"]
    return (
        f"hand-written SQL over the same files, one thread: {sql['cpu']:.2f} s, the same counts; engine: load + eval "
        f"{both / sql['cpu']:.1f} times that, eval {row['evaluate_cpu'] / sql['cpu']:.1f} times"
    )


def main() -> None:
    """Parent: print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", default=["CMS122"])
    parser.add_argument("--patients", type=int, default=100_000)
    parser.add_argument("--peer-patients", type=int, default=300, help="0: do not run the reference engine")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data/ecqm/dqm2025")
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data}: no published measures here; name their folder with --data")
    print(f"{machine()}, {options.patients} patients, seconds are of one core's CPU unless said otherwise")
    print(" | ".join(HEAD))
    differ = []
    for name in options.measures:
        folder = next(iter(sorted(options.data.glob(f"{name}*"))))
        row = run(folder, options.patients, options.peer_patients)
        wrong = {k: (row["counts"].get(k), v) for k, v in row["expected"].items() if row["counts"].get(k) != v}
        refused = row["ingest"]["quarantined"]
        counts = "as published" if not wrong else f"{refused} resources refused as not valid R4; {wrong}"
        if wrong and not refused:
            differ.append(folder.name)
        print(" | ".join(cells_of(folder.name, row, counts)), flush=True)
        if row["sql"]:
            print(yardstick(row), flush=True)
    if differ:
        raise SystemExit(f"counts are not the published ones: {', '.join(differ)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ingest"]:
        ingest(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["--evaluate"]:
        evaluate(Path(sys.argv[2]), Path(sys.argv[3]), (sys.argv[4], sys.argv[5]), sys.argv[6:])
    elif sys.argv[1:2] == ["--cores"]:
        all_cores(Path(sys.argv[2]), Path(sys.argv[3]), (sys.argv[4], sys.argv[5]))
    else:
        main()
