"""The log of pulls: which began, how far they came, and what they brought; poll URLs are encrypted at rest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import Engine
from sqlmodel import col, select

from fhir_gateway.db.engine import session
from fhir_gateway.errors import NotFoundError
from fhir_gateway.sources.bulk import ExportState
from fhir_gateway.sources.store import Cipher
from fhir_gateway.sources.tables import SourceExport, SourcePull, SourceWatermark

ALL_TYPES = "*"
"""Stands for every resource type in a watermark: the pull named none."""


class PullLog:
    """Pulls that are under way and that were made. States: started, staged, committed, failed, cancelled."""

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

    def recent(self, count: int = 20, source: str | None = None) -> list[SourcePull]:
        """The newest pulls first."""
        query = select(SourcePull).order_by(col(SourcePull.started).desc()).limit(count)
        if source is not None:
            query = query.where(SourcePull.source == source)
        with session(self._engine) as opened:
            return list(opened.exec(query))

    def update(self, id: str, **values: Any) -> SourcePull:
        """Write down how far a pull came; exports of one that ended are forgotten, unless it was cancelled."""
        ended = values.get("state") in ("committed", "failed", "cancelled")
        row = self.get(id)
        for name, value in {**values, **({"finished": _now()} if ended else {})}.items():
            setattr(row, name, value)
        if ended and values["state"] != "cancelled":
            self.forget(id)
        return self._save(row)

    def remember(self, id: str, state: ExportState) -> None:
        """Write down where an export of the pull is polled; a pull may have one export for each of several parts."""
        row = SourceExport(
            pull=id,
            part=state.part,
            status_url=self._cipher.encrypt(state.status_url.encode()),
            transaction_time=state.transaction_time,
            kicked_off=state.kicked_off,
        )
        with session(self._engine) as opened:
            opened.merge(row)

    def exports(self, id: str) -> dict[str, ExportState]:
        """The exports of a pull that are on the server, by part."""
        with session(self._engine) as opened:
            rows = list(opened.exec(select(SourceExport).where(SourceExport.pull == id)))
        return {
            row.part: ExportState(
                self._cipher.decrypt(row.status_url).decode(), row.transaction_time, row.part, row.kicked_off
            )
            for row in rows
        }

    def watermark(self, source: str, request: Mapping[str, Any]) -> SourceWatermark | None:
        """How far all types of a request were pulled: the earliest of their marks; None when one was never pulled.

        A type's mark is the newer of its own and the one of pulls that named no types.
        """
        query = select(SourceWatermark).where(SourceWatermark.source == source, SourceWatermark.scope == scope(request))
        with session(self._engine) as opened:
            rows = {row.resource_type: row for row in opened.exec(query)}
        marks = []
        for wanted in request.get("types") or [ALL_TYPES]:
            known = [rows[name] for name in (wanted, ALL_TYPES) if name in rows]
            if not known:
                return None
            marks.append(max(known, key=_instant))
        return min(marks, key=_instant)

    def advance(self, row: SourcePull, transaction_time: str, *, full: bool) -> None:
        """Move the marks of a pull's types to its transaction time; a full pull also says that all was looked at."""
        now = _now()
        before = self.watermark(row.source, row.request)
        with session(self._engine) as opened:
            for wanted in row.request.get("types") or [ALL_TYPES]:
                opened.merge(
                    SourceWatermark(
                        source=row.source,
                        scope=scope(row.request),
                        resource_type=wanted,
                        transaction_time=transaction_time,
                        pull=row.id,
                        full_at=now if full or before is None else before.full_at,
                    )
                )

    def watermarks(self, source: str | None = None) -> Sequence[SourceWatermark]:
        """All marks, by source and type."""
        query = select(SourceWatermark).order_by(col(SourceWatermark.source), col(SourceWatermark.resource_type))
        if source is not None:
            query = query.where(SourceWatermark.source == source)
        with session(self._engine) as opened:
            return list(opened.exec(query))

    def forget(self, id: str) -> None:
        """Forget the exports of a pull: nothing of it is on the server any more, or nobody will ask for it."""
        with session(self._engine) as opened:
            for row in opened.exec(select(SourceExport).where(SourceExport.pull == id)):
                opened.delete(row)

    def _rows(self, source: str, states: Iterable[str]) -> list[SourcePull]:
        query = select(SourcePull).where(SourcePull.source == source, col(SourcePull.state).in_(list(states)))
        with session(self._engine) as opened:
            return list(opened.exec(query.order_by(col(SourcePull.started).desc())))

    def _save(self, row: SourcePull) -> SourcePull:
        with session(self._engine) as opened:
            saved: SourcePull = opened.merge(row)
        return saved


def scope(request: Mapping[str, Any]) -> str:
    """Tells marks of different selections apart: a Group, patients, type filters; empty for all of an endpoint."""
    chosen = {name: request[name] for name in ("group", "patients", "type_filters") if request.get(name)}
    return hashlib.sha256(orjson.dumps(chosen, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32] if chosen else ""


def _instant(row: SourceWatermark) -> datetime:
    """Instants of one server may differ in offset and precision, so their text does not sort."""
    return datetime.fromisoformat(row.transaction_time)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
