"""What is kept of the past, and what is let go: files that nobody needs, and results that were computed day by day.

What arrived is never removed: every lake version can be read, and what was computed of it can be computed again. Of
evaluations and attributions that are older than the policy says (setting ``retain_days``) those stay that something
names: the newest of each measure and period, and of each contract; what a settlement was made of; what the next
attribution may go by.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import orjson

from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribution_runs import evidence_runs
from fhir_gateway.measures.model import RunHeader


@dataclass(frozen=True, slots=True)
class Retained:
    """What was let go: files of the lake, evaluations, attributions; ``named`` are old ones that something names."""

    files: int
    evaluations: int = 0
    attributions: int = 0
    named: int = 0


def retain(gateway: Gateway, now: datetime) -> Retained:
    """Remove files of the lake that nobody needs and, by the policy, results of before; safe to be killed and repeated.

    A summary MeasureReport stays served when its evaluation is let go; details of it are no longer there.
    """
    files = gateway.lake.retain()
    if gateway.settings.retain_days is None:
        return Retained(files)
    before = now - timedelta(days=gateway.settings.retain_days)
    settled = list(_settled(gateway))
    evaluations, named = _let_go_of_evaluations(gateway, before, settled)
    attributions, also = _let_go_of_attributions(gateway, before, settled)
    return Retained(files, evaluations, attributions, named + also)


def _let_go_of_evaluations(gateway: Gateway, before: datetime, settled: list[dict[str, str]]) -> tuple[int, int]:
    """How many were let go, and how many old ones stay because they are named."""
    made_of = {
        tuple(stamps.get(f"measure.{name}.{part}") for part in ("package", "terminology", "evaluated_at"))
        for stamps in settled
        for name in {key.split(".")[1] for key in stamps if key.startswith("measure.")}
    }
    headers = {run: gateway.results.header(run) for run in gateway.results.runs()}
    newest: dict[tuple[object, ...], RunHeader] = {}
    for header in headers.values():
        what = (header.url, header.version, header.period)
        if what not in newest or header.evaluated_at > newest[what].evaluated_at:
            newest[what] = header
    gone = named = 0
    for run, header in headers.items():
        if header.evaluated_at >= before:
            continue
        stamped = (header.package_hash, header.terminology_hash, header.evaluated_at.isoformat())
        if stamped in made_of or newest[header.url, header.version, header.period].evaluated_at == header.evaluated_at:
            named += 1
            continue
        gateway.results.delete(run)
        gone += 1
    return gone, named


def _let_go_of_attributions(gateway: Gateway, before: datetime, settled: list[dict[str, str]]) -> tuple[int, int]:
    """The same of attributions."""
    needed = {stamps.get("attribution.evidence") for stamps in settled}
    gone = named = 0
    for contract in _folders(gateway.data_folder / "attributions"):
        runs = evidence_runs(gateway, contract.name)
        for number, (folder, header) in enumerate(runs):
            if datetime.fromisoformat(header["computed"]) >= before:
                continue
            if folder.name in needed or number + 1 == len(runs):
                named += 1
                continue
            shutil.rmtree(folder)
            gone += 1
    return gone, named


def _settled(gateway: Gateway) -> Iterator[dict[str, str]]:
    """What each settlement that is kept was made of."""
    for contract in _folders(gateway.data_folder / "settlements"):
        for statement in contract.glob("[!.]*.json"):
            yield orjson.loads(statement.read_bytes())["stamps"]


def _folders(below: Path) -> list[Path]:
    return sorted(one for one in below.iterdir() if one.is_dir()) if below.is_dir() else []
