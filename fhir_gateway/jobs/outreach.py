"""Outreach out of the newest data: all reasons of everybody who may be called, states brought up to it, and lists."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.db.audience import EVERYONE, Audience
from fhir_gateway.errors import InputError, Location, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.prediction_inputs import buckets
from fhir_gateway.jobs.predictions import SERVED_DAYS, newest_scores, served_rows
from fhir_gateway.jobs.work_lists import newest_work_list
from fhir_gateway.measures.gap import OPEN, gap_statuses
from fhir_gateway.measures.model import MeasureResult, RunHeader
from fhir_gateway.outreach.contact import CONSENT_COLUMNS, PATIENT_COLUMNS, contacts, excluded
from fhir_gateway.outreach.forms import communication_request
from fhir_gateway.outreach.models import ITEMS, LEFT
from fhir_gateway.outreach.people import people
from fhir_gateway.outreach.reasons import follow_ups, missed_visits

MONTHS = 12
"""Months without an office visit after which somebody is called."""
_SLICE = 25_000


@dataclass(frozen=True, slots=True)
class OutreachReport:
    """What a refresh came to: items by reason, who may not be called by why, changes by state, persons to call."""

    day: date
    reasons: Mapping[str, int]
    excluded: Mapping[str, int]
    changes: Mapping[str, int]
    people: int


@dataclass(frozen=True, slots=True)
class _Found:
    items: pa.Table
    scopes: tuple[str, ...]


def refresh(
    gateway: Gateway, day: date | None = None, *, months: int = MONTHS, now: datetime | None = None
) -> OutreachReport:
    """Find all reasons as of a day (default: today), close what the data has closed, and serve who is to be called."""
    if not 1 <= months <= 120:
        raise InputError("months without a visit are 1 to 120")
    now = instant(gateway, now)
    day = day or now.date()
    with hold(gateway, "outreach", wait=lambda: True):
        version = gateway.lake.version
        found = [
            _visits(gateway, version, day, months),
            *_gaps(gateway, now),
            *_risk(gateway, day),
            *_coding_gaps(gateway, day),
        ]
        items = pa.concat_tables([one.items for one in found])
        patients = gateway.lake.read("Patient", list(PATIENT_COLUMNS), version=version)
        consents = gateway.lake.read("Consent", list(CONSENT_COLUMNS), version=version)
        barred = excluded(patients, consents, gateway.outreach.blocked(), day)
        kept = items.filter(pc.invert(pc.is_in(items["member"], value_set=barred["member"])))
        scopes = [scope for one in found for scope in one.scopes]
        changes = gateway.outreach.refresh(kept, barred, scopes, day, now)
        rows = listed(gateway, now=now)
        _serve(gateway, rows, now)
    return OutreachReport(day, _counts(kept["reason"]), _counts(barred["why"]), changes, len(rows))


def listed(gateway: Gateway, audience: Audience = EVERYONE, now: datetime | None = None) -> list[dict[str, Any]]:
    """Who is to be called, one row per person, the most pressing first; those whom an audience sees.

    A consent that was withdrawn or a death since the last refresh is respected here already.
    """
    items = gateway.outreach.items(LEFT)
    if not items.num_rows:
        return []
    day = instant(gateway, now).date()
    patients = gateway.lake.read("Patient", list(PATIENT_COLUMNS))
    consents = gateway.lake.read("Consent", list(CONSENT_COLUMNS))
    barred = excluded(patients, consents, gateway.outreach.blocked(), day)
    items = items.filter(pc.invert(pc.is_in(items["member"], value_set=barred["member"])))
    if not audience.unlimited:
        seen = pa.array(gateway.resources.seen_by(audience).ids("Patient"), pa.string())
        items = items.filter(pc.is_in(items["member"], value_set=seen))
    rows: list[dict[str, Any]] = people(items, contacts(patients, day)).to_pylist()
    return rows


def item_of(gateway: Gateway, item: str, audience: Audience) -> dict[str, Any]:
    """An item whose person an audience sees; NotFoundError for any other."""
    found = gateway.outreach.item(item)
    if not audience.unlimited and not gateway.resources.seen_by(audience).read_many([("Patient", found["member"])]):
        raise NotFoundError("no such item of outreach")
    return found


def person_of(gateway: Gateway, member: str, now: datetime | None = None) -> tuple[dict[str, Any] | None, str | None]:
    """How a person is reached, and why they may not be called, as the newest data says; of one person alone."""
    day = instant(gateway, now).date()
    one = pa.array([member], pa.string())
    patients = gateway.lake.read("Patient", list(PATIENT_COLUMNS), members=one)
    consents = gateway.lake.read("Consent", list(CONSENT_COLUMNS), members=one)
    blocked = gateway.outreach.blocked()
    barred = excluded(patients, consents, blocked.filter(pc.equal(blocked, member)), day).to_pylist()
    found = contacts(patients, day).to_pylist()
    return (found[0] if found else None), (barred[0]["why"] if barred else None)


def of_contract(contract: str | None) -> Audience:
    """Everybody, or the persons of a contract."""
    return EVERYONE if contract is None else Audience.of([f"contract:{contract}"])


def _visits(gateway: Gateway, version: int, day: date, months: int) -> _Found:
    tables = [ITEMS.empty_table()]
    for bucket in buckets(gateway, version):
        inputs = bucket.inputs
        tables.append(missed_visits(bucket.persons["member"].combine_chunks(), inputs.office, day, months))
        tables.append(follow_ups(inputs.stays, inputs.emergency, inputs.office, day))
    return _Found(pa.concat_tables(tables), ("visits",))


def newest_runs(gateway: Gateway) -> list[tuple[str, RunHeader]]:
    """Of each measure the run of its latest period that was evaluated last."""
    newest: dict[str, tuple[str, RunHeader]] = {}
    for run in gateway.results.runs():
        header = gateway.results.header(run)
        former = newest.get(header.url)
        if former is None or _order(header) > _order(former[1]):
            newest[header.url] = (run, header)
    return [newest[url] for url in sorted(newest)]


def _order(header: RunHeader) -> tuple[date, datetime]:
    return header.period[1], header.evaluated_at


def _gaps(gateway: Gateway, now: datetime) -> Iterator[_Found]:
    for run, header in newest_runs(gateway):
        tables = [ITEMS.empty_table()]
        for part in gateway.results.slices(run, _SLICE, raw=False):
            tables += _open_gaps(part, now)
        yield _Found(pa.concat_tables(tables), (f"care-gap {header.url}",))


def _open_gaps(part: MeasureResult, now: datetime) -> Iterator[pa.Table]:
    for group in part.groups:
        statuses = gap_statuses(group, part.period, now)
        if statuses is None:
            continue
        members = part.members.filter(pa.array(np.isin(np.array(statuses), OPEN)))
        end = part.period[1]
        yield _items(
            members,
            "care-gap",
            f"{part.url}|{end}|{group.id}",
            f"care-gap {part.url}",
            part.title or part.name,
            end,
        )


def _items(members: pa.Array, reason: str, detail: str, scope: str, text: str, until: date | None) -> pa.Table:
    size = len(members)
    fixed = [pa.repeat(pa.scalar(one, pa.string()), size) for one in (reason, detail[:500], scope[:500], text[:500])]
    return pa.table([members, *fixed, pa.repeat(pa.scalar(until, pa.date32()), size)], schema=ITEMS)


def _risk(gateway: Gateway, day: date) -> Iterator[_Found]:
    """Those whose LACE or HOSPITAL is high after a stay of late, and the top of the work list, where there are such."""
    with suppress(NotFoundError):
        scores = newest_scores(gateway)
        of_stays = scores.filter(pc.is_in(scores["score"], value_set=pa.array(["lace", "hospital"])))
        late = served_rows(of_stays, day)
        members = pc.unique(late.filter(pc.equal(late["band"], "high"))["member"])
        text = f"high risk of readmission after a stay within {SERVED_DAYS} days"
        found = _items(members, "rising-risk", "readmission", "risk readmission", text, None)
        yield _Found(found, ("risk readmission",))
    with suppress(NotFoundError):
        ranked = newest_work_list(gateway)
        top = ranked.filter(pc.equal(ranked["tier"], "top-5"))["member"].combine_chunks()
        text = "among the 5 percent with the most expected avoidable cost"
        yield _Found(_items(top, "rising-risk", "work-list", "risk work-list", text, None), ("risk work-list",))


def _coding_gaps(gateway: Gateway, day: date) -> Iterator[_Found]:
    """Conditions of former years that this year has not seen yet, by whoever computes them."""
    year = (date(day.year, 1, 1), date(day.year, 12, 31))
    for source in gateway.coding_gaps:
        for model in source.models():
            found = source.gaps(model, year, gateway.lake.members().to_pylist())
            if found is None:
                continue
            rows = [
                {
                    "member": one.person,
                    "reason": "coding-gap",
                    "detail": f"{model.canonical} {day.year} {category.code}"[:500],
                    "scope": f"coding-gap {model.url}"[:500],
                    "text": category.display[:500],
                    "until": year[1],
                }
                for one in found
                for category in one.categories
                if category.cc_type == "historic" and category.evidence_status == "open-gap"
            ]
            yield _Found(pa.Table.from_pylist(rows, schema=ITEMS), (f"coding-gap {model.url}"[:500],))


def _serve(gateway: Gateway, rows: Sequence[Mapping[str, Any]], now: datetime) -> None:
    """Serve a CommunicationRequest per person; those of persons with nothing left to do are completed."""
    requests = [communication_request(one, now) for one in rows]
    present = {one["id"]: one for one in requests}
    former = [one for one in gateway.resources.ids("CommunicationRequest") if one.startswith("outreach-")]
    stored = [one.json() for one in gateway.resources.read_many(("CommunicationRequest", one) for one in former)]
    over = [{**one, "status": "completed"} for one in stored if one["id"] not in present and one["status"] == "active"]
    for one in stored:  # what is asked for already keeps its date, else nothing would ever stay the same
        if one["id"] in present and one["status"] == "active":
            present[one["id"]]["authoredOn"] = one["authoredOn"]
    gateway.resources.put_many([*present.values(), *over])


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return dict(sorted((one["values"], one["counts"]) for one in pc.value_counts(column).to_pylist()))


def block_file(gateway: Gateway, text: str, by: str) -> tuple[int, int]:
    """Load persons who are not to be contacted: how many are new, and how many ids are nobody's and were left out.

    A person's id per line, or CSV with a column ``person``.
    """
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    column = rows.pop(0).index("person") if rows and "person" in rows[0] else 0
    if any(len(row) <= column for row in rows):
        raise InputError("each line names a person", location=Location(rule="do-not-contact"))
    asked = {row[column].strip().removeprefix("Patient/") for row in rows}
    known = asked & set(gateway.lake.members().to_pylist())
    return gateway.outreach.block(known, by, datetime.now(UTC)), len(asked - known)
