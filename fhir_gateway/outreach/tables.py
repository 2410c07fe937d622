"""Tables of outreach: what is to be done for whom, what became of it, and who is not to be contacted."""

from __future__ import annotations

from datetime import date

import sqlalchemy as sa
from sqlmodel import Field, SQLModel


class OutreachItemRow(SQLModel, table=True):
    """One reason to call one person. Days and instants as ISO 8601."""

    __tablename__ = "outreach_item"
    __table_args__ = (sa.Index("ix_outreach_item_counted", "reason", "state", "until", "member"),)

    id: str = Field(primary_key=True, max_length=64)
    member: str = Field(index=True, max_length=64)
    reason: str = Field(max_length=32)
    detail: str = Field(max_length=500)
    scope: str = Field(max_length=500)
    text: str = Field(max_length=500)
    until: date | None = None
    state: str = Field(index=True, max_length=16)
    changed_at: str = Field(max_length=40)


class OutreachEventRow(SQLModel, table=True):
    """A change of state; ``by`` is a person at the prompt, a client, or ``data``."""

    __tablename__ = "outreach_event"

    number: int | None = Field(default=None, primary_key=True)
    item: str = Field(index=True, max_length=64)
    at: str = Field(max_length=40)
    by: str = Field(max_length=255)
    former: str | None = Field(default=None, max_length=16)
    state: str = Field(max_length=16)
    note: str | None = Field(default=None, max_length=500)


class OutreachBlockRow(SQLModel, table=True):
    """A person who is not to be contacted."""

    __tablename__ = "outreach_block"

    member: str = Field(primary_key=True, max_length=64)
    since: str = Field(max_length=40)
    by: str = Field(max_length=255)
