"""Tables of the control plane that belong to jobs: what was served last, and what clients asked for."""

from __future__ import annotations

from sqlmodel import Column, Field, LargeBinary, SQLModel


class JobPublication(SQLModel, table=True):
    """Table of one row: digests of what was served last, as Parquet."""

    __tablename__ = "job_publication"

    id: int = Field(primary_key=True)
    lake_version: int
    digests: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class JobRequest(SQLModel, table=True):
    """Table of what clients asked for asynchronously; times are epoch seconds, UTC."""

    __tablename__ = "job_request"

    id: str = Field(primary_key=True)
    client_id: str = Field(index=True)
    kind: str
    url: str  # of the kick-off, as the manifest repeats it
    payload: bytes = Field(sa_column=Column(LargeBinary, nullable=False))  # JSON
    audience: bytes = Field(sa_column=Column(LargeBinary, nullable=False))  # JSON: what the client might see then
    separate_status: bool = False
    state: str
    progress: str | None = None
    failure: str | None = None  # JSON
    created: float
    expires: float | None = Field(default=None, index=True)
