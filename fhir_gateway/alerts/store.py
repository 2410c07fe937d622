"""Where alerts rest: each once, and for each channel what it has not been told yet."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fhir_gateway.alerts.models import KINDS, Alert, AlertChannel, Medium
from fhir_gateway.alerts.tables import (
    AlertChannelRow,
    AlertDeliveryRow,
    AlertEncounterRow,
    AlertEventRow,
    AlertSeenRow,
)
from fhir_gateway.db.engine import snapshot, table_of, transaction
from fhir_gateway.db.secrets import SecretBox
from fhir_gateway.errors import InputError, NotFoundError

_EVENT, _CHANNEL, _DELIVERY = table_of(AlertEventRow), table_of(AlertChannelRow), table_of(AlertDeliveryRow)
_SEEN, _ENCOUNTER = table_of(AlertSeenRow), table_of(AlertEncounterRow)
_MANY = 500
_FIELDS = ("kind", "text", "noted_at", "member", "contract", "about", "day")


class AlertStore:
    """Alerts, channels and deliveries in the control plane."""

    def __init__(self, engine: Engine, secret_box: SecretBox) -> None:
        self._engine = engine
        self._secrets = secret_box

    def add_channel(
        self, medium: Medium, target: str, kinds: Sequence[str], contract: str | None, by: str, at: datetime
    ) -> tuple[AlertChannel, str]:
        """A new channel, and the secret that its webhook's messages are signed with: it is shown once."""
        if unknown := sorted(set(kinds) - KINDS.keys()):
            raise InputError(f"kinds of alerts are {', '.join(KINDS)}; not {', '.join(unknown)}")
        identity, secret = f"channel-{secrets.token_hex(6)}", secrets.token_urlsafe(32)
        values = {
            "id": identity,
            "medium": medium,
            "target": self._secrets.encrypt(target.encode()),
            "secret": self._secrets.encrypt(secret.encode()) if medium == "webhook" else None,
            "kinds": " ".join(kinds),
            "contract": contract,
            "state": "active",
            "failures": 0,
            "due": 0,
            "made_at": at.isoformat(),
            "made_by": by,
        }
        with transaction(self._engine) as connection:
            connection.execute(sa.insert(_CHANNEL).values(values))
        return self.channel(identity), secret

    def remove_channel(self, channel: str) -> None:
        """Forget a channel and what it was not told; NotFoundError."""
        with transaction(self._engine) as connection:
            if not connection.execute(sa.delete(_CHANNEL).where(_CHANNEL.c.id == channel)).rowcount:
                raise NotFoundError("no such channel of alerts")
            connection.execute(sa.delete(_DELIVERY).where(_DELIVERY.c.channel == channel))

    def channels(self) -> list[AlertChannel]:
        """Every channel, oldest first."""
        with snapshot(self._engine) as connection:
            rows = connection.execute(sa.select(_CHANNEL).order_by(_CHANNEL.c.made_at, _CHANNEL.c.id)).all()
        return [self._channel(row) for row in rows]

    def channel(self, channel: str) -> AlertChannel:
        """One channel; NotFoundError."""
        with snapshot(self._engine) as connection:
            row = connection.execute(sa.select(_CHANNEL).where(_CHANNEL.c.id == channel)).first()
        if row is None:
            raise NotFoundError("no such channel of alerts")
        return self._channel(row)

    def secret(self, channel: str) -> bytes:
        """What a webhook's messages are signed with: for the one who sends."""
        with snapshot(self._engine) as connection:
            sealed = connection.scalar(sa.select(_CHANNEL.c.secret).where(_CHANNEL.c.id == channel))
        if sealed is None:
            raise NotFoundError("the channel signs nothing")
        return self._secrets.decrypt(sealed)

    def note(self, channel: str, **values: Any) -> None:
        """Write down how delivery goes."""
        with transaction(self._engine) as connection:
            connection.execute(sa.update(_CHANNEL).where(_CHANNEL.c.id == channel).values(values))

    def post(
        self,
        alerts: Sequence[Alert],
        seen: Mapping[str, str],
        told: Iterable[Mapping[str, str]] = (),
        visible: Mapping[str, Collection[str]] | None = None,
    ) -> list[Alert]:
        """Write alerts that are new with their deliveries and what was looked at, all or none; the new ones.

        ``told`` are rows of Encounters (encounter, kind, day); ``visible`` the persons of each contract that a channel
        is limited to.
        """
        ids = [one.id for one in alerts]
        with transaction(self._engine, lock="alerts") as connection:
            known: set[str] = set()
            for first in range(0, len(ids), _MANY):
                part = _EVENT.c.id.in_(ids[first : first + _MANY])
                known |= set(connection.scalars(sa.select(_EVENT.c.id).where(part)))
            new = list({one.id: one for one in alerts if one.id not in known}.values())
            _insert(
                connection, _EVENT, [{"id": one.id} | {name: getattr(one, name) for name in _FIELDS} for one in new]
            )
            channels = [self._channel(row) for row in connection.execute(sa.select(_CHANNEL))]
            deliveries = [
                {"channel": channel.id, "event": one.id}
                for channel in channels
                for one in new
                if channel.state != "off" and _concerns(channel, one, visible or {})
            ]
            _insert(connection, _DELIVERY, deliveries)
            _insert(connection, _ENCOUNTER, _untold(connection, told))
            for subject, value in seen.items():
                if not connection.execute(
                    sa.update(_SEEN).where(_SEEN.c.subject == subject).values(value=value)
                ).rowcount:
                    connection.execute(sa.insert(_SEEN).values(subject=subject, value=value))
        return new

    def seen(self) -> dict[str, str]:
        """What was looked at last, by subject."""
        with snapshot(self._engine) as connection:
            return {row.subject: row.value for row in connection.execute(sa.select(_SEEN))}

    def told(self) -> pa.Table:
        """Encounters whose events were told: encounter, kind."""
        with snapshot(self._engine) as connection:
            rows = connection.execute(sa.select(_ENCOUNTER.c.encounter, _ENCOUNTER.c.kind)).all()
        schema = pa.schema([("encounter", pa.string()), ("kind", pa.string())])
        return pa.Table.from_pylist([dict(row._mapping) for row in rows], schema=schema)

    def waiting(self, channel: str, limit: int) -> list[tuple[int, Alert]]:
        """The oldest alerts that a channel was not told of, with their numbers."""
        chosen = sa.select(_DELIVERY.c.number, _EVENT).join_from(_DELIVERY, _EVENT, _DELIVERY.c.event == _EVENT.c.id)
        chosen = chosen.where(_DELIVERY.c.channel == channel).order_by(_DELIVERY.c.number).limit(limit)
        with snapshot(self._engine) as connection:
            return [(row.number, _alert(row)) for row in connection.execute(chosen)]

    def delivered(self, numbers: Sequence[int]) -> None:
        """These deliveries are done."""
        with transaction(self._engine) as connection:
            connection.execute(sa.delete(_DELIVERY).where(_DELIVERY.c.number.in_(list(numbers))))

    def recent(self, count: int, kind: str | None = None) -> list[tuple[str, Alert]]:
        """The newest alerts with their ids."""
        chosen = sa.select(_EVENT).order_by(_EVENT.c.noted_at.desc(), _EVENT.c.id).limit(count)
        if kind is not None:
            chosen = chosen.where(_EVENT.c.kind == kind)
        with snapshot(self._engine) as connection:
            return [(row.id, _alert(row)) for row in connection.execute(chosen)]

    def page(
        self,
        count: int,
        skip: int = 0,
        kind: str | None = None,
        members: sa.Select[Any] | None = None,
        contracts: Collection[str] = (),
    ) -> tuple[list[tuple[str, Alert]], int]:
        """Alerts with their ids, the newest first, and how many there are.

        ``members`` chooses the persons that somebody sees who is limited to some, ``contracts`` are those of theirs.
        """
        where = [] if kind is None else [_EVENT.c.kind == kind]
        if members is not None:
            where.append(sa.or_(_EVENT.c.member.in_(members), _EVENT.c.contract.in_(list(contracts))))
        chosen = sa.select(_EVENT).where(*where).order_by(_EVENT.c.noted_at.desc(), _EVENT.c.id)
        with snapshot(self._engine) as connection:
            total = connection.scalar(sa.select(sa.func.count()).select_from(_EVENT).where(*where)) or 0
            rows = connection.execute(chosen.limit(count).offset(skip)).all()
        return [(row.id, _alert(row)) for row in rows], total

    def find(self, alert: str) -> Alert:
        """One alert by its id; NotFoundError."""
        with snapshot(self._engine) as connection:
            row = connection.execute(sa.select(_EVENT).where(_EVENT.c.id == alert)).first()
        if row is None:
            raise NotFoundError("there is no such alert")
        return _alert(row)

    def untold(self) -> dict[str, int]:
        """How many alerts wait for each channel."""
        counted = sa.select(_DELIVERY.c.channel, sa.func.count().label("waiting")).group_by(_DELIVERY.c.channel)
        with snapshot(self._engine) as connection:
            return {row.channel: row.waiting for row in connection.execute(counted)}

    def _channel(self, row: Any) -> AlertChannel:
        target = self._secrets.decrypt(row.target).decode()
        kinds = tuple(row.kinds.split())
        rest = (row.contract, row.state, row.failures, row.failing_since, row.due, row.error)
        return AlertChannel(row.id, row.medium, target, kinds, *rest)


def _untold(connection: Connection, told: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Rows of Encounters that are not written yet, each once."""
    rows = {(row["encounter"], row["kind"]): dict(row) for row in told}
    names = sorted({encounter for encounter, _ in rows})
    for first in range(0, len(names), _MANY):
        some = _ENCOUNTER.c.encounter.in_(names[first : first + _MANY])
        for one in connection.execute(sa.select(_ENCOUNTER.c.encounter, _ENCOUNTER.c.kind).where(some)):
            rows.pop((one.encounter, one.kind), None)
    return list(rows.values())


def _alert(row: Any) -> Alert:
    return Alert(**{name: getattr(row, name) for name in _FIELDS}, key="", known_as=row.id)


def _concerns(channel: AlertChannel, alert: Alert, visible: Mapping[str, Collection[str]]) -> bool:
    if channel.kinds and alert.kind not in channel.kinds:
        return False
    if channel.contract is None or alert.contract == channel.contract:
        return True
    return alert.member is not None and alert.member in visible.get(channel.contract, ())


def _insert(connection: Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    for first in range(0, len(rows), _MANY):
        connection.execute(sa.insert(table), rows[first : first + _MANY])
