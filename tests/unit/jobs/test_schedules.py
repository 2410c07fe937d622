"""Moments of schedules, what they ask for, and which settings are refused."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fhir_gateway.config import Schedule, Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.calculations import CALCULATIONS
from fhir_gateway.jobs.schedules import _job, begin_due, last_moment
from fhir_gateway.sources.endpoint import Endpoint


def schedule(**stated: Any) -> Schedule:
    return Schedule(**{"name": "nightly", "cron": "0 2 * * *", "job": "claims", **stated})


@pytest.mark.parametrize(
    ("cron", "zone", "now", "moment"),
    [
        ("0 2 * * *", "UTC", "2026-03-02T02:00:01+00:00", "2026-03-02T02:00:00+00:00"),
        ("0 2 * * *", "UTC", "2026-03-02T01:59:59+00:00", "2026-03-01T02:00:00+00:00"),
        ("0 2 * * *", "America/New_York", "2026-03-02T06:59:00+00:00", "2026-03-01T07:00:00+00:00"),
        ("0 4 * * *", "America/New_York", "2026-03-08T12:00:00+00:00", "2026-03-08T08:00:00+00:00"),  # summer time
        ("*/15 8-18 * * 1-5", "UTC", "2026-03-02T07:00:00+00:00", "2026-02-27T18:45:00+00:00"),
        ("0 0 1 * *", "UTC", "2026-03-02T00:00:00+00:00", "2026-03-01T00:00:00+00:00"),
    ],
)
def test_the_newest_moment_by_the_clocks_of_the_zone(cron: str, zone: str, now: str, moment: str) -> None:
    found = last_moment(schedule(cron=cron), datetime.fromisoformat(now), zone)
    assert found == datetime.fromisoformat(moment)


@pytest.mark.parametrize("job", ["pull", "evaluate", "attribute", "settle", "claims", "compact", "retain"])
def test_every_kind_asks_for_what_workers_know(job: str) -> None:
    kind, asked = _job(schedule(job=job, source="ehr", contract="c"), datetime(2026, 3, 1, 2, tzinfo=UTC))
    assert kind in CALCULATIONS
    assert asked["now"] == "2026-03-01T02:00:00+00:00"
    if job == "evaluate":
        assert asked["period"] == ["2026-01-01", "2026-12-31"]


@pytest.mark.parametrize(
    "stated",
    [
        {"cron": "2 o'clock"},
        {"cron": "0 2 * * * *"},
        {"cron": "61 * * * *"},
        {"job": "pull"},
        {"job": "settle"},
        {"job": "dance"},
        {"name": "Every night"},
        {"sources": "ehr"},
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused(stated: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        schedule(**stated)


def test_two_schedules_have_two_names() -> None:
    with pytest.raises(ValidationError, match="twice"):
        Settings(schedules=(schedule(), schedule()))


def test_a_moment_begins_one_job_whatever_the_clock_does(tmp_path: Path) -> None:
    gateway = Gateway(Settings(data_dir=tmp_path, schedules=(schedule(),)))
    night, later, earlier = (datetime(2026, 3, day, 12, tzinfo=UTC) for day in (1, 2, 1))
    with closing(JobBook(gateway)) as book:
        assert begin_due(gateway, book, night) == ["nightly-20260301T0200Z"]
        assert begin_due(gateway, book, night) == []
        assert begin_due(gateway, book, later) == ["nightly-20260302T0200Z"]
        assert begin_due(gateway, book, earlier) == []
        book.cancel("nightly-20260302T0200Z")
        assert begin_due(gateway, book, later) == [], "what was cancelled is not begun again"


def test_a_scheduled_pull_is_a_pull_of_what_changed(tmp_path: Path) -> None:
    gateway = Gateway(Settings(data_dir=tmp_path))
    gateway.endpoints.add(Endpoint("ehr", "https://ehr.example/fhir", auth="none"))
    asked = {"source": "ehr", "now": "2026-03-01T02:00:00+00:00"}
    CALCULATIONS["scheduled-pull"](gateway, asked)
    CALCULATIONS["scheduled-pull"](gateway, asked)  # its process died after it had begun the pull
    with closing(JobBook(gateway)) as book:
        (job,) = book.jobs()
    assert (job.kind, job.state) == ("pull", "waiting")
    row = gateway.pulls.get(job.id)
    assert (row.source, row.request["since"]) == ("ehr", "last")
