"""From when on a pull asks: watermarks, their overlap, and what an incremental pull cannot see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fhir_gateway.factory import Gateway
from fhir_gateway.sources.outcome import PullOutcome
from fhir_gateway.sources.tables import SourcePull

LAST = "last"
"""``since`` that stands for the watermark of the source and the types asked for."""

BLIND_SPOTS = (
    "deletions that the server does not report",
    "resources stored late under a lastUpdated before the overlap",
    "edits for which the server does not move lastUpdated",
    "older resources of patients who joined the Group since",
)
"""What no incremental pull sees, whoever makes it; a full pull does."""


@dataclass(frozen=True, slots=True)
class Since:
    """The instant a pull asks from (None: everything), and why, in words for the operator."""

    moment: str | None
    notes: tuple[str, ...] = ()


def moment(gateway: Gateway, source: str, request: Mapping[str, Any]) -> Since:
    """Resolve ``since`` of a request.

    ``last`` is the watermark less the overlap (settings ``pull_overlap_minutes``); it is everything where a type was
    never pulled completely, and every ``reconcile_days`` days.
    """
    since = request.get("since")
    if since is None:
        return Since(None)
    if since != LAST:
        return Since(since, (_blind(f"changes since {since}"),))
    mark = gateway.pulls.watermark(source, request)
    if mark is None:
        return Since(None, ("a full pull: there is no complete one to go on from",))
    days = gateway.settings.reconcile_days
    full_at = datetime.fromisoformat(mark.full_at)
    due = full_at + timedelta(days=days)
    if days and datetime.now(UTC) >= due:
        return Since(None, (f"a full pull: the last one is of {full_at:%Y-%m-%d}, more than {days} days ago",))
    overlap = timedelta(minutes=gateway.settings.pull_overlap_minutes)
    asked = (datetime.fromisoformat(mark.transaction_time) - overlap).isoformat() if overlap else mark.transaction_time
    text = f"changes since {asked}, the watermark {mark.transaction_time} less an overlap of {overlap}"
    next_full = f"; the last full pull is of {full_at:%Y-%m-%d}" + (f", the next of {due:%Y-%m-%d}" if days else "")
    return Since(asked, (_blind(text) + next_full,))


def advance(gateway: Gateway, row: SourcePull, outcome: PullOutcome) -> None:
    """Move the watermark of what was pulled; a pull that lost something, or has no transaction time, moves nothing."""
    time = outcome.staged.transaction_time
    if outcome.complete and time is not None and "files" not in row.request:
        gateway.pulls.advance(row, time, full=row.outcome.get("since") is None)


def _blind(what: str) -> str:
    return f"{what}. Not seen by it: {', '.join(BLIND_SPOTS)}"
