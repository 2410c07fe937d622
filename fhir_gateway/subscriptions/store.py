"""Where subscriptions stand: terms and secrets, events with their numbers, how delivery goes. Moments are epoch ms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fhir_gateway.db.engine import snapshot, table_of, transaction
from fhir_gateway.db.resource_tables import ResourceChangeRow
from fhir_gateway.db.secrets import SecretBox
from fhir_gateway.errors import InputError, Location, NotFoundError
from fhir_gateway.subscriptions.models import HIDDEN, Asked, Terms
from fhir_gateway.subscriptions.notifications import Event, Standing
from fhir_gateway.subscriptions.tables import ChannelRow, EventRow

_CHANNEL, _EVENT, _CHANGE = table_of(ChannelRow), table_of(EventRow), table_of(ResourceChangeRow)
_LOCK = "subscription"


class _Taken(Exception):
    """Somebody else made events of these changes: nothing of this transaction stays."""


@dataclass(frozen=True, slots=True)
class Change:
    """A version of a resource that subscribers were not told of yet."""

    number: int
    type: str
    id: str
    version: int


@dataclass(frozen=True, slots=True)
class Channel:
    """A subscription at work. ``sent`` 0: no handshake yet; ``delivered`` < ``events``: events wait."""

    id: str
    client_id: str
    status: str
    terms: Terms
    events: int
    delivered: int
    failures: int
    failing_since: int | None
    due: int
    sent: int
    error: str | None

    @property
    def standing(self) -> Standing:
        """What statuses say."""
        return Standing(self.id, self.terms.topic, self.status, self.events, self.error)


class SubscriptionStore:
    """Channels and events in the control plane."""

    def __init__(self, engine: Engine, secrets: SecretBox) -> None:
        self._engine = engine
        self._secrets = secrets

    def save(self, connection: Connection, subscription: str, client_id: str, asked: Asked, now: int) -> str:
        """Write a channel beside its resource, in the caller's transaction; returns its status.

        A channel that is to be at work begins with a handshake; its events stay. Raises InputError for a hidden header
        that the subscription does not have.
        """
        row = connection.execute(sa.select(_CHANNEL).where(_CHANNEL.c.id == subscription)).first()
        before = {} if row is None or row.headers is None else dict(self._opened(row.headers))
        headers = [(name, before.get(name, HIDDEN) if value == HIDDEN else value) for name, value in asked.headers]
        if any(value == HIDDEN for _, value in headers):
            raise InputError(
                "the value of this header is not known", location=Location(path="Subscription.channel.header")
            )
        status = "off" if asked.off else "requested"
        values: dict[str, Any] = {
            "client_id": client_id,
            "status": status,
            "terms": asked.terms.to_dict(),
            "headers": self._secrets.encrypt(orjson.dumps(headers)) if headers else None,
            "failures": 0,
            "failing_since": None,
            "due": now,
            "sent": 0,
            "error": None,
        }
        if row is None:
            connection.execute(sa.insert(_CHANNEL).values(id=subscription, events=0, delivered=0, **values))
        else:
            connection.execute(sa.update(_CHANNEL).where(_CHANNEL.c.id == subscription).values(values))
        return status

    @staticmethod
    def forget(connection: Connection, subscription: str) -> None:
        """Delete a channel and its events, in the caller's transaction."""
        connection.execute(sa.delete(_EVENT).where(_EVENT.c.subscription == subscription))
        connection.execute(sa.delete(_CHANNEL).where(_CHANNEL.c.id == subscription))

    def channel(self, subscription: str) -> Channel:
        """One channel; NotFoundError."""
        found = self._channels(_CHANNEL.c.id == subscription)
        if not found:
            raise NotFoundError("there is no such Subscription")
        return found[0]

    def at_work(self) -> list[Channel]:
        """Every channel that is not off."""
        return self._channels(_CHANNEL.c.status != "off")

    def count(self, client_id: str) -> int:
        """Channels of a client."""
        with snapshot(self._engine) as connection:
            counted = sa.select(sa.func.count()).select_from(_CHANNEL).where(_CHANNEL.c.client_id == client_id)
            return connection.scalar(counted) or 0

    def headers(self, subscription: str) -> list[tuple[str, str]]:
        """The subscriber's headers in clear: for the one who sends."""
        with snapshot(self._engine) as connection:
            sealed = connection.scalar(sa.select(_CHANNEL.c.headers).where(_CHANNEL.c.id == subscription))
        return [] if sealed is None else self._opened(sealed)

    def changes(self, limit: int) -> list[Change]:
        """The oldest changes that wait."""
        with snapshot(self._engine) as connection:
            rows = connection.execute(sa.select(_CHANGE).order_by(_CHANGE.c.number).limit(limit)).all()
        return [Change(row.number, row.type, row.id, row.version) for row in rows]

    def spread(self, changes: Sequence[Change], told: Mapping[str, Sequence[Change]], now: int) -> bool:
        """Make events of changes, by subscription, and let go of the changes; all or nothing.

        False when somebody else did it meanwhile.
        """
        numbers = [one.number for one in changes]
        try:
            with transaction(self._engine, lock=_LOCK) as connection:
                if connection.execute(sa.delete(_CHANGE).where(_CHANGE.c.number.in_(numbers))).rowcount != len(numbers):
                    raise _Taken
                for subscription, found in told.items():
                    self._add_events(connection, subscription, found, now)
        except _Taken:
            return False
        return True

    @staticmethod
    def _add_events(connection: Connection, subscription: str, found: Sequence[Change], now: int) -> None:
        here = _CHANNEL.c.id == subscription
        last = connection.scalar(sa.select(_CHANNEL.c.events).where(here, _CHANNEL.c.status != "off"))
        if last is None or not found:
            return
        rows = [
            {
                "subscription": subscription,
                "number": last + place,
                "type": one.type,
                "resource_id": one.id,
                "version": one.version,
                "at": now,
            }
            for place, one in enumerate(found, 1)
        ]
        connection.execute(sa.insert(_EVENT), rows)
        connection.execute(sa.update(_CHANNEL).where(here).values(events=last + len(rows)))

    def events(self, subscription: str, first: int, last: int, limit: int) -> list[Event]:
        """Events by number, both ends included, the oldest first."""
        where = (_EVENT.c.subscription == subscription, _EVENT.c.number >= first, _EVENT.c.number <= last)
        with snapshot(self._engine) as connection:
            rows = connection.execute(sa.select(_EVENT).where(*where).order_by(_EVENT.c.number).limit(limit)).all()
        return [Event(row.number, row.at, row.type, row.resource_id, row.version) for row in rows]

    @staticmethod
    def note(connection: Connection, subscription: str, since: Channel, **values: Any) -> bool:
        """Note how a delivery went; False when the subscription was changed or deleted since ``since`` was read."""
        same = (getattr(_CHANNEL.c, name) == getattr(since, name) for name in ("status", "sent", "due", "failures"))
        return bool(
            connection.execute(sa.update(_CHANNEL).where(_CHANNEL.c.id == subscription, *same).values(values)).rowcount
        )

    def sweep(self, before: int) -> None:
        """Forget events that were delivered and are older than a moment."""
        delivered = sa.select(_CHANNEL.c.delivered).where(_CHANNEL.c.id == _EVENT.c.subscription).scalar_subquery()
        with transaction(self._engine) as connection:
            connection.execute(sa.delete(_EVENT).where(_EVENT.c.at < before, _EVENT.c.number <= delivered))

    def _channels(self, *where: sa.ColumnElement[bool]) -> list[Channel]:
        with snapshot(self._engine) as connection:
            rows = connection.execute(sa.select(_CHANNEL).where(*where).order_by(_CHANNEL.c.id)).all()
        return [
            Channel(
                row.id,
                row.client_id,
                row.status,
                Terms.of(row.terms),
                row.events,
                row.delivered,
                row.failures,
                row.failing_since,
                row.due,
                row.sent,
                row.error,
            )
            for row in rows
        ]

    def _opened(self, sealed: bytes) -> list[tuple[str, str]]:
        lines: Iterable[Sequence[str]] = orjson.loads(self._secrets.decrypt(sealed))
        return [(name, value) for name, value in lines]
