"""A stratified measure over a million patients: time, and memory of all processes together.

``python -m bench.million [--measure CMS155] [--patients 1000000] [--processes N] [--keep FOLDER] [--data ...]``

The published cases of a measure with strata and supplemental data, replicated under new ids into a lake of the
default 8 buckets, are evaluated into the store of results; then the run's summary is rendered from the store. Counts
must be the published ones times the copies. ``--keep`` keeps the lake for another run.
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
from datetime import UTC, date, datetime
from pathlib import Path

from bench import child
from bench.measures import ingest, read_cases, replicate

NOW = datetime(2026, 12, 31, tzinfo=UTC)


def evaluate(folder: Path, lake_folder: Path, store: Path, processes: int, start: str, end: str) -> None:
    """Child process: evaluate into the store, and render the summary from it."""
    from fhir_gateway.lake.store import Lake
    from fhir_gateway.measures import Evaluator, MeasurePackage, ResultStore, reports
    from fhir_gateway.measures.run import evaluate_lake

    evaluator = Evaluator(MeasurePackage.load(folder))
    results = ResultStore(store)
    wall = time.perf_counter()
    period = (date.fromisoformat(start), date.fromisoformat(end))
    (run,) = evaluate_lake([evaluator], Lake.open(lake_folder), period, NOW, results, processes=processes or None)
    evaluated = time.perf_counter() - wall
    wall = time.perf_counter()
    result = results.load(run)
    report = reports.summary(result, {"reference": "Organization/bench"})
    own, below = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    values = {
        "members": len(result.members),
        "evaluate": evaluated,
        "summary": time.perf_counter() - wall,
        "cpu": own.ru_utime + own.ru_stime + below.ru_utime + below.ru_stime,
        "strata": sum(len(s.get("stratum", ())) for g in report["group"] for s in g.get("stratifier", ())),
        "supplemental": sum(len(found.value) for found in result.supplemental),
        "stored_mb": sum(path.stat().st_size for path in store.rglob("*") if path.is_file()) >> 20,
        "counts": {f"{g.id}.{p.code}": int(p.counts.sum()) for g in result.groups for p in g.populations},
    }
    print(json.dumps(values))


def main() -> None:
    """Parent: make the lake, evaluate, compare the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", default="CMS155")
    parser.add_argument("--patients", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=0, help="0: as the gateway chooses")
    parser.add_argument("--keep", type=Path, help="folder of the lake: made when absent, kept for another run")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data/ecqm/dqm2025")
    options = parser.parse_args()
    found = sorted(options.data.glob(f"{options.measure}*"))
    if not found:
        raise SystemExit(f"{options.data}: no measure {options.measure} here; name the folder with --data")
    folder = found[0]
    cases = read_cases(folder)
    copies = options.patients // len(cases)
    patients = copies * len(cases)
    with tempfile.TemporaryDirectory() as scratch:
        lake = options.keep or Path(scratch) / "lake"
        if not lake.exists():
            source = Path(scratch) / "source"
            source.mkdir()
            replicate(cases, patients, source)
            child.run("bench.million", "--ingest", str(source), str(lake))
            shutil.rmtree(source)
        period = cases[0]["measurementPeriod"]
        arguments = (
            str(folder),
            str(lake),
            f"{scratch}/results",
            str(options.processes),
            period["start"],
            period["end"],
        )
        row = child.run("bench.million", "--evaluate", *arguments, one_core=options.processes == 1)
    expected: dict[str, int] = {}
    for case in cases:
        for group in case["expected"]["groups"]:
            for code, count in group["population"].items():
                key = f"{group['id']}.{code}"
                expected[key] = expected.get(key, 0) + count * copies
    wrong = {key: (row["counts"].get(key), count) for key, count in expected.items() if row["counts"].get(key) != count}
    machine = platform.processor() or platform.machine()
    print(f"{machine}, Python {platform.python_version()}, {options.processes or 'default'} processes")
    print(
        f"{folder.name}: {row['members']} patients, {row['strata']} strata, {row['supplemental']} supplemental values"
    )
    print(f"evaluate {row['evaluate']:.1f} s, summary {row['summary']:.1f} s, CPU {row['cpu']:.1f} s")
    print(f"peak memory of all processes {row['tree_mb']} MB; results on disk {row['stored_mb']} MB")
    print(f"counts: {wrong or 'as published'}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ingest"]:
        ingest(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["--evaluate"]:
        evaluate(*map(Path, sys.argv[2:5]), int(sys.argv[5]), *sys.argv[6:8])
    else:
        main()
