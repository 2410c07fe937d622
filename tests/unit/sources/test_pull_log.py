"""The log of pulls: what is resumed, where it is polled, and from when on the next pull asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import snapshot
from fhir_gateway.db.secrets import SecretBox
from fhir_gateway.errors import NotFoundError
from fhir_gateway.sources.bulk import ExportState
from fhir_gateway.sources.pulls import PullLog, scope
from tests.support.databases import KINDS, control_plane

ASKED = {"types": ["Patient"], "since": None}


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with control_plane(request.param, tmp_path) as engine:
        yield engine


@pytest.fixture
def log(engine: Engine) -> PullLog:
    return PullLog(engine, SecretBox(Fernet.generate_key()))


def test_the_newest_unfinished_pull_of_the_same_request_is_resumed(log: PullLog) -> None:
    log.start("one", "ehr", "pull", ASKED)
    found = log.unfinished("ehr", ASKED)
    assert found is not None
    assert found.id == "one"
    assert log.unfinished("ehr", {"types": []}) is None
    assert log.unfinished("payer", ASKED) is None
    log.update("one", state="staged")
    assert log.unfinished("ehr", ASKED) is not None
    for state in ("committed", "failed", "cancelled"):
        assert log.update("one", state=state).finished is not None
        assert log.unfinished("ehr", ASKED) is None
    log.start("two", "payer", "pull", ASKED)
    assert [row.id for row in log.recent()] == ["two", "one"]
    assert [row.id for row in log.recent(source="ehr")] == ["one"]
    with pytest.raises(NotFoundError):
        log.get("three")


def test_each_part_of_a_pull_keeps_its_export_until_the_pull_ends(log: PullLog, engine: Engine) -> None:
    log.start("one", "ehr", "pull", ASKED)
    log.remember("one", ExportState("https://ehr.example/jobs/1?secret", part="Patient"))
    log.remember("one", ExportState("https://ehr.example/jobs/2?secret", "2025-01-01T00:00:00Z", "Observation"))
    log.remember("one", ExportState("https://ehr.example/jobs/3?secret", part="Patient", kicked_off=1.8e9))
    assert log.exports("one") == {
        "Patient": ExportState("https://ehr.example/jobs/3?secret", part="Patient", kicked_off=1.8e9),
        "Observation": ExportState("https://ehr.example/jobs/2?secret", "2025-01-01T00:00:00Z", "Observation"),
    }
    with snapshot(engine) as connection:
        stored = connection.execute(sa.text("SELECT status_url FROM source_export")).scalars().all()
    assert not any(b"secret" in bytes(url) for url in stored)
    log.update("one", state="cancelled")
    assert len(log.exports("one")) == 2  # they are still to be deleted on the server
    log.update("one", state="committed")
    assert log.exports("one") == {}


def test_a_watermark_is_the_earliest_of_the_types_asked_for(log: PullLog) -> None:
    everything = log.start("all", "ehr", "pull", {"types": []})
    assert log.watermark("ehr", everything.request) is None
    log.advance(everything, "2025-01-01T00:00:00Z", full=True)
    patients = log.start("patients", "ehr", "pull", {"types": ["Patient"]})
    # the instant after, though the text sorts before
    log.advance(patients, "2024-12-31T23:00:00-08:00", full=False)

    def mark(*types: str) -> str:
        found = log.watermark("ehr", {"types": list(types)})
        assert found is not None
        return found.pull

    assert mark() == "all"
    assert mark("Patient") == "patients"
    assert mark("Condition") == "all"
    assert mark("Patient", "Condition") == "all"
    assert [row.resource_type for row in log.watermarks("ehr")] == ["*", "Patient"]
    assert log.watermarks("payer") == []


def test_an_incremental_pull_keeps_the_day_of_the_last_full_one(log: PullLog) -> None:
    first = log.start("full", "ehr", "pull", {"types": []})
    log.advance(first, "2025-01-01T00:00:00Z", full=True)
    before = log.watermark("ehr", first.request)
    log.advance(log.start("delta", "ehr", "pull", {"types": []}), "2025-02-01T00:00:00Z", full=False)
    after = log.watermark("ehr", first.request)
    assert before is not None
    assert after is not None
    assert (after.full_at, after.pull) == (before.full_at, "delta")


def test_groups_and_filters_have_watermarks_of_their_own(log: PullLog) -> None:
    group = log.start("one", "ehr", "pull", {"types": [], "group": "g1"})
    log.advance(group, "2025-01-01T00:00:00Z", full=True)
    assert log.watermark("ehr", {"types": []}) is None
    assert log.watermark("ehr", {"types": [], "group": "g2"}) is None
    assert log.watermark("ehr", {"types": ["Patient"], "group": "g1"}) is not None
    assert scope({"types": ["Patient"], "group": None, "type_filters": []}) == ""
