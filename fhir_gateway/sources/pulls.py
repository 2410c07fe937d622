"""The log of pulls: which began, how far they came, and what they brought; the poll URL is encrypted at rest."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine
from sqlmodel import col, select

from fhir_gateway.db.engine import session
from fhir_gateway.errors import NotFoundError
from fhir_gateway.sources.store import Cipher
from fhir_gateway.sources.tables import SourcePull


class PullLog:
    """Pulls that are under way and that were made. States: started, staged, committed, failed."""

    def __init__(self, engine: Engine, cipher: Cipher) -> None:
        """Over a control plane whose tables exist; `cipher` protects poll URLs."""
        self._engine = engine
        self._cipher = cipher

    def start(self, id: str, source: str, kind: str, request: dict[str, Any]) -> SourcePull:
        """Write down that a pull begins."""
        row = SourcePull(id=id, source=source, kind=kind, request=request, started=_now())
        return self._save(row)

    def get(self, id: str) -> SourcePull:
        """The pull of that id."""
        with session(self._engine) as opened:
            row = opened.get(SourcePull, id)
        if row is None:
            raise NotFoundError(f"no pull {id}")
        return row

    def unfinished(self, source: str, request: dict[str, Any]) -> SourcePull | None:
        """The newest pull of the same request that neither ended nor failed, to be resumed."""
        rows = self._rows(source, ("started", "staged"))
        return next((row for row in rows if row.request == request), None)

    def watermark(self, source: str, request: dict[str, Any]) -> str | None:
        """``transactionTime`` of the newest committed pull of the same request that lost nothing."""
        rows = (row for row in self._rows(source, ("committed",)) if row.complete and row.transaction_time)
        return next((row.transaction_time for row in rows if _same_but_since(row.request, request)), None)

    def recent(self, count: int = 20) -> list[SourcePull]:
        """The newest pulls first."""
        query = select(SourcePull).order_by(col(SourcePull.started).desc()).limit(count)
        with session(self._engine) as opened:
            return list(opened.exec(query))

    def update(self, id: str, **values: Any) -> SourcePull:
        """Write down how far a pull came. ``status_url`` is given as text and stored encrypted."""
        row = self.get(id)
        if "status_url" in values and values["status_url"] is not None:
            values["status_url"] = self._cipher.encrypt(values["status_url"].encode())
        if values.get("state") in ("committed", "failed"):
            values["finished"] = _now()
        for name, value in values.items():
            setattr(row, name, value)
        return self._save(row)

    def status_url(self, row: SourcePull) -> str | None:
        """The poll URL of a pull in clear."""
        return self._cipher.decrypt(row.status_url).decode() if row.status_url else None

    def _rows(self, source: str, states: Iterable[str]) -> list[SourcePull]:
        query = select(SourcePull).where(SourcePull.source == source, col(SourcePull.state).in_(list(states)))
        with session(self._engine) as opened:
            return list(opened.exec(query.order_by(col(SourcePull.started).desc())))

    def _save(self, row: SourcePull) -> SourcePull:
        with session(self._engine) as opened:
            saved: SourcePull = opened.merge(row)
        return saved


def _same_but_since(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return {**one, "since": None} == {**other, "since": None}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
