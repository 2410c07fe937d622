"""What the pages about quality show of everybody, or of those whom somebody sees: strata, rates over time, providers.

Each is a kept view (:mod:`fhir_gateway.jobs.kept_views`): the first who asks computes it, an evaluation job computes
those of everybody beforehand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

import pyarrow as pa

from fhir_gateway.db.audience import Audience
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.equity.metrics import metrics_of
from fhir_gateway.equity.stratify import Breakdown, total
from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribution_runs import attributions_folder
from fhir_gateway.jobs.comparison import By, Whose, cell_json, compare
from fhir_gateway.jobs.equity import Period, Question, newest_runs, reference_tables, stratified
from fhir_gateway.jobs.kept_views import Json, kept_view
from fhir_gateway.measures.model import RunHeader


@dataclass(frozen=True)
class Seen:
    """Somebody's part of the population, and a key that changes when it does."""

    gateway: Gateway
    audience: Audience

    @cached_property
    def store(self) -> ResourceStore:
        """What is served, as it is seen."""
        return self.gateway.resources.seen_by(self.audience)

    @property
    def limited(self) -> bool:
        """Whether somebody's data is hidden."""
        return not self.audience.unlimited

    @cached_property
    def members(self) -> list[str] | None:
        """Those who are seen; None: everybody."""
        return self.store.members()

    def sees(self, member: str) -> bool:
        """Whether one member is seen, without reading who else is."""
        return not self.limited or bool(self.store.read_many([("Patient", member)]))

    @cached_property
    def tins(self) -> frozenset[str] | None:
        """Practices that are seen; None: all, as far as their members are."""
        labels = self.audience.labels
        own = frozenset(one.partition(":")[2] for one in labels or () if one.startswith("organization:"))
        return own if labels is not None and len(own) == len(labels) else None

    @cached_property
    def key(self) -> list[str]:
        """Names the part: labels and the versions of the lists that say who is in it."""
        return [*sorted(self.audience.labels or ()), *self.lists]

    @cached_property
    def lists(self) -> list[str]:
        """Lists (with their versions) that say who is seen; none of who sees everybody."""
        return self.store.stamps("Group") if self.limited else []

    def whose(self) -> Whose:
        """The same for a comparison of providers."""
        return Whose() if not self.limited else Whose(tuple(self.members or ()), self.tins)


def strata_view(seen: Seen, period: Period) -> Json:
    """The newest results of a period by every dimension, suppressed together; NotFoundError without results."""
    gateway = seen.gateway
    runs = newest_runs(gateway, period)
    if not runs:
        raise NotFoundError("there are no results of this period")
    tables = [f"{one.kind} {one.imported_at} {one.sha256}" for one in reference_tables(gateway).versions()]
    inputs = ["strata", *map(str, period), *runs, f"lake {gateway.lake.version}", *tables, *seen.key]

    def compute() -> Json:
        try:
            strata = stratified(gateway, period, Question(members=seen.members))
        except NotFoundError:  # results, but none of a kind that is broken down
            return {"notes": [], "members": 0, "metrics": []}
        by_metric: dict[str, list[Breakdown]] = defaultdict(list)
        for one in strata.breakdowns:
            by_metric[one.metric.id].append(one)
        return {
            "notes": list(strata.notes),
            "members": len(strata.dimensions.members),
            "metrics": [_metric(of) for of in by_metric.values()],
        }

    return kept_view(gateway, "strata-1", inputs, compute)


def _metric(of: Sequence[Breakdown]) -> Json:
    metric = of[0].metric
    return {
        "id": metric.id,
        "title": metric.title,
        "measure": metric.measure,
        "group": metric.group,
        "kind": metric.kind,
        "scale": metric.scale,
        "direction": metric.direction,
        "total": cell_json(of[0].total),
        "dimensions": [
            {
                "id": one.dimension.id,
                "title": one.dimension.title,
                "missing": one.missing_share,
                "declined": one.declined_share,
                "cells": [cell_json(cell) for cell in one.cells if cell.suppressed or cell.denominator],
            }
            for one in of
        ],
    }


def totals_view(seen: Seen, run: str) -> Json:
    """A kept run in one number for each group, of those who are seen; too few are hidden from who is limited."""
    gateway = seen.gateway

    def compute() -> Json:
        metrics, notes = metrics_of(gateway.results.load(run))
        threshold = {} if seen.limited else {"threshold": 1}
        cells = []
        for one in metrics:
            members = one.members if seen.members is None else pa.array(sorted(seen.members), pa.string())
            about = {"id": one.id, "group": one.group, "kind": one.kind, "scale": one.scale, "direction": one.direction}
            cells.append(about | {"title": one.title, "total": cell_json(total(one, members, **threshold))})
        return {"notes": notes, "metrics": cells}

    return kept_view(gateway, "totals-1", ["totals", run, *seen.key], compute)


def comparison_view(seen: Seen, run: str, contract_id: str, evidence: str, by: By) -> Json:
    """A kept run by provider of a kept attribution."""
    gateway = seen.gateway
    folder = attributions_folder(gateway, contract_id) / evidence
    inputs = ["comparison", run, contract_id, evidence, by, *seen.key]
    return kept_view(gateway, "comparison-1", inputs, lambda: compare(gateway, run, folder, by, seen.whose()))


def runs_by_measure(gateway: Gateway) -> dict[str, list[tuple[str, RunHeader]]]:
    """Kept runs of each measure (url), the newest of each period, the latest period first."""
    newest: dict[tuple[str, Period], tuple[Any, str, RunHeader]] = {}
    for run in gateway.results.runs():
        header = gateway.results.header(run)
        key = (header.canonical.partition("|")[0], header.period)
        if key not in newest or (header.evaluated_at, run) > newest[key][:2]:
            newest[key] = (header.evaluated_at, run, header)
    found: dict[str, list[tuple[str, RunHeader]]] = defaultdict(list)
    for (url, _), (_, run, header) in sorted(newest.items(), key=lambda one: one[0][1], reverse=True):
        found[url].append((run, header))
    return found


def refresh(gateway: Gateway, period: tuple[date, date]) -> None:
    """Compute the views of everybody of a period, so that nobody waits for them."""
    everybody = Seen(gateway, Audience())
    strata_view(everybody, period)
    for run in newest_runs(gateway, period):
        totals_view(everybody, run)
