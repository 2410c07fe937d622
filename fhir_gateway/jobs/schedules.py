"""Jobs begun by the clock: every worker looks, and each moment of a schedule makes one job, whose id is that moment.

Nothing is remembered but the jobs themselves. So a clock that jumps back begins nothing twice, and one moment that was
missed while no worker ran, the newest, is made up for by the next worker.
"""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter

from fhir_gateway.config import Schedule
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.patience import Rounds

_PAUSE_SECONDS = 5.0
_log = logging.getLogger("fhir_gateway.jobs")


class Schedules(Rounds):
    """Begins what is due, in a thread of a worker."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__("schedules", _PAUSE_SECONDS, _log)
        self._gateway = gateway
        self._book = JobBook(gateway)

    def round(self) -> None:
        """Begin what is due now."""
        begin_due(self._gateway, self._book, datetime.now(UTC))

    def close(self) -> None:
        """Let go of the book."""
        self._book.close()


def begin_due(gateway: Gateway, book: JobBook, now: datetime) -> list[str]:
    """Begin the jobs of the newest moment of each schedule that have not been begun yet; their ids."""
    begun = []
    for schedule in gateway.settings.schedules:
        moment = last_moment(schedule, now, gateway.settings.time_zone)
        id = f"{schedule.name}-{moment.astimezone(UTC):%Y%m%dT%H%MZ}"
        kind, asked = _job(schedule, moment)
        if book.once(kind, id, asked=asked):
            begun.append(id)
            _log.info("schedule %s begins job %s", schedule.name, id)
    return begun


def last_moment(schedule: Schedule, now: datetime, zone: str) -> datetime:
    """The newest moment of a schedule before an instant, by the clocks of its zone."""
    found: datetime = croniter(schedule.cron, now.astimezone(ZoneInfo(zone))).get_prev(datetime)
    return found


def _job(schedule: Schedule, moment: datetime) -> tuple[str, dict[str, Any]]:
    """What kind of job it is and what is asked of it, made for that moment; evaluations are of its calendar year."""
    asked: dict[str, Any] = {"now": moment.isoformat()}
    if schedule.job == "pull":
        return "scheduled-pull", {**asked, "source": schedule.source}
    if schedule.job == "evaluate":
        year = [date(moment.year, 1, 1).isoformat(), date(moment.year, 12, 31).isoformat()]
        return "evaluate", {**asked, "packages": list(schedule.packages), "period": year}
    if schedule.job in ("attribute", "settle"):
        return schedule.job, {**asked, "contract": schedule.contract}
    return schedule.job, {**asked, "files": schedule.files} if schedule.job == "compact" else asked
