"""Tables of alerts: what happened, who is told, and what was looked at last."""

from __future__ import annotations

import sqlalchemy as sa
from sqlmodel import Column, Field, LargeBinary, SQLModel


class AlertEventRow(SQLModel, table=True):
    """Something that happened, once; ``id`` follows from what it is."""

    __tablename__ = "alert_event"

    id: str = Field(primary_key=True, max_length=64)
    kind: str = Field(index=True, max_length=32)
    member: str | None = Field(default=None, index=True, max_length=64)
    contract: str | None = Field(default=None, max_length=255)
    about: str | None = Field(default=None, max_length=200)  # reference to what is served
    day: str | None = Field(default=None, max_length=10)  # on which it happened
    text: str = Field(max_length=500)
    noted_at: str = Field(max_length=40)


class AlertChannelRow(SQLModel, table=True):
    """Who is told of which kinds: a webhook or a mailbox; ``contract`` limits it to that contract's persons."""

    __tablename__ = "alert_channel"

    id: str = Field(primary_key=True, max_length=64)
    medium: str = Field(max_length=16)  # webhook, mail
    target: bytes = Field(sa_column=Column(LargeBinary, nullable=False))  # encrypted: an address may hold a secret
    secret: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))  # encrypted
    kinds: str = Field(max_length=500)  # by blank; empty: all
    contract: str | None = Field(default=None, max_length=255)
    state: str = Field(max_length=16)  # active, error, off
    failures: int = 0
    failing_since: int | None = Field(default=None, sa_column=Column(sa.BigInteger, nullable=True))
    due: int = Field(default=0, sa_column=Column(sa.BigInteger, nullable=False))  # epoch milliseconds; not before
    error: str | None = Field(default=None, max_length=200)
    made_at: str = Field(max_length=40)
    made_by: str = Field(max_length=255)


class AlertDeliveryRow(SQLModel, table=True):
    """An event that a channel is to be told of; deleted when it was."""

    __tablename__ = "alert_delivery"

    number: int | None = Field(
        default=None,
        sa_column=Column(sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    )
    channel: str = Field(index=True, max_length=64)
    event: str = Field(max_length=64)


class AlertSeenRow(SQLModel, table=True):
    """What was looked at last: the lake version, a measure's run, on which side of a threshold a metric was."""

    __tablename__ = "alert_seen"

    subject: str = Field(primary_key=True, max_length=500)
    value: str = Field(max_length=500)


class AlertEncounterRow(SQLModel, table=True):
    """An Encounter (``source/id``) whose event was told: its copies are not told again."""

    __tablename__ = "alert_encounter"

    encounter: str = Field(primary_key=True, max_length=150)
    kind: str = Field(primary_key=True, max_length=32)
    day: str = Field(index=True, max_length=10)
