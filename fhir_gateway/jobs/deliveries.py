"""Telling subscribers: changes become events, events become notifications, until every one is taken.

A change is noted in the transaction that makes it, an event has its number before anything is sent, and it counts as
delivered when the receiver took it: whatever is killed on the way, it is sent, perhaps twice, with the same number and
in order. A receiver that fails is asked again, later and later; others do not wait for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from fhir_gateway.db.audience import Audience
from fhir_gateway.db.search.dates import parse_range
from fhir_gateway.db.search.matching import matches
from fhir_gateway.db.tables import metadata
from fhir_gateway.errors import ConflictError, InputError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.patience import Patience, Rounds, is_due, now_ms
from fhir_gateway.jobs.rest_hook import DeliveryError, RestHook
from fhir_gateway.subscriptions.notifications import Event, Kind, notification
from fhir_gateway.subscriptions.store import Change, Channel
from fhir_gateway.subscriptions.topics import TOPICS

_log = logging.getLogger("fhir_gateway.subscriptions")
_AT_ONCE = 500
"""Changes looked at together."""
_THREADS = 8
"""Receivers that may be slow at the same time before others wait."""


def spread(gateway: Gateway) -> int:
    """Make events of the changes that wait; how many changes were looked at.

    Who subscribed is told of what they may see, by their registration as it is now.
    """
    changes = gateway.subscriptions.changes(_AT_ONCE)
    if not changes:
        return 0
    told: dict[str, list[Change]] = {}
    for channel in gateway.subscriptions.at_work():
        audience = audience_of(gateway, channel)
        mine = [one for one in changes if one.type == channel.terms.resource_type]
        if mine and audience is not None:
            found = _matching(gateway, channel, audience, {one.id for one in mine})
            told[channel.id] = [one for one in mine if one.id in found]
    gateway.subscriptions.spread(changes, told, now_ms())
    return len(changes)


def audience_of(gateway: Gateway, channel: Channel) -> Audience | None:
    """What a subscriber may see of the topic's type now; None when they may not read it any more."""
    client = gateway.authorization.store.client(channel.client_id)
    if client is None or not any(scope.covers(channel.terms.resource_type, "r") for scope in client.scopes):
        return None
    return replace(client.audience, viewer=client.client_id)


def _matching(gateway: Gateway, channel: Channel, audience: Audience, ids: set[str]) -> set[str]:
    """Ids of the visible resources that meet the filters."""
    kind = channel.terms.resource_type
    criteria = (*TOPICS[channel.terms.topic].criteria, *channel.terms.criteria)
    seen = gateway.resources.seen_by(audience).read_many((kind, one) for one in sorted(ids))
    base, now = _base(gateway), datetime.now(UTC)
    return {one.id for one in seen if not criteria or matches(one.json(), criteria, base, now)}


def deliver(gateway: Gateway, hook: RestHook, subscription: str, patience: Patience | None = None) -> bool:
    """Send what a subscription has waiting: a handshake, events, or a heartbeat; whether there was anything.

    One process at a time for each subscription, so that events come in order.
    """
    try:
        with hold(gateway, f"subscription-{subscription}"):
            channel = gateway.subscriptions.channel(subscription)
            kind = _due(channel, now_ms())
            if kind is None:
                return False
            _attempt(gateway, hook, channel, kind, patience or Patience())
            return True
    except (ConflictError, NotFoundError):
        return False  # somebody else is at it, or has deleted it


def _due(channel: Channel, now: int) -> Kind | None:
    """What is to be sent now."""
    if channel.status == "off" or not is_due(channel.due, now):
        return None
    if not channel.sent:
        return "handshake"
    if channel.delivered < channel.events:
        return "event-notification"
    heartbeat = channel.terms.heartbeat
    return "heartbeat" if heartbeat is not None and not now - heartbeat * 1000 < channel.sent <= now else None


def _attempt(gateway: Gateway, hook: RestHook, channel: Channel, kind: Kind, patience: Patience) -> None:
    terms = channel.terms
    audience = audience_of(gateway, channel)
    if audience is None:
        _note(gateway, channel, "off", "the subscriber may not read this any more")
        return
    if terms.end is not None and parse_range(terms.end)[0] <= now_ms() * 1000:
        _note(gateway, channel, "off", None)
        return
    events = pending(gateway, channel, audience) if kind == "event-notification" else []
    standing = replace(channel.standing, error=None)
    body = notification(_base(gateway), standing, kind, events, terms.content, datetime.now(UTC))
    try:
        hook.send(terms.endpoint, gateway.subscriptions.headers(channel.id), body, terms.timeout)
    except (DeliveryError, InputError) as error:
        after, reason = patience.after(channel.status, channel.failures, channel.failing_since), str(error)
        _log.warning("subscription %s: %s, attempt %d, %s", channel.id, reason, after.failures, after.state)
        _note(
            gateway, channel, after.state, reason,
            failures=after.failures, failing_since=after.failing_since, due=after.due,
        )  # fmt: skip
        return
    delivered = events[-1].number if events else channel.delivered
    now = now_ms()
    values = {"failures": 0, "failing_since": None, "due": now, "sent": now, "delivered": delivered}
    _note(gateway, channel, "active", None, told=() if terms.content == "empty" else events, **values)


