"""Tables of the served resources: the current version, earlier versions, and the search index."""

from __future__ import annotations

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

#: Text compared byte by byte: PostgreSQL's default collation would break prefix ranges and their index.
TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


class ResourceRow(SQLModel, table=True):
    """The current version of a resource; ``key`` numbers resources in the order of their creation."""

    __tablename__ = "fhir_resource"
    __table_args__ = (
        sa.UniqueConstraint("type", "id", name="uq_fhir_resource_type_id"),
        sa.Index("ix_fhir_resource_updated", "type", "last_updated", "id"),
        sa.Index("ix_fhir_resource_live", "type", "deleted"),  # how many there are is counted without their bodies
    )

    key: int = Field(sa_column=sa.Column(sa.BigInteger, primary_key=True, autoincrement=False))
    type: str = Field(sa_type=TEXT)
    id: str = Field(sa_type=TEXT)
    version: int
    last_updated: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))  # microseconds since 1970, UTC
    deleted: bool
    digest: bytes  # SHA-256 of the body without versionId and lastUpdated
    body: bytes


#: Types whose changes are noted for subscriptions.
WATCHED = frozenset({"CommunicationRequest", "Group", "MeasureReport"})


class ResourceChangeRow(SQLModel, table=True):
    """A change that nobody has told subscribers of yet."""

    __tablename__ = "fhir_change"

    number: int | None = Field(
        default=None,
        sa_column=sa.Column(sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    )
    type: str
    id: str
    version: int


class ResourceVersionRow(SQLModel, table=True):
    """An earlier version of a resource."""

    __tablename__ = "fhir_resource_version"
    __table_args__ = (sa.Index("ix_fhir_resource_version_updated", "type", "last_updated", "id"),)

    type: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    version: int = Field(primary_key=True)
    last_updated: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    deleted: bool
    body: bytes


class SearchIndexRow(SQLModel, table=True):
    """What a resource contributes to a search parameter (``db.search.values``)."""

    __tablename__ = "fhir_search_index"
    __table_args__ = (
        sa.Index("ix_fhir_search_value", "parameter", "value", "key"),
        sa.Index(
            "ix_fhir_search_range",
            "parameter",
            "low",
            "high",
            sqlite_where=sa.text("low IS NOT NULL"),
            postgresql_where=sa.text("low IS NOT NULL"),
        ),
        sa.Index("ix_fhir_search_key", "key"),
    )

    row: int | None = Field(
        default=None,
        sa_column=sa.Column(sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    )
    key: int = Field(
        sa_column=sa.Column(sa.BigInteger, sa.ForeignKey("fhir_resource.key", ondelete="CASCADE"), nullable=False)
    )
    parameter: str = Field(sa_type=TEXT)  # "Type.name"
    system: str | None = None
    value: str | None = Field(default=None, sa_type=TEXT)
    text: str | None = None
    low: int | None = Field(default=None, sa_column=sa.Column(sa.BigInteger))
    high: int | None = Field(default=None, sa_column=sa.Column(sa.BigInteger))


class SearchIndexState(SQLModel, table=True):
    """What the search index was written by: when the definitions differ, it is written anew."""

    __tablename__ = "fhir_search_state"

    name: str = Field(primary_key=True)
    digest: str
