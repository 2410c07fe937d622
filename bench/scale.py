"""From nothing to a settlement at 10,000, 100,000 and 1,000,000 members: does a member cost the same, does it fit?

    python -m bench.scale [10000 100000 1000000] [--keep FOLDER] [--from STAGE] [--to STAGE]

A synthetic population (an EHR and a payer, two years, about 100 resources a member) is written as gzip NDJSON; each
source is taken in from its files in pulls of ``--pull-members`` members; then a contract attributes everybody, five
measures are evaluated over everybody, and the contract is settled from the kept results. These are the jobs that the
command line runs, over a lake and a control plane (SQLite) in one folder. Each stage runs in a process of its own, each
pull too: wall, CPU of all its processes, and the peak of resident memory of all of them together. ``--keep`` keeps the
folders of all sizes; what is there is not done again, and what was measured of it stays: a run that was interrupted
goes on. ``--from`` and ``--to`` do only some stages; ``--from`` a stage after ``ingest`` does it again, ``--from fifty
--to fifty`` evaluates fifty measures.

Four measures are the repository's; the fifth (CMS130) is of the published ones, whose folder ``--data`` names.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from bench import child

STAGES = ("generate", "ingest", "attribute", "evaluate", "settle")
#: Beside the others, and only when asked for: what the size of a machine for fifty measures is computed from.
BESIDE = ("fifty",)
SOURCES = ("ehr", "payer")
YEAR = 2025
#: The published measure that is evaluated with our four.
FIFTH = "CMS130"
AS_OF = datetime(YEAR + 1, 4, 1, tzinfo=UTC)
#: Persons of one part file, so that a pull is of whole files.
BATCH = 10_000
_DATA = Path(__file__).resolve().parents[2] / "shared/data/ecqm/dqm2025"


@dataclass(frozen=True, slots=True)
class Work:
    """One size: where it lies, and how it is done."""

    folder: Path
    members: int
    drawn: float
    pull_members: int
    buckets: int
    data: Path

    @property
    def population(self) -> Path:
        """What the sources sent."""
        return self.folder / "population"

    @property
    def parts(self) -> int:
        """How many pulls each source takes."""
        return -(-self.members // self.pull_members)

    def measured(self, stage: str) -> Path:
        """What was measured so far of a stage: a JSON object a line."""
        return self.folder / f"{stage}.jsonl"


def generate(work: Work, part: int) -> dict[str, Any]:
    """Write what is pulled at once."""
    from fhir_gateway.sandbox.population import generate as write

    folder = work.population / str(part)
    shutil.rmtree(folder, ignore_errors=True)
    each = work.pull_members // BATCH
    summary = write(
        folder,
        patients=work.members,
        seed=7,
        year=YEAR,
        batch=BATCH,
        drawn=work.drawn,
        compressed=True,
        batches=range(part * each, min((part + 1) * each, -(-work.members // BATCH))),
    )
    return {"resources": summary.resources, "json_mb": summary.size >> 20}


def ingest(work: Work, source: str, part: int) -> dict[str, Any]:
    """Take in one part of a source: stage, commit, publish."""
    from fhir_gateway.jobs.pull import pull_files

    steps: dict[str, float] = {}
    present, since = "stage", _cpu()

    def mark(phase: str) -> None:
        nonlocal present, since
        if phase != present:
            now = _cpu()
            steps[present] = steps.get(present, 0.0) + now - since
            present, since = phase, now

    report = pull_files(
        _gateway(work), [work.population / str(part) / source], source, progress=lambda told: mark(told.phase)
    )
    mark("")
    lines = sum(entry.lines_read for entry in report.ledger.entries)
    return {"lines": lines, "quarantined": report.quarantined, "published": dict(report.published), "steps": steps}


def attribute(work: Work) -> dict[str, Any]:
    """Attribute everybody, and serve the roster."""
    from fhir_gateway.jobs.attribute import attribute as run

    gateway = _gateway(work)
    shutil.rmtree(gateway.data_folder / "claim-lines", ignore_errors=True)  # of a run before: nothing to go by
    report = run(gateway, str(_contract(work)), now=AS_OF, everybody=True)
    return {"known": report.attribution.table.num_rows, "roster": len(report.members)}


def evaluate(work: Work, measures: int = 5) -> dict[str, Any]:
    """Five measures, or so many, over everybody: ours and published ones, the fifth first."""
    from fhir_gateway.jobs.evaluate import evaluate as run

    gateway = _gateway(work)
    shutil.rmtree(gateway.data_folder / "results", ignore_errors=True)  # of a run before
    published = sorted(work.data.glob("*FHIR*"), key=lambda path: (not path.name.startswith(FIFTH), path.name))
    packages = list(map(str, [*gateway.measure_packages(), *published][:measures]))
    if len(packages) != measures:
        raise SystemExit(f"{work.data}: too few measures here; name the folder with --data")
    reports = run(gateway, packages, (date(YEAR, 1, 1), date(YEAR, 12, 31)), now=AS_OF, everybody=True)
    rates = {f"{one.measure} {rate.group}": [rate.denominator, rate.numerator] for one in reports for rate in one.rates}
    return {"evaluated": reports[0].members, "failed": sum(one.failed for one in reports), "rates": rates}


def settle(work: Work) -> dict[str, Any]:
    """Settle from what is kept."""
    from fhir_gateway.jobs.settle import settle as run

    report = run(_gateway(work), str(_contract(work)), now=AS_OF)
    return {"roster": len(report.attribution.members), "total": str(report.settlement.total)}


def _gateway(work: Work) -> Any:
    from fhir_gateway.config import Settings
    from fhir_gateway.factory import Gateway

    return Gateway(
        Settings.read(data_dir=work.folder / "gateway", lake_buckets=work.buckets, database_url=None, lake_url=None)
    )


def _contract(work: Work) -> Path:
    """The demo's two-sided contract, with a seventh of all practices: a provider grows with the population."""
    import fhir_gateway

    (package,) = fhir_gateway.__path__
    template = (Path(package) / "demo" / "contracts" / "shared-savings-2025.toml").read_text()
    known = json.loads((work.population / "0" / "roster.json").read_text())
    practices = [one["tin"] for one in known["practices"]]
    stated = json.dumps(practices[: max(2, len(practices) // 7)])
    path = work.folder / "contract.toml"
    path.write_text(re.sub(r"(?m)^tins = .*$", f"tins = {stated}", template))
    return path


def _cpu() -> float:
    """CPU seconds of this process and those below it that ended."""
    own, below = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + below.ru_utime + below.ru_stime


def _steps(work: Work) -> Iterator[tuple[str, list[str]]]:
    """Stages, each with the arguments of its processes."""
    yield "generate", [f"generate {part}" for part in range(work.parts)]
    yield "ingest", [f"ingest {source} {part}" for part in range(work.parts) for source in SOURCES]
    for name in (*STAGES[2:], *BESIDE):
        yield name, [name]


def run_step(work: Work, step: str) -> None:
    """Child process: one step, told as a line of JSON."""
    name, *arguments = step.split()
    doing: dict[str, Callable[..., dict[str, Any]]] = {
        "generate": generate, "ingest": ingest, "attribute": attribute, "evaluate": evaluate, "settle": settle,
        "fifty": lambda work: evaluate(work, 50),
    }  # fmt: skip
    wall, cpu = time.perf_counter(), _cpu()
    told = doing[name](work, *(int(one) if one.isdigit() else one for one in arguments))
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": _cpu() - cpu, **told}, default=str))


def measure(work: Work, command: Sequence[str], first: str, last: str) -> list[dict[str, Any]]:
    """Do the steps of these stages that were not done before; all that was measured, before and now, in order."""
    rows: list[dict[str, Any]] = []
    order = (*STAGES, *BESIDE)
    for stage, steps in _steps(work):
        kept = work.measured(stage)
        if first == stage and stage not in ("generate", "ingest"):
            kept.unlink(missing_ok=True)
        known = {row["step"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
        for step in steps if order.index(first) <= order.index(stage) <= order.index(last) else ():
            if step in known:
                continue
            row = child.run("bench.scale", *command, "--members", str(work.members), "--step", step, one_core=False)
            row |= {"stage": stage, "step": step, "disk_mb": _disk_mb(work.folder / "gateway")}
            known[step] = row
            with kept.open("a") as file:
                file.write(json.dumps(row) + "\n")
            told = f"{row['cpu']:.1f} CPU s, {row['wall']:.1f} s, {row['tree_mb']:,} MB"
            print(f"  {work.members:,} {step}: {told}", file=sys.stderr)
        rows += [known[step] for step in steps if step in known]
    return rows


def _disk_mb(folder: Path) -> dict[str, int]:
    """What lies where."""
    sizes: dict[str, int] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).parts[0]
            sizes[name] = sizes.get(name, 0) + path.stat().st_size
    return {name: size >> 20 for name, size in sorted(sizes.items())}


def show(sizes: dict[int, list[dict[str, Any]]]) -> None:
    """The tables."""
    heads = ("wall s", "CPU s", "us/member", "of first", "of last", "peak MB")
    print(f"{'members':>9}  {'stage':<10}" + "".join(f"{head:>11}" for head in heads))
    before: dict[str, list[float]] = {}
    for members, rows in sizes.items():
        for stage in (*STAGES, "all", *BESIDE):
            mine = [row for row in rows if row["stage"] == stage or (stage == "all" and row["stage"] in STAGES)]
            if not mine:
                continue
            wall, cpu = (sum(row[name] for row in mine) for name in ("wall", "cpu"))
            each = cpu / members * 1e6
            past = before.setdefault(stage, [])
            grown = [f"{each / one:.2f}" for one in (past[0], past[-1])] if past else ["", ""]
            past.append(each)
            peak = max(row["tree_mb"] for row in mine)
            cells = (f"{wall:.1f}", f"{cpu:.1f}", f"{each:.1f}", *grown, f"{peak:,}")
            print(f"{members:>9,}  {stage:<10}" + "".join(f"{cell:>11}" for cell in cells))
    for members, rows in sizes.items():
        resources, size = (sum(row.get(name, 0) for row in rows) for name in ("resources", "json_mb"))
        what = f"{resources:,} resources, {size:,} MB of JSON"
        kept = next(row["disk_mb"] for row in reversed(rows) if row["stage"] in STAGES)
        print(f"{members:,} members: {what}; kept, MB: {kept}")


def main() -> None:
    """Parent: all sizes, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--keep", type=Path, help="folder of all sizes, kept; default: a temporary one")
    parser.add_argument("--from", dest="first", choices=(*STAGES, *BESIDE), default=STAGES[0])
    parser.add_argument("--to", dest="last", choices=(*STAGES, *BESIDE), default=STAGES[-1])
    parser.add_argument("--drawn", type=float, default=0.53, help="share of visits with some twenty laboratory results")
    parser.add_argument("--pull-members", type=int, default=100_000)
    parser.add_argument("--buckets", type=int, default=0, help="default: one for 12,500 members, at least 8")
    parser.add_argument("--data", type=Path, default=_DATA)
    parser.add_argument("--members", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pull_members % BATCH:
        parser.error(f"--pull-members must be a multiple of {BATCH:,}")

    def work(folder: Path, members: int) -> Work:
        buckets = options.buckets or max(8, members // 12_500)
        return Work(folder / str(members), members, options.drawn, options.pull_members, buckets, options.data)

    if options.step:
        run_step(work(options.keep, options.members), options.step)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.keep or Path(scratch)).resolve()
        command = ["--keep", str(folder), "--drawn", str(options.drawn), "--data", str(options.data)]
        command += ["--pull-members", str(options.pull_members), "--buckets", str(options.buckets)]
        found = {}
        for members in options.sizes:
            one = work(folder, members)
            one.folder.mkdir(parents=True, exist_ok=True)
            found[members] = measure(one, command, options.first, options.last)
    if options.last in STAGES[:-1]:
        return
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    show(found)


if __name__ == "__main__":
    main()
