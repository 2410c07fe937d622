"""What retention lets go, and what it keeps because something names it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import orjson

from fhir_gateway.config import Settings
from fhir_gateway.demo import tour
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.attribution_runs import evidence_runs
from fhir_gateway.jobs.evaluate import evaluate
from fhir_gateway.jobs.retention import Retained, retain
from fhir_gateway.jobs.settle import settle
from fhir_gateway.jobs.settlement_runs import recompute
from tests.support.changing import Changing

CONTRACT, NOW = tour.CONTRACTS[1], datetime(2026, 4, 1, tzinfo=UTC)
PERIOD = (date(2025, 1, 1), date(2025, 12, 31))
MEASURE = "controlling-high-blood-pressure"


def day(number: int) -> datetime:
    return NOW + timedelta(days=number)


def test_what_is_named_stays(tmp_path: Path) -> None:
    """Day 0 is settled, days 1 to 3 are watched; after 30 days what was settled and the newest are there."""
    settings = Settings(data_dir=tmp_path / "gateway", lake_buckets=2, processes=1)
    gateway = Gateway(settings)
    changing = Changing(gateway, tmp_path, 12, 3)
    settled = settle(gateway, str(CONTRACT), now=day(0))
    name = settled.contract.id
    watched = []
    for number in (1, 2, 3):
        changing.pull("claims")
        watched.append(evaluate(gateway, [MEASURE], PERIOD, now=day(number))[0].run)
        attribute(gateway, str(CONTRACT), now=day(number))
    before = set(gateway.results.runs())
    runs = [folder.name for folder, _ in evidence_runs(gateway, name)]
    assert len(runs) == 4
    assert retain(gateway, day(400)) == Retained(0), "nobody said how many days"
    patient = Gateway(settings.model_copy(update={"retain_days": 30}))
    assert retain(patient, day(30)) == Retained(0)
    done = retain(patient, day(400))
    assert (done.evaluations, done.attributions) == (2, 2)
    assert set(gateway.results.runs()) == before - set(watched[:2])
    assert [folder.name for folder, _ in evidence_runs(gateway, name)] == [runs[0], runs[-1]]
    assert retain(patient, day(400)) == Retained(0, named=done.named), "nothing is left to let go"
    assert recompute(gateway, settled.report).same, "what was settled can be made again"
    changing.pull("claims")
    assert attribute(gateway, str(CONTRACT), now=day(5)).evidence not in runs


def test_every_lake_version_is_read_as_before(tmp_path: Path) -> None:
    gateway = Gateway(Settings(data_dir=tmp_path / "gateway", lake_buckets=2, retain_days=1))
    changing = Changing(gateway, tmp_path, 8, 3)
    for kind in ("claims", "deletions", "claims"):
        changing.pull(kind)
    lake = gateway.lake
    read = {
        version: orjson.dumps(lake.read("Coverage", ["_raw"], version=version)["_raw"].to_pylist())
        for version in (2, 5)
    }
    lake.compact(2)
    changing.pull("claims")
    lake.compact(2)
    assert retain(gateway, day(400)).files > 0
    again = Gateway(gateway.settings).lake
    for version, rows in read.items():
        assert orjson.dumps(again.read("Coverage", ["_raw"], version=version)["_raw"].to_pylist()) == rows
