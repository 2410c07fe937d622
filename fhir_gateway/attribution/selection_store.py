"""Where selections rest that no FHIR resource brought: attestations and rosters that somebody loaded from a file.

Rows are added in batches, one per file, and a batch is withdrawn as a whole; nothing is changed or deleted.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Field, SQLModel

from fhir_gateway.attribution.service import SELECTION_SCHEMA
from fhir_gateway.db.engine import snapshot, table_of, transaction
from fhir_gateway.errors import ConflictError, NotFoundError

_MANY = 5000  # rows of one statement


class SelectionBatchRow(SQLModel, table=True):
    """Selections loaded together: for which contract (null: for all), by whom, when, and whether they still stand."""

    __tablename__ = "attribution_selection_batch"

    id: str = Field(primary_key=True, max_length=32)
    contract: str | None = Field(default=None, index=True, max_length=64)
    kind: str = Field(max_length=40)
    name: str = Field(max_length=200)
    selections: int
    loaded_by: str = Field(max_length=255)
    loaded_at: str = Field(max_length=40)
    withdrawn_by: str | None = Field(default=None, max_length=255)
    withdrawn_at: str | None = Field(default=None, max_length=40)


class SelectionRow(SQLModel, table=True):
    """One member's selection."""

    __tablename__ = "attribution_selection"

    number: int | None = Field(default=None, primary_key=True)
    batch: str = Field(index=True, max_length=32)
    member: str = Field(max_length=64)
    tin: str | None = Field(default=None, max_length=64)
    npi: str | None = Field(default=None, max_length=64)
    made: date
    until: date | None = None


_BATCHES, _ROWS = table_of(SelectionBatchRow), table_of(SelectionRow)


@dataclass(frozen=True, slots=True)
class SelectionBatch:
    """What is known of a file of selections."""

    id: str
    contract: str | None
    kind: str
    name: str
    selections: int
    loaded_by: str
    loaded_at: str
    withdrawn_by: str | None = None
    withdrawn_at: str | None = None


class SelectionStore:
    """Selections by contract."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load(
        self, selections: pa.Table, *, kind: str, name: str, by: str, at: datetime, contract: str | None = None
    ) -> SelectionBatch:
        """Keep selections (member, tin, npi, made, until) as a batch of one kind, all or none."""
        batch = SelectionBatch(
            f"selections-{secrets.token_hex(8)}", contract, kind, name, selections.num_rows, by, at.isoformat()
        )
        columns = ("member", "tin", "npi", "made", "until")
        with transaction(self._engine) as connection:
            values = {one: getattr(batch, one) for one in SelectionBatch.__slots__}
            connection.execute(sa.insert(_BATCHES).values(values))
            for part in selections.select(columns).to_batches(max_chunksize=_MANY):
                if part.num_rows:
                    connection.execute(sa.insert(_ROWS), [one | {"batch": batch.id} for one in part.to_pylist()])
        return batch

    def standing(self, contract: str) -> pa.Table:
        """Selections (``SELECTION_SCHEMA``) for a contract and for all, of batches that were not withdrawn."""
        wanted = sa.or_(_BATCHES.c.contract == contract, _BATCHES.c.contract.is_(None))
        query = (
            sa.select(_ROWS.c.member, _ROWS.c.tin, _ROWS.c.npi, _ROWS.c.made, _BATCHES.c.kind, _ROWS.c.until)
            .join_from(_ROWS, _BATCHES, _ROWS.c.batch == _BATCHES.c.id)
            .where(wanted, _BATCHES.c.withdrawn_at.is_(None))
            .order_by(_ROWS.c.number)
        )
        with snapshot(self._engine) as connection:
            rows = connection.execute(query).all()
        columns = list(zip(*rows, strict=True)) or [()] * len(SELECTION_SCHEMA)
        arrays = [pa.array(column, one.type) for column, one in zip(columns, SELECTION_SCHEMA, strict=True)]
        return pa.table(arrays, schema=SELECTION_SCHEMA)

    def batches(self, contract: str | None = None) -> list[SelectionBatch]:
        """Batches for a contract and for all, withdrawn ones too; without a contract every batch. Oldest first."""
        query = sa.select(_BATCHES).order_by(_BATCHES.c.loaded_at, _BATCHES.c.id)
        if contract is not None:
            query = query.where(sa.or_(_BATCHES.c.contract == contract, _BATCHES.c.contract.is_(None)))
        with snapshot(self._engine) as connection:
            return [SelectionBatch(**row._asdict()) for row in connection.execute(query).all()]

    def withdraw(self, batch: str, by: str, at: datetime) -> None:
        """Withdraw a batch; NotFoundError, ConflictError when it was withdrawn before."""
        statement = sa.update(_BATCHES).where(_BATCHES.c.id == batch, _BATCHES.c.withdrawn_at.is_(None))
        with transaction(self._engine) as connection:
            if connection.execute(statement.values(withdrawn_by=by, withdrawn_at=at.isoformat())).rowcount:
                return
            known = connection.execute(sa.select(_BATCHES.c.id).where(_BATCHES.c.id == batch)).all()
        if known:
            raise ConflictError("these selections were withdrawn before")
        raise NotFoundError("no such selections")
