"""Notifications and statuses in their R4 shape: a history Bundle whose first entry is the status as Parameters."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from fhir_gateway.db.resources import StoredResource
from fhir_gateway.subscriptions.models import BACKPORT, Content

Kind = Literal["handshake", "heartbeat", "event-notification", "query-status", "query-event"]


@dataclass(frozen=True, slots=True)
class Event:
    """One event; ``focus`` is the resource as the subscriber sees it now, None when it does not any more."""

    number: int
    at: int  # epoch milliseconds
    type: str
    resource_id: str
    version: int
    focus: StoredResource | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What a status says of a subscription."""

    id: str
    topic: str
    status: str
    events: int
    error: str | None = None


def status(
    base_url: str, standing: Standing, kind: Kind, events: Sequence[Event] = (), content: Content = "id-only"
) -> dict[str, Any]:
    """SubscriptionStatus as R4 Parameters (``backport-subscription-status-r4``)."""
    parameters: list[dict[str, Any]] = [
        {"name": "subscription", "valueReference": {"reference": f"{base_url}/Subscription/{standing.id}"}}
    ]
    if content != "empty":
        parameters.append({"name": "topic", "valueCanonical": standing.topic})
    parameters += [
        {"name": "status", "valueCode": standing.status},
        {"name": "type", "valueCode": kind},
        {"name": "events-since-subscription-start", "valueString": str(standing.events)},
    ]
    for event in events:
        part: list[dict[str, Any]] = [
            {"name": "event-number", "valueString": str(event.number)},
            {"name": "timestamp", "valueInstant": instant(event.at)},
        ]
        if content != "empty" and event.focus is not None:
            reference = f"{base_url}/{event.type}/{event.resource_id}"
            part.append({"name": "focus", "valueReference": {"reference": reference}})
        parameters.append({"name": "notification-event", "part": part})
    if standing.error:
        parameters.append({"name": "error", "valueCodeableConcept": {"text": standing.error}})
    return {
        "resourceType": "Parameters",
        "id": str(uuid.uuid4()),
        "meta": {"profile": [f"{BACKPORT}backport-subscription-status-r4"]},
        "parameter": parameters,
    }


def notification(
    base_url: str, standing: Standing, kind: Kind, events: Sequence[Event], content: Content, now: datetime
) -> bytes:
    """The Bundle that is sent; resources go into it byte by byte, and only where the content is ``full-resource``."""
    first = status(base_url, standing, kind, events, content)
    entries = [
        _entry(f"urn:uuid:{first['id']}", orjson.dumps(first), "GET", f"Subscription/{standing.id}/$status", "200")
    ]
    told = {} if content == "empty" else {(one.type, one.resource_id): one for one in events if one.focus is not None}
    for (kind_of, resource_id), event in told.items():
        url = f"{kind_of}/{resource_id}"
        body = event.focus.body if content == "full-resource" and event.focus is not None else None
        method, code = ("POST", "201") if event.version == 1 else ("PUT", "200")
        entries.append(_entry(f"{base_url}/{url}", body, method, kind_of if event.version == 1 else url, code))
    head = {
        "resourceType": "Bundle",
        "id": str(uuid.uuid4()),
        "meta": {"profile": [f"{BACKPORT}backport-subscription-notification-r4"]},
        "type": "history",
        "timestamp": now.isoformat(timespec="milliseconds"),
    }
    return orjson.dumps(head)[:-1] + b',"entry":[' + b",".join(entries) + b"]}"


def _entry(full_url: str, body: bytes | None, method: str, url: str, code: str) -> bytes:
    resource = b"" if body is None else b'"resource":' + body + b","
    rest: Mapping[str, Any] = {"request": {"method": method, "url": url}, "response": {"status": code}}
    return b'{"fullUrl":' + orjson.dumps(full_url) + b"," + resource + orjson.dumps(rest)[1:]


def instant(milliseconds: int) -> str:
    """A FHIR instant."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
