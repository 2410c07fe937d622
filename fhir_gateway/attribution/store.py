"""Decisions about lists in the control plane. Rows are added and withdrawn, never changed or deleted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlmodel import JSON, Column, Field, SQLModel

from fhir_gateway.attribution.decisions import Decision
from fhir_gateway.db.engine import snapshot, table_of, transaction
from fhir_gateway.errors import ConflictError, NotFoundError


class DecisionRow(SQLModel, table=True):
    """A decision about a list; ``number`` orders decisions as they were made."""

    __tablename__ = "attribution_decision"

    number: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True, max_length=64)
    contract: str = Field(index=True, max_length=64)
    list_id: str = Field(max_length=64)
    act: str = Field(max_length=16)
    by: str = Field(max_length=255)
    at: str = Field(max_length=40)
    why: str | None = Field(default=None, max_length=1000)
    patient: str | None = Field(default=None, max_length=64)
    provider: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    providers: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    tin: str | None = Field(default=None, max_length=64)
    npi: str | None = Field(default=None, max_length=64)
    coverage: str | None = Field(default=None, max_length=200)
    period: dict[str, str] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    withdrawn_by: str | None = Field(default=None, max_length=255)
    withdrawn_at: str | None = Field(default=None, max_length=40)
    withdrawn_why: str | None = Field(default=None, max_length=1000)


_TABLE = table_of(DecisionRow)


class DecisionStore:
    """Decisions by contract."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def standing(self, contract: str, connection: Connection | None = None) -> list[Decision]:
        """Decisions that were not withdrawn, in the order they were made, as the caller's transaction sees them."""
        return self._select(_TABLE.c.contract == contract, _TABLE.c.withdrawn_at.is_(None), connection=connection)

    def all(self, contract: str) -> list[Decision]:
        """Every decision about a contract's lists, withdrawn ones too, in the order they were made."""
        return self._select(_TABLE.c.contract == contract)

    def get(self, decision_id: str) -> Decision:
        """One decision; NotFoundError."""
        found = self._select(_TABLE.c.id == decision_id)
        if not found:
            raise NotFoundError("no such decision")
        return found[0]

    @staticmethod
    def add(connection: Connection, decision: Decision) -> None:
        """Write a decision in a transaction of the caller's, beside the lists that it changes."""
        row = asdict(decision) | {"at": decision.at.isoformat(), "providers": list(decision.providers)}
        connection.execute(sa.insert(_TABLE).values(row))

    def withdraw(self, decision_id: str, by: str, at: datetime, why: str | None) -> Decision:
        """Undo a decision; lists follow when they are computed anew. ConflictError when it was withdrawn before."""
        with transaction(self._engine) as connection:
            statement = sa.update(_TABLE).where(_TABLE.c.id == decision_id, _TABLE.c.withdrawn_at.is_(None))
            changed = connection.execute(
                statement.values(withdrawn_by=by, withdrawn_at=at.isoformat(), withdrawn_why=why)
            ).rowcount
        decision = self.get(decision_id)
        if not changed:
            raise ConflictError("this decision was withdrawn before")
        return decision

    def _select(self, *where: sa.ColumnElement[bool], connection: Connection | None = None) -> list[Decision]:
        with nullcontext(connection) if connection is not None else snapshot(self._engine) as reading:
            rows: Sequence[Any] = reading.execute(sa.select(_TABLE).where(*where).order_by(_TABLE.c.number)).all()
        return [_decision(row._asdict()) for row in rows]


def _decision(row: dict[str, Any]) -> Decision:
    row.pop("number")
    withdrawn = row["withdrawn_at"]
    times = {
        "at": datetime.fromisoformat(row["at"]),
        "withdrawn_at": None if withdrawn is None else datetime.fromisoformat(withdrawn),
    }
    return Decision(**row | times | {"providers": tuple(row["providers"])})