def pending(gateway: Gateway, channel: Channel, audience: Audience) -> list[Event]:
    """The next events with what the subscriber sees of them now."""
    first = channel.delivered + 1
    found = gateway.subscriptions.events(channel.id, first, channel.events, channel.terms.max_count)
    return focused(gateway, found, audience)


def focused(gateway: Gateway, events: Sequence[Event], audience: Audience) -> list[Event]:
    """Events with their resources as an audience sees them now."""
    seen = gateway.resources.seen_by(audience).read_many({(one.type, one.resource_id) for one in events})
    by_id = {(one.type, one.id): one for one in seen}
    return [replace(one, focus=by_id.get((one.type, one.resource_id))) for one in events]


def _note(
    gateway: Gateway, channel: Channel, status: str, error: str | None, told: Sequence[Event] = (), **values: Any
) -> None:
    """Note how it went and what was disclosed; the Subscription says so when its status is another one."""
    with gateway.resources.writing() as writing:
        connection = writing.connection
        noted = gateway.subscriptions.note(connection, channel.id, channel, status=status, error=error, **values)
        if told:
            connection.execute(sa.insert(metadata().tables["audit_event"]), [_audited(channel, one) for one in told])
        if not noted or status == channel.status:
            return
        stored = writing.current("Subscription", channel.id)
        if stored is not None and not stored.deleted:
            resource = {name: value for name, value in stored.json().items() if name != "error"}
            writing.put_many([resource | {"status": status} | ({"error": error} if error else {})])


def _audited(channel: Channel, event: Event) -> dict[str, Any]:
    """A row of the audit trail: what this subscriber was told of."""
    return {
        "recorded": datetime.now(UTC),
        "request_id": f"notification-{event.number}",
        "client_id": channel.client_id,
        "interaction": "notification",
        "resource_type": event.type,
        "resource_id": event.resource_id,
        "resource_version": event.version,
        "parameters": "",
        "status": 200,
        "persons": "*" if channel.terms.content == "full-resource" else None,
    }


def _base(gateway: Gateway) -> str:
    return f"{gateway.settings.public_url.rstrip('/')}/fhir"


class Deliveries(Rounds):
    """Tells subscribers from this process while a ``with`` block lasts."""

    def __init__(self, gateway: Gateway, patience: Patience | None = None) -> None:
        self._gateway = gateway
        self._patience = patience or Patience()
        super().__init__("subscriptions", self._patience.pause, _log)
        self._hook = RestHook(public_only=gateway.settings.subscription_endpoints == "public")
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="subscriber")
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._swept: float | None = None

    def round(self) -> None:
        """Make events of all changes, begin with who is due, and now and then forget old events."""
        while spread(self._gateway) == _AT_ONCE and not self.leaving.is_set():
            pass
        now = now_ms()
        for channel in self._gateway.subscriptions.at_work():
            if _due(channel, now) is not None:
                self._begin(channel.id)
        if self._swept is None or time.monotonic() - self._swept > self._patience.keep / 100:
            self._gateway.subscriptions.sweep(now - int(self._patience.keep * 1000))
            self._swept = time.monotonic()

    def close(self) -> None:
        """Wait for those who are being told."""
        self._pool.shutdown(cancel_futures=True)
        self._hook.close()

    def _begin(self, subscription: str) -> None:
        with self._lock:
            if subscription in self._busy:
                return
            self._busy.add(subscription)
        self._pool.submit(self._deliver, subscription)

    def _deliver(self, subscription: str) -> None:
        """Send until nothing waits, or it fails."""
        try:
            while not self.leaving.is_set() and deliver(self._gateway, self._hook, subscription, self._patience):
                pass
        except Exception:  # noqa: BLE001 - the next round tries again
            _log.exception("a notification of subscription %s was not sent; trying again", subscription)
        finally:
            with self._lock:
                self._busy.discard(subscription)
