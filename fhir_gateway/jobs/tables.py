"""Table of the control plane that belongs to jobs: what was served last."""

from __future__ import annotations

from sqlmodel import Column, Field, LargeBinary, SQLModel


class JobPublication(SQLModel, table=True):
    """Table of one row: digests of what was served last, as Parquet."""

    __tablename__ = "job_publication"

    id: int = Field(primary_key=True)
    lake_version: int
    digests: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
