"""Tables of subscriptions: where each stands, and its events. Times are epoch milliseconds."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlmodel import JSON, Column, Field, LargeBinary, SQLModel


class ChannelRow(SQLModel, table=True):
    """What the worker knows of a Subscription beside the resource: who asked, and how delivery goes."""

    __tablename__ = "subscription_channel"

    id: str = Field(primary_key=True, max_length=64)
    client_id: str = Field(max_length=255, index=True)
    status: str = Field(max_length=16)  # requested, active, error, off
    terms: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))  # models.Terms
    headers: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))  # encrypted
    events: int = Field(default=0, sa_column=Column(sa.BigInteger, nullable=False))  # number of the last event
    delivered: int = Field(default=0, sa_column=Column(sa.BigInteger, nullable=False))  # of the last one delivered
    failures: int = 0  # attempts that failed since the last success
    failing_since: int | None = Field(default=None, sa_column=Column(sa.BigInteger, nullable=True))
    due: int = Field(sa_column=Column(sa.BigInteger, nullable=False))  # not before
    sent: int = Field(sa_column=Column(sa.BigInteger, nullable=False))  # last success, for heartbeats
    error: str | None = Field(default=None, max_length=200)


class EventRow(SQLModel, table=True):
    """Something that a subscription is told of; numbers of one subscription are without gaps."""

    __tablename__ = "subscription_event"

    subscription: str = Field(primary_key=True, max_length=64)
    number: int = Field(sa_column=Column(sa.BigInteger, primary_key=True, autoincrement=False))
    type: str = Field(max_length=64)
    resource_id: str = Field(max_length=64)
    version: int
    at: int = Field(sa_column=Column(sa.BigInteger, nullable=False))
