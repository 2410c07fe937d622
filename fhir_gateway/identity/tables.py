"""Tables of the crosswalk in the control plane: patients with match keys, persons, and why they are as they are."""

from __future__ import annotations

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from fhir_gateway.db.engine import table_of


class PatientRow(SQLModel, table=True):
    """A patient of a source, the person it is, and what matching compares."""

    __tablename__ = "identity_patient"
    __table_args__ = (
        sa.UniqueConstraint("source", "patient_id", name="uq_identity_patient"),
        sa.Index("ix_identity_patient_person", "person"),
    )

    number: int = Field(sa_column=sa.Column(sa.BigInteger, primary_key=True, autoincrement=False))
    source: str
    patient_id: str
    person: str
    birth_date: str | None = None
    gender: str | None = None
    fingerprint: str


class KeyRow(SQLModel, table=True):
    """A match key of a patient: the hash of an identifier, and the name of its system."""

    __tablename__ = "identity_key"
    __table_args__ = (sa.Index("ix_identity_key_number", "number"),)

    key: str = Field(primary_key=True)
    number: int = Field(
        sa_column=sa.Column(
            sa.BigInteger,
            sa.ForeignKey("identity_patient.number", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        )
    )
    system: str


class PersonRow(SQLModel, table=True):
    """A person: its id is derived from its first patient (``anchor``); ``born`` numbers the assignment that made it."""

    __tablename__ = "identity_person"

    person: str = Field(primary_key=True)
    anchor: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    born: int
    merged_into: str | None = None


class ChangeRow(SQLModel, table=True):
    """A merge or split of persons (``models.PersonChange``); ``patients`` are the numbers of those that moved, JSON."""

    __tablename__ = "identity_change"

    id: int | None = Field(default=None, primary_key=True)
    kind: str
    person: str
    other: str
    reason: str
    changed_at: str
    by: str | None = None
    evidence: str | None = None
    patients: str | None = None


class ReviewRow(SQLModel, table=True):
    """A link that was not made (``models.Review``); ``digest`` keeps the same one from being listed twice."""

    __tablename__ = "identity_review"

    digest: str = Field(primary_key=True)
    rule: str
    system: str
    source: str
    patient_id: str | None = None
    other_source: str | None = None
    other_patient_id: str | None = None
    patients: int
    noticed_at: str
    status: str = Field(default="open", sa_column_kwargs={"server_default": "open"})
    weight: float | None = None
    evidence: str | None = None
    decided_by: str | None = None
    decided_at: str | None = None


class DecisionRow(SQLModel, table=True):
    """What somebody decided about two patients (``models.Decision``); never deleted, only revoked. ``a < b``.

    ``act`` numbers what was decided at once, and is revoked at once.
    """

    __tablename__ = "identity_decision"
    __table_args__ = (sa.Index("ix_identity_decision_a", "a"), sa.Index("ix_identity_decision_b", "b"))

    id: int | None = Field(default=None, primary_key=True)
    a: int = Field(sa_column=sa.Column(sa.BigInteger, sa.ForeignKey("identity_patient.number"), nullable=False))
    b: int = Field(sa_column=sa.Column(sa.BigInteger, sa.ForeignKey("identity_patient.number"), nullable=False))
    act: int = Field(index=True)
    verdict: str
    decided_by: str
    reason: str
    review: str | None = None
    decided_at: str
    revoked_by: str | None = None
    revoked_reason: str | None = None
    revoked_at: str | None = None


class MatchRow(SQLModel, table=True):
    """Two patients that probably are one person, as the last linkage found them. ``linked``: it joins them itself."""

    __tablename__ = "identity_match"
    __table_args__ = (sa.Index("ix_identity_match_b", "b"),)

    a: int = Field(
        sa_column=sa.Column(
            sa.BigInteger, sa.ForeignKey("identity_patient.number"), primary_key=True, autoincrement=False
        )
    )
    b: int = Field(
        sa_column=sa.Column(
            sa.BigInteger, sa.ForeignKey("identity_patient.number"), primary_key=True, autoincrement=False
        )
    )
    weight: float
    linked: bool
    model: str
    evidence: str


PATIENT, KEY, PERSON = table_of(PatientRow), table_of(KeyRow), table_of(PersonRow)
CHANGE, REVIEW = table_of(ChangeRow), table_of(ReviewRow)
DECISION, MATCH = table_of(DecisionRow), table_of(MatchRow)
