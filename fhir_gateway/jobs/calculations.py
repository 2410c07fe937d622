"""Evaluations, attributions, settlements, checks of claims and the lake's upkeep as jobs of one step.

The instant they are made for is part of what is asked, so that a calculation that a kill ended is the same one when it
is made again: results have ids that derive from their inputs, and what is served under an id is replaced by its equal.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from datetime import UTC, date, datetime
from typing import Any

from fhir_gateway.errors import ConflictError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.book import JobBook
from fhir_gateway.jobs.claim_quality import check_and_keep
from fhir_gateway.jobs.evaluate import evaluate
from fhir_gateway.jobs.pull import begin_endpoint
from fhir_gateway.jobs.quality_views import refresh
from fhir_gateway.jobs.retention import retain
from fhir_gateway.jobs.settle import settle
from fhir_gateway.jobs.since import LAST

Asked = Mapping[str, Any]


def _evaluate(gateway: Gateway, asked: Asked) -> list[str]:
    start, end = (date.fromisoformat(day) for day in asked["period"])
    reports = evaluate(
        gateway, asked["packages"], (start, end), now=_instant(asked), everybody=bool(asked.get("everybody"))
    )
    if reports:
        refresh(gateway, (start, end))
    return [report.run for report in reports]


def _attribute(gateway: Gateway, asked: Asked) -> list[str]:
    return [f"Group/{attribute(gateway, asked['contract'], now=_instant(asked)).group['id']}"]


def _settle(gateway: Gateway, asked: Asked) -> list[str]:
    return [f"MeasureReport/{settle(gateway, asked['contract'], now=_instant(asked)).report}"]


def _claims(gateway: Gateway, asked: Asked) -> list[str]:
    check_and_keep(gateway, now=_instant(asked))
    return []


def _compact(gateway: Gateway, asked: Asked) -> list[str]:
    gateway.lake.compact(int(asked["files"]))
    return []


def _rebucket(gateway: Gateway, asked: Asked) -> list[str]:
    gateway.lake.rebucket(asked.get("buckets"))
    return []


def _retain(gateway: Gateway, asked: Asked) -> list[str]:
    retain(gateway, _instant(asked))
    return []


def _pull(gateway: Gateway, asked: Asked) -> list[str]:
    """Leave what changed since the last pull to a job of its own, which outlives its process step by step."""
    row = begin_endpoint(gateway, asked["source"], since=LAST)
    with closing(JobBook(gateway)) as book, suppress(ConflictError):  # it is waiting or under way already
        book.submit("pull", row.id, pull_id=row.id)
    return []


CALCULATIONS: Mapping[str, Callable[[Gateway, Asked], list[str]]] = {
    "evaluate": _evaluate,
    "attribute": _attribute,
    "settle": _settle,
    "claims": _claims,
    "scheduled-pull": _pull,
    "compact": _compact,
    "rebucket": _rebucket,
    "retain": _retain,
}
"""What each kind does with what is asked; it gives the ids of what is served then."""


def calculation_id(kind: str) -> str:
    """An id for a calculation that is asked for now."""
    return f"{kind}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def _instant(asked: Asked) -> datetime:
    return datetime.fromisoformat(asked["now"])
