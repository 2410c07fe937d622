"""Remarks of clients on the gateway's own reports: kept beside what is computed, and put into it when it is read.

A remark is an extension of one group of a MeasureReport. The report itself is not changed by it, so that every number
can be made again from its inputs; each act of remarking is a further version of the report as it is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlmodel import Field, SQLModel

from fhir_gateway.db.engine import Lookup, snapshot, table_of
from fhir_gateway.db.resource_tables import TEXT
from fhir_gateway.db.search.dates import instant
from fhir_gateway.r4 import exact

_AT_ONCE = 500
Json = dict[str, Any]


class RemarkRow(SQLModel, table=True):
    """One remark. ``act`` numbers the acts of remarking on a report from 1; remarks of one act share it.

    ``run`` is the summary's id of a report that is rendered from the columns of a run, empty for one that is stored.
    """

    __tablename__ = "fhir_remark"
    __table_args__ = (sa.Index("ix_fhir_remark_report", "report", "number"), sa.Index("ix_fhir_remark_run", "run"))

    number: int | None = Field(
        default=None,
        sa_column=sa.Column(sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    )
    report: str = Field(sa_type=TEXT)
    run: str = Field(sa_type=TEXT)
    act: int
    group: str = Field(sa_column=sa.Column("group_id", sa.String, nullable=False))
    body: bytes  # the extension
    client_id: str
    written: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))  # microseconds since 1970, UTC


@dataclass(frozen=True, slots=True)
class Remark:
    """A remark as kept; ``written`` in microseconds."""

    report: str
    run: str
    act: int
    group: str
    body: bytes
    client_id: str
    written: int


_NAMES = ("report", "run", "act", "group_id", "body", "client_id", "written")


class Remarks:
    """Reads and writes them. Who may do so is the caller's to ask."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._table = table = table_of(RemarkRow)
        chosen = sa.select(*(table.c[name] for name in _NAMES)).order_by(table.c.number)
        self._chosen = chosen
        self._of_one = Lookup(engine, chosen.where(table.c.report == sa.bindparam("report", "")))

    def of(self, report: str) -> list[Remark]:
        """Remarks on one report, oldest first."""
        return [_remark(row) for row in self._of_one.all({"report": report})]

    def of_many(self, reports: Sequence[str]) -> dict[str, list[Remark]]:
        """Remarks by report, of those that have any."""
        if len(reports) == 1:
            found = self.of(reports[0])
            return {reports[0]: found} if found else {}
        rows: list[Remark] = []
        with snapshot(self._engine) as connection:
            for start in range(0, len(reports), _AT_ONCE):
                some = self._table.c.report.in_(reports[start : start + _AT_ONCE])
                rows += self._read(connection, self._chosen.where(some))
        return _by_report(rows)

    def of_runs(self, connection: Connection, runs: Iterable[str], until: int | None = None) -> dict[str, list[Remark]]:
        """Remarks by report, on the rendered reports of some runs, of those written up to ``until``."""
        rows: list[Remark] = []
        listed = sorted(runs)
        for start in range(0, len(listed), _AT_ONCE):
            chosen = self._chosen.where(self._table.c.run.in_(listed[start : start + _AT_ONCE]))
            rows += self._read(connection, chosen if until is None else chosen.where(self._table.c.written <= until))
        return _by_report(rows)

    def of_run(self, run: str) -> dict[str, list[Remark]]:
        """Remarks by report, on the rendered reports of one run."""
        with snapshot(self._engine) as connection:
            return self.of_runs(connection, [run])

    def add(
        self,
        connection: Connection,
        report: str,
        run: str,
        new: Sequence[tuple[str, Mapping[str, Any]]],
        client_id: str,
        written: int,
    ) -> None:
        """Keep remarks (group id and extension) of one act; inside a transaction that has one writer at a time."""
        last = sa.select(sa.func.max(self._table.c.act)).where(self._table.c.report == report)
        act = 1 + (connection.scalar(last) or 0)
        shared = {"report": report, "run": run, "act": act, "client_id": client_id, "written": written}
        rows = [{**shared, "group_id": group, "body": exact.dumps(body)} for group, body in new]
        connection.execute(sa.insert(self._table), rows)

    def acts(self, connection: Connection, report: str) -> int:
        """How often a report was remarked on."""
        last = sa.select(sa.func.max(self._table.c.act)).where(self._table.c.report == report)
        return connection.scalar(last) or 0

    def _read(self, connection: Connection, chosen: sa.Select[Any]) -> list[Remark]:
        return [_remark(row) for row in connection.execute(chosen)]


def _remark(row: Sequence[Any]) -> Remark:
    report, run, act, group, body, client_id, written = row
    return Remark(report, run, act, group, bytes(body), client_id, written)


def _by_report(rows: Iterable[Remark]) -> dict[str, list[Remark]]:
    found: dict[str, list[Remark]] = {}
    for one in rows:
        found.setdefault(one.report, []).append(one)
    return found


def remarked(report: Mapping[str, Any], remarks: Sequence[Remark]) -> Json:
    """A rendered report (of the first version) with its remarks: the later version that they made."""
    added: dict[str, list[Any]] = {}
    for one in remarks:
        added.setdefault(one.group, []).append(orjson.loads(one.body))
    groups = [
        {**group, "extension": [*group.get("extension", ()), *added[group["id"]]]}
        if group.get("id") in added
        else group
        for group in report.get("group", ())
    ]
    meta = report["meta"]
    version = int(meta["versionId"]) + (remarks[-1].act if remarks else 0)
    updated = max([meta["lastUpdated"], *(instant(one.written) for one in remarks[-1:])])
    stamped = {**meta, "versionId": str(version), "lastUpdated": updated}
    return {**report, "meta": stamped} | ({"group": groups} if groups else {})
