"""What a day's pull costs: one member in a hundred changes, and everything is brought up to date.

``python -m bench.daily --patients 20000`` commits a synthetic population of an EHR and a payer, evaluates our measures,
attributes and settles a contract; changes visits, observations and claims of one member in a hundred, commits that, and
does the rest once by who changed and once for everybody, each in its own copy of the gateway. Printed are CPU seconds
of this process, and what the first is of the second; results, evidence, lists and statements are compared to the byte.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from fhir_gateway.config import Settings
from fhir_gateway.demo import tour
from fhir_gateway.demo.sources import make_population
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.attribution_runs import attributions_folder
from fhir_gateway.jobs.evaluate import evaluate
from fhir_gateway.jobs.settle import settle, statements_folder
from fhir_gateway.sources.models import StagedFile, StagedPull

PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
FIRST, SECOND = (datetime(2026, 4, day, tzinfo=UTC) for day in (1, 2))
CONTRACT = str(tour.CONTRACTS[1])
#: What changes, and what of it: each line is a little other, as an amended one is.
CHANGING = {"ehr": ("Observation", "Encounter"), "payer": ("ExplanationOfBenefit",)}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    before = time.process_time()
    done = work()
    return time.process_time() - before, done


def pull(name: str, source: str, files: list[Path]) -> StagedPull:
    return StagedPull(name, source, "files", None, tuple(StagedFile(one, one.name, None, None) for one in files))


def changes(gateway: Gateway, folder: Path, every: int) -> tuple[list[StagedPull], int]:
    """What the sources send of one member in so many."""
    members = gateway.lake.members()
    few = set(members.take(pa.array(range(0, len(members), every))).to_pylist())
    rows = gateway.lake.read("Patient")
    named = zip(*(rows[name].to_pylist() for name in ("_source", "id", "_member")), strict=True)
    patients = {(source, one) for source, one, member in named if member in few}
    pulls = []
    for source, types in CHANGING.items():
        files = []
        for name in types:
            lines = []
            for path in sorted((folder / "population" / source).glob(f"{name}.*.ndjson")):
                for line in path.read_bytes().splitlines():
                    resource = orjson.loads(line)
                    who = (resource.get("subject") or resource["patient"])["reference"].rpartition("/")[2]
                    if (source, who) in patients:
                        amended = {"status": "amended"} if name == "Observation" else {}
                        lines.append(orjson.dumps(resource | {"language": "en"} | amended))
            files.append(folder / f"changed-{source}-{name}.ndjson")
            files[-1].write_bytes(b"".join(line + b"\n" for line in lines))
        pulls.append(pull(f"changed-{source}", source, files))
    return pulls, len(few)


def brought_up(gateway: Gateway, *, everybody: bool, now: datetime) -> tuple[dict[str, float], dict[str, bytes]]:
    """CPU seconds of each step, and all that came of it."""
    _ = gateway.engine, gateway.lake  # opening them is no part of any step
    spent, came = {}, {}
    spent["evaluate"], reports = timed(lambda: evaluate(gateway, (), PERIOD, now=now, everybody=everybody))
    for report in reports:
        for path in (gateway.data_folder / "results").rglob(f"{report.run}/*"):
            content = path.read_bytes()
            if path.name == "header.json":
                content = json.dumps({**json.loads(content), "seconds": 0}).encode()
            came[f"{report.run}/{path.name}"] = content
    spent["attribute"], found = timed(lambda: attribute(gateway, CONTRACT, now=now, everybody=everybody))
    came |= {
        path.name: path.read_bytes()
        for path in (attributions_folder(gateway, found.contract.id) / found.evidence).iterdir()
    }
    spent["settle"], settled = timed(lambda: settle(gateway, CONTRACT, now=now, everybody=everybody))
    came["list"] = orjson.dumps({**settled.attribution.group, "meta": None})
    came["statement"] = (statements_folder(gateway, found.contract.id) / f"{settled.report}.json").read_bytes()
    return spent, came


def opened(folder: Path) -> Gateway:
    return Gateway(Settings(data_dir=folder, processes=1))


def measure(folder: Path, patients: int, every: int) -> None:
    make_population(folder / "population", patients, 1, 2025, lambda _done: None)
    gateway, whole = opened(folder / "gateway"), 0.0
    for source in CHANGING:
        files = sorted((folder / "population" / source).glob("*.ndjson"))
        whole += timed(lambda s=source, f=files: gateway.lake.commit(pull(s, s, f), gateway.persons))[0]  # type: ignore[misc]
    brought_up(gateway, everybody=True, now=FIRST)
    pulls, few = changes(gateway, folder, every)
    some = sum(timed(lambda p=one: gateway.lake.commit(p, gateway.persons))[0] for one in pulls)  # type: ignore[misc]
    members = len(gateway.lake.members())
    gateway.engine.dispose()
    shutil.copytree(folder / "gateway", folder / "other")
    shutil.rmtree(folder / "other" / "claim-lines")  # lines of claims are what attribution begins with
    cheap, came = brought_up(opened(folder / "gateway"), everybody=False, now=SECOND)
    dear, same = brought_up(opened(folder / "other"), everybody=True, now=SECOND)
    assert came == same, sorted(name for name in {*came, *same} if came.get(name) != same.get(name))
    machine = platform.processor() or platform.machine()
    print(
        f"{machine}, Python {platform.python_version()}, {members:,} members, {few} changed; the same bytes: "
        f"{len(came)} files, lists and statements"
    )
    print(f"{'CPU seconds':12}{'all':>10}{'changed':>10}{'ratio':>8}")
    rows = {"commit": (whole, some)} | {name: (dear[name], cheap[name]) for name in dear}
    rows["together"] = (sum(one for one, _ in rows.values()), sum(one for _, one in rows.values()))
    for name, (full, part) in rows.items():
        print(f"{name:12}{full:10.2f}{part:10.2f}{part / full:8.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=5000)
    parser.add_argument("--every", type=int, default=100, help="one member in so many changes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), asked.patients, asked.every)


if __name__ == "__main__":
    main()
