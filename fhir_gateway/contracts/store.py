"""Contract versions, settlement runs, their postings and disputes in the control plane.

Versions, runs, postings and answers are added, never changed; of a run only its state and notice move on, of a dispute
only its decision is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlmodel import JSON, Column, Field, SQLModel

from fhir_gateway.contracts.disputes import Answer, Dispute
from fhir_gateway.contracts.runs import Posting, Run, post
from fhir_gateway.db.engine import snapshot, table_of, transaction
from fhir_gateway.errors import ConflictError, NotFoundError


class ContractVersionRow(SQLModel, table=True):
    """A version of a contract as it was first settled: later ones with other terms are refused under its number."""

    __tablename__ = "contract_version"

    contract: str = Field(primary_key=True, max_length=64)
    version: str = Field(primary_key=True, max_length=64)
    digest: str = Field(max_length=64)
    registered: str = Field(max_length=40)
    title: str = Field(max_length=500)
    terms: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class SettlementRunRow(SQLModel, table=True):
    """A settlement run; amounts are decimal texts."""

    __tablename__ = "contract_settlement"

    number: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True, max_length=64)
    contract: str = Field(index=True, max_length=64)
    version: str = Field(max_length=64)
    digest: str = Field(max_length=64)
    kind: str = Field(max_length=16)
    state: str = Field(max_length=16)
    through: date
    paid_through: date
    lake_version: int
    evidence: str = Field(max_length=64)
    as_of: str = Field(max_length=40)
    total: str = Field(max_length=64)
    currency: str = Field(max_length=3)
    statement: str = Field(max_length=64)
    by: str = Field(max_length=255)
    made: str = Field(max_length=40)
    reason: str | None = Field(default=None, max_length=1000)
    amends: str | None = Field(default=None, max_length=64)
    notice: date | None = None


class SettlementPostingRow(SQLModel, table=True):
    """What a run posted for one arrangement; the sum of ``amount - previous`` over all runs is what is owed."""

    __tablename__ = "contract_posting"

    number: int | None = Field(default=None, primary_key=True)
    run: str = Field(index=True, max_length=64)
    contract: str = Field(index=True, max_length=64)
    arrangement: str = Field(max_length=64)
    line: str = Field(max_length=200)
    amount: str = Field(max_length=64)
    previous: str = Field(max_length=64)


class DisputeRow(SQLModel, table=True):
    """A dispute about a line of a run."""

    __tablename__ = "contract_dispute"

    number: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True, max_length=64)
    run: str = Field(index=True, max_length=64)
    contract: str = Field(index=True, max_length=64)
    line: str = Field(max_length=200)
    reason: str = Field(max_length=16)
    amount: str = Field(max_length=64)
    text: str = Field(max_length=4000)
    filed_by: str = Field(max_length=255)
    filed: str = Field(max_length=40)
    deadline: date
    answer_by: date
    evidence: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    state: str = Field(max_length=16)
    decided_by: str | None = Field(default=None, max_length=255)
    decided: str | None = Field(default=None, max_length=40)
    decision: str | None = Field(default=None, max_length=4000)
    amendment: str | None = Field(default=None, max_length=64)
    delta: str | None = Field(default=None, max_length=64)


class DisputeAnswerRow(SQLModel, table=True):
    """What was said to a dispute while it was open."""

    __tablename__ = "contract_dispute_answer"

    number: int | None = Field(default=None, primary_key=True)
    dispute: str = Field(index=True, max_length=64)
    at: str = Field(max_length=40)
    by: str = Field(max_length=255)
    text: str = Field(max_length=4000)


_VERSIONS, _RUNS = table_of(ContractVersionRow), table_of(SettlementRunRow)
_POSTINGS, _DISPUTES = table_of(SettlementPostingRow), table_of(DisputeRow)
_ANSWERS = table_of(DisputeAnswerRow)
#: One writer at a time: postings are differences to all that were posted before.
_LOCK = "settlement"


class SettlementStore:
    """Versions, runs and disputes by contract."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(
        self, contract: str, version: str, digest: str, title: str, terms: dict[str, Any], at: datetime
    ) -> bool:
        """Remember a version's terms; True when it is new, ConflictError when it was settled with other terms."""
        with transaction(self._engine, _LOCK) as connection:
            known = self._version(connection, contract, version)
            if known is not None:
                if known.digest != digest:
                    raise ConflictError(
                        f"version {version} of contract {contract} was registered with other terms:"
                        " an amendment is a new version"
                    )
                return False
            row = {"contract": contract, "version": version, "digest": digest, "title": title, "terms": terms}
            connection.execute(sa.insert(_VERSIONS).values(row | {"registered": at.isoformat()}))
            return True

    def versions(self, contract: str | None = None) -> list[dict[str, Any]]:
        """Registered versions, the first first: contract, version, digest, registered, title, terms."""
        query = sa.select(_VERSIONS).order_by(_VERSIONS.c.registered, _VERSIONS.c.contract, _VERSIONS.c.version)
        if contract is not None:
            query = query.where(_VERSIONS.c.contract == contract)
        with snapshot(self._engine) as connection:
            return [row._asdict() for row in connection.execute(query)]

    def add(self, run: Run, due_now: dict[str, tuple[str, Decimal]]) -> Run:
        """Keep a run and post the difference to all that was posted for the contract before; the run with its postings.

        A run that is there already is given back as it is. What it amends becomes ``superseded``.
        """
        with transaction(self._engine, _LOCK) as connection:
            if (there := self._one(connection, run.id)) is not None:
                return there
            earlier = self._postings(connection, _POSTINGS.c.contract == run.contract)
            postings = post(due_now, earlier)
            row = asdict(run) | {name: getattr(run, name).isoformat() for name in ("as_of", "made")}
            row |= {"total": str(run.total)}
            row.pop("postings")
            connection.execute(sa.insert(_RUNS).values(row))
            if run.amends is not None:
                connection.execute(sa.update(_RUNS).where(_RUNS.c.id == run.amends).values(state="superseded"))
            for one in postings:
                connection.execute(
                    sa.insert(_POSTINGS).values(
                        run=run.id,
                        contract=run.contract,
                        arrangement=one.arrangement,
                        line=one.line,
                        amount=str(one.amount),
                        previous=str(one.previous),
                    )
                )
            found = self._one(connection, run.id)
        if found is None:
            raise NotFoundError("no such settlement")
        return found

    def run(self, run_id: str) -> Run:
        """One run; NotFoundError."""
        with snapshot(self._engine) as connection:
            found = self._one(connection, run_id)
        if found is None:
            raise NotFoundError("no such settlement")
        return found

    def runs(self, contract: str | None = None) -> list[Run]:
        """Runs in the order they were made."""
        where = [] if contract is None else [_RUNS.c.contract == contract]
        with snapshot(self._engine) as connection:
            return self._runs(connection, *where)

    def move(self, run_id: str, before: Sequence[str], state: str, notice: date | None = None) -> Run:
        """Move a run on from one of the states ``before``; ConflictError when it is in another."""
        with transaction(self._engine, _LOCK) as connection:
            values: dict[str, Any] = {"state": state} | ({"notice": notice} if notice else {})
            statement = sa.update(_RUNS).where(_RUNS.c.id == run_id, _RUNS.c.state.in_(before)).values(values)
            moved = connection.execute(statement).rowcount
            found = self._one(connection, run_id)
        if found is None:
            raise NotFoundError("no such settlement")
        if not moved:
            raise ConflictError(f"the settlement is {found.state}")
        return found

    def owed(self, contract: str) -> dict[str, Decimal]:
        """Sum of what was posted by arrangement."""
        with snapshot(self._engine) as connection:
            found: dict[str, Decimal] = {}
            for one in self._postings(connection, _POSTINGS.c.contract == contract):
                found[one.arrangement] = found.get(one.arrangement, Decimal(0)) + one.delta
        return found

    def file(self, dispute: Dispute) -> None:
        """Keep a new dispute; its id may be there once."""
        row = asdict(dispute) | {"filed": dispute.filed.isoformat(), "amount": str(dispute.amount)}
        with transaction(self._engine) as connection:
            connection.execute(sa.insert(_DISPUTES).values(row | {"evidence": dict(dispute.evidence)}))

    def decide(self, dispute: Dispute) -> None:
        """Keep the decision of a dispute that was open; ConflictError when it was not any more."""
        if dispute.decided is None:
            raise ConflictError("this dispute is not decided")
        values = {
            "state": dispute.state,
            "decided_by": dispute.decided_by,
            "decided": dispute.decided.isoformat(),
            "decision": dispute.decision,
            "amendment": dispute.amendment,
            "delta": None if dispute.delta is None else str(dispute.delta),
        }
        with transaction(self._engine, _LOCK) as connection:
            mine = (_DISPUTES.c.id == dispute.id) & (_DISPUTES.c.state == "open")
            if not connection.execute(sa.update(_DISPUTES).where(mine).values(values)).rowcount:
                raise ConflictError("this dispute was decided before")

    def answer(self, dispute_id: str, answer: Answer) -> None:
        """Keep what was said to a dispute; NotFoundError, and ConflictError once it is decided."""
        with transaction(self._engine, _LOCK) as connection:
            state = connection.scalar(sa.select(_DISPUTES.c.state).where(_DISPUTES.c.id == dispute_id))
            if state is None:
                raise NotFoundError("no such dispute")
            if state != "open":
                raise ConflictError(f"this dispute is {state}")
            row = {"dispute": dispute_id, "at": answer.at.isoformat(), "by": answer.by, "text": answer.text}
            connection.execute(sa.insert(_ANSWERS).values(row))

    def answers(self, dispute_id: str) -> list[Answer]:
        """What was said to a dispute, the first first."""
        query = sa.select(_ANSWERS).where(_ANSWERS.c.dispute == dispute_id).order_by(_ANSWERS.c.number)
        with snapshot(self._engine) as connection:
            return [Answer(datetime.fromisoformat(row.at), row.by, row.text) for row in connection.execute(query)]

    def dispute(self, dispute_id: str) -> Dispute:
        """One dispute; NotFoundError."""
        found = self._select_disputes(_DISPUTES.c.id == dispute_id)
        if not found:
            raise NotFoundError("no such dispute")
        return found[0]

    def disputes(self, contract: str | None = None, run: str | None = None) -> list[Dispute]:
        """Disputes in the order they were filed."""
        where = [
            column == value for column, value in ((_DISPUTES.c.contract, contract), (_DISPUTES.c.run, run)) if value
        ]
        return self._select_disputes(*where)

    def _select_disputes(self, *where: sa.ColumnElement[bool]) -> list[Dispute]:
        with snapshot(self._engine) as connection:
            rows = connection.execute(sa.select(_DISPUTES).where(*where).order_by(_DISPUTES.c.number)).all()
        return [_dispute(row._asdict()) for row in rows]

    @staticmethod
    def _version(connection: Connection, contract: str, version: str) -> Any:
        query = sa.select(_VERSIONS).where(_VERSIONS.c.contract == contract, _VERSIONS.c.version == version)
        return connection.execute(query).one_or_none()

    def _one(self, connection: Connection, run_id: str) -> Run | None:
        return next(iter(self._runs(connection, _RUNS.c.id == run_id)), None)

    def _runs(self, connection: Connection, *where: sa.ColumnElement[bool]) -> list[Run]:
        rows = connection.execute(sa.select(_RUNS).where(*where).order_by(_RUNS.c.number)).all()
        postings: dict[str, list[Posting]] = {row.id: [] for row in rows}
        wanted = sa.select(_POSTINGS).where(_POSTINGS.c.run.in_(list(postings))).order_by(_POSTINGS.c.number)
        for row in connection.execute(wanted):
            postings[row.run].append(_posting(row))
        return [_run(row._asdict(), tuple(postings[row.id])) for row in rows]

    @staticmethod
    def _postings(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Posting]:
        return [
            _posting(row) for row in connection.execute(sa.select(_POSTINGS).where(*where).order_by(_POSTINGS.c.number))
        ]


def _posting(row: Any) -> Posting:
    return Posting(row.arrangement, row.line, Decimal(row.amount), Decimal(row.previous))


def _run(row: dict[str, Any], postings: tuple[Posting, ...]) -> Run:
    row.pop("number")
    times = {name: datetime.fromisoformat(row[name]) for name in ("as_of", "made")}
    return Run(**row | times | {"total": Decimal(row["total"]), "postings": postings})


def _dispute(row: dict[str, Any]) -> Dispute:
    row.pop("number")
    row["filed"] = datetime.fromisoformat(row["filed"])
    row["decided"] = datetime.fromisoformat(row["decided"]) if row["decided"] else None
    row["amount"] = Decimal(row["amount"])
    row["delta"] = None if row["delta"] is None else Decimal(row["delta"])
    return Dispute(**row)
