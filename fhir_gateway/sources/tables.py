"""Tables of the control plane that belong to sources: endpoints, their keys, and the log of pulls."""

from __future__ import annotations

from typing import Any

from sqlalchemy import false, text
from sqlmodel import JSON, Boolean, Column, Field, LargeBinary, SQLModel


class SourceEndpoint(SQLModel, table=True):
    """Table of registered endpoints."""

    __tablename__ = "source_endpoint"

    name: str = Field(primary_key=True, max_length=32)
    base_url: str
    auth: str
    client_id: str | None = None
    token_endpoint: str | None = None
    scopes: str | None = None
    vendor: str = "generic"
    trusted_origins: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    client_secret: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    audience: str | None = None
    jku: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))
    group_id: str | None = None
    created: str


class SourceKey(SQLModel, table=True):
    """Table of signing keys, several per endpoint while a rotation is under way."""

    __tablename__ = "source_key"

    kid: str = Field(primary_key=True, max_length=64)
    endpoint: str = Field(foreign_key="source_endpoint.name", index=True)
    algorithm: str
    state: str
    private_key: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created: str


class SourcePull(SQLModel, table=True):
    """Table of pulls: what was asked, how far it came, and what it brought."""

    __tablename__ = "source_pull"

    id: str = Field(primary_key=True, max_length=64)
    source: str = Field(index=True)
    kind: str
    request: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    state: str = "started"
    transaction_time: str | None = None
    complete: bool = False
    ledger: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    issues: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    outcome: dict[str, Any] = Field(
        default_factory=dict, sa_column=Column(JSON, nullable=False, server_default=text("'{}'"))
    )
    started: str
    finished: str | None = None


class SourceExport(SQLModel, table=True):
    """Table of exports on a server that belong to a pull under way: one per part of the pull."""

    __tablename__ = "source_export"

    pull: str = Field(primary_key=True, max_length=64)
    part: str = Field(primary_key=True, max_length=200, default="")
    status_url: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    transaction_time: str | None = None
    kicked_off: float | None = None


class SourceWatermark(SQLModel, table=True):
    """Table of how far each source was pulled, by resource type; `resource_type` ``*`` stands for all of them."""

    __tablename__ = "source_watermark"

    source: str = Field(primary_key=True, max_length=32)
    scope: str = Field(primary_key=True, max_length=64, default="")
    resource_type: str = Field(primary_key=True, max_length=64)
    transaction_time: str
    pull: str
    full_at: str
