"""Alerts out of the newest data: encounters, gaps, thresholds, pulls that failed. The first look says nothing.

What was looked at is written in the transaction that writes the alerts, so the same data never gives a second alert,
whatever is killed on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.alerts.encounters import happened, to_tell
from fhir_gateway.alerts.models import (
    KINDS,
    Alert,
    communication_request,
    resource_id,
)
from fhir_gateway.db.audience import Audience, label, labelled
from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.identity.encounters import PATHS, same_events
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.outreach import newest_runs
from fhir_gateway.jobs.publish import published_id
from fhir_gateway.jobs.settlement_runs import settled
from fhir_gateway.lake.claims import directory
from fhir_gateway.measures.gap import OPEN, gap_statuses
from fhir_gateway.measures.model import MeasureResult


@dataclass
class _Found:
    """Alerts, what was looked at for them, and Encounters that are told with them."""

    alerts: list[Alert] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    told: list[dict[str, str]] = field(default_factory=list)


def find(gateway: Gateway, now: datetime | None = None) -> list[Alert]:
    """Find what happened since the last look, keep it for the channels, and serve it."""
    now = instant(gateway, now)
    with hold(gateway, "alerts", wait=lambda: True):
        seen = gateway.alerts.seen()
        found = _Found()
        _encounters(gateway, found, seen, now)
        _gaps(gateway, found, seen, now)
        _thresholds(gateway, found, seen, now)
        _pulls(gateway, found, seen, now)
        limited = {one.contract for one in gateway.alerts.channels() if one.contract is not None}
        visible = {one: _persons(gateway, one) for one in sorted(limited)} if found.alerts else {}
        _serve(gateway, found.alerts)  # first: after a kill in between, the next look finds them served already
        return gateway.alerts.post(found.alerts, found.seen, found.told, visible)


def _serve(gateway: Gateway, alerts: Sequence[Alert]) -> None:
    """Serve what is not served yet; a second version would be a second event for subscribers."""
    served = {("CommunicationRequest", resource_id(one.id)) for one in alerts}
    present = {one.id for one in gateway.resources.read_many(served)}
    gateway.resources.put_many(_resources([one for one in alerts if resource_id(one.id) not in present]))


def _resources(alerts: Sequence[Alert]) -> Iterator[dict[str, Any]]:
    for one in alerts:
        resource = communication_request(one)
        yield resource if one.contract is None else labelled(resource, label("contract", one.contract))


def _persons(gateway: Gateway, contract: str) -> frozenset[str]:
    return frozenset(gateway.resources.seen_by(Audience.of([f"contract:{contract}"])).ids("Patient"))


def _encounters(gateway: Gateway, found: _Found, seen: Mapping[str, str], now: datetime) -> None:
    version = gateway.lake.version
    if seen.get("lake") == str(version):
        return
    found.seen["lake"] = str(version)
    day = now.date() + timedelta(1)  # somewhere it is tomorrow already
    since = now.date() - timedelta(gateway.settings.alert_days)
    rows = gateway.lake.read("Encounter", list(PATHS), version=version)
    members = pc.unique(rows.filter(_late(rows, since))["_member"])
    rows = rows.filter(pc.is_in(rows["_member"], value_set=members.drop_null()))
    precedence = tuple(one.name for one in gateway.endpoints.all())
    events = same_events(rows, directory(gateway.lake, version), precedence)
    news = happened(rows, events, gateway.alerts.told(), since, day)
    told = news.filter(pc.invert(news["told"])).to_pylist()
    found.told += [{"encounter": one["encounter"], "kind": one["kind"], "day": one["day"].isoformat()} for one in told]
    if "lake" not in seen:
        return
    for one in to_tell(news).to_pylist():
        source, _, identity = one["encounter"].partition("/")
        found.alerts.append(
            Alert(
                one["kind"],
                one["encounter"],
                f"{KINDS[one['kind']]}, {one['day']}",
                now.isoformat(),
                member=one["member"],
                about=f"Encounter/{published_id(source, identity)}",
                day=one["day"].isoformat(),
            )
        )


def _late(rows: pa.Table, since: date) -> pa.Array:
    """Rows that begin or end on a day or later; days are texts here, in the order of time."""
    first, last = pc.struct_field(rows["period"], "start"), pc.struct_field(rows["period"], "end")
    late = [pc.fill_null(pc.greater_equal(one, since.isoformat()), False) for one in (first, last)]
    return pc.or_(*late)


def _gaps(gateway: Gateway, found: _Found, seen: Mapping[str, str], now: datetime) -> None:
    for run, header in newest_runs(gateway):
        subject = f"gap {header.url} {header.period[0]}"[:500]
        former = seen.get(subject)
        if former == run:
            continue
        found.seen[subject] = run
        if former is None:
            continue
        with suppress(NotFoundError):  # the run before was deleted: this one begins anew
            before, present = gateway.results.load(former), gateway.results.load(run)
            found.alerts += _changed_gaps(before, present, run, now)


def _changed_gaps(before: MeasureResult, present: MeasureResult, run: str, now: datetime) -> Iterator[Alert]:
    """Gaps that opened and closed between two runs of a measure; who left the measure has no alert."""
    for group in present.groups:
        earlier = next((one for one in before.groups if one.id == group.id), None)
        statuses = gap_statuses(group, present.period, now)
        former = None if earlier is None else gap_statuses(earlier, before.period, now)
        if statuses is None or former is None:
            continue
        open_now, open_then = _open(present, statuses), _open(before, former)
        closed_now = present.members.filter(pa.array(np.array(statuses) == "closed-gap"))
        opened = open_now.filter(pc.invert(pc.is_in(open_now, value_set=open_then)))
        closed = closed_now.filter(pc.is_in(closed_now, value_set=open_then))
        for kind, members in (("gap-opened", opened), ("gap-closed", closed)):
            for member in members.to_pylist():
                yield Alert(
                    kind,
                    f"{run}|{group.id}|{member}",
                    f"{KINDS[kind]}: {present.title or present.name}"[:500],
                    now.isoformat(),
                    member=member,
                    about=f"MeasureReport/{run}-{member}",
                )


def _open(result: MeasureResult, statuses: Sequence[str]) -> pa.Array:
    return result.members.filter(pa.array(np.isin(np.array(statuses), OPEN)))


def _thresholds(gateway: Gateway, found: _Found, seen: Mapping[str, str], now: datetime) -> None:
    for one in gateway.settings.alert_thresholds:
        runs = gateway.settlements.runs(one.contract)
        if not runs:
            continue
        run, _, settlement = settled(gateway, runs[-1].id)
        line = next((line for line in settlement.lines if line.id == one.line), None)
        if line is None or line.value is None:
            continue
        side = "below" if line.value < one.value else "at or above"
        subject = f"threshold {one.contract} {one.line} {one.value}"[:500]
        if seen.get(subject, "").partition(" from ")[0] == side:
            continue
        found.seen[subject] = f"{side} from {run.id}"
        if subject in seen:
            text = f"{one.contract}: {line.label} is {side} {one.value}"[:500]
            found.alerts.append(Alert("threshold", f"{subject}|{run.id}", text, now.isoformat(), contract=one.contract))


def _pulls(gateway: Gateway, found: _Found, seen: Mapping[str, str], now: datetime) -> None:
    since = seen.get("pulls", "")
    failed = [one for one in gateway.pulls.recent(200) if one.state == "failed" and (one.finished or "") > since]
    found.seen["pulls"] = max([since, *(one.finished or "" for one in failed)])
    for one in failed if "pulls" in seen else ():
        text = f"pull of {one.source} failed: see `fhir-gateway ledger`"
        found.alerts.append(Alert("endpoint-failed", one.id, text, now.isoformat()))


def wanted(gateway: Gateway) -> bool:
    """Whether somebody wants to be told of anything."""
    if any(one.state != "off" for one in gateway.alerts.channels()):
        return True
    return any(one.terms.resource_type == "CommunicationRequest" for one in gateway.subscriptions.at_work())
