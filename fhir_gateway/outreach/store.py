"""Where outreach rests, and its states: people say whom they reached, the next data says what came of it.

::

    open -> contacted, declined          by people; contacted and declined may go back to open
    open, contacted -> done              the data says so: the gap is closed, the visit happened
    open, contacted -> expired           too late
    open, contacted -> withdrawn         the person may not be called any more
    done, expired, withdrawn -> open     the data has the reason again
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, cast

import duckdb
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fhir_gateway.db.engine import snapshot, table_of, transaction
from fhir_gateway.errors import ConflictError, InputError, NotFoundError
from fhir_gateway.outreach.models import BY_PEOPLE, ITEMS, LEFT, REASONS, State
from fhir_gateway.outreach.tables import OutreachBlockRow, OutreachEventRow, OutreachItemRow

_ITEM, _EVENT, _BLOCK = table_of(OutreachItemRow), table_of(OutreachEventRow), table_of(OutreachBlockRow)
_MANY = 500
_STORED = pa.schema([("id", pa.string()), *ITEMS, ("state", pa.string()), ("changed_at", pa.string())])

_CHANGES = """
SELECT * FROM (SELECT coalesce(n.id, s.id) AS id, coalesce(n.member, s.member) AS member,
    coalesce(n.reason, s.reason) AS reason,
    coalesce(n.detail, s.detail) AS detail, coalesce(n.scope, s.scope) AS scope, coalesce(n.text, s.text) AS text,
    coalesce(n.until, s.until) AS until, s.state AS former,
    CASE WHEN n.id IS NOT NULL AND s.id IS NULL THEN 'open'
        WHEN n.id IS NOT NULL AND s.state IN ('done', 'expired', 'withdrawn') THEN 'open'
        WHEN n.id IS NOT NULL THEN s.state
        WHEN x.member IS NOT NULL THEN 'withdrawn'
        WHEN s.until < $day THEN 'expired' ELSE 'done' END AS state, coalesce(n.text <> s.text, FALSE) AS reworded
FROM present n FULL JOIN stored s ON s.id = n.id LEFT JOIN excluded x ON x.member = s.member
WHERE n.id IS NOT NULL OR (s.state IN ('open', 'contacted') AND (x.member IS NOT NULL OR s.scope IN (FROM scopes))))
WHERE former IS NULL OR state <> former OR reworded ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class Event:
    """A change of an item's state."""

    at: str
    by: str
    former: str | None
    state: str
    note: str | None


class OutreachStore:
    """Items, their history, and who is not to be contacted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def refresh(
        self, items: pa.Table, excluded: pa.Table, scopes: Collection[str], day: date, at: datetime
    ) -> dict[str, int]:
        """Bring the items up to what the data says; how many came into which state.

        ``items`` (``ITEMS``) are all reasons of those who may be called, ``scopes`` what was looked at: an item of
        another scope stays as it is. The same data again changes nothing.
        """
        present = items.append_column("id", pa.array(list(map(item_id, *_keys(items))), pa.string()))
        with transaction(self._engine, lock="outreach") as connection:
            stored = _table(connection.execute(sa.select(_ITEM)).all())
            with duckdb.connect() as work:
                tables = {"present": present, "stored": stored, "excluded": excluded}
                for name, table in {**tables, "scopes": pa.table({"scope": sorted(scopes)})}.items():
                    work.register(name, table)
                changes = work.sql(_CHANGES, params={"day": day}).to_arrow_table().to_pylist()
            self._write(connection, changes, at)
        counts: dict[str, int] = {}
        for one in changes:
            if one["state"] != one["former"]:
                counts[one["state"]] = counts.get(one["state"], 0) + 1
        return dict(sorted(counts.items()))

    def _write(self, connection: Connection, changes: Sequence[Mapping[str, Any]], at: datetime) -> None:
        names = ("id", "member", "reason", "detail", "scope", "text", "until", "state")
        made = [{name: one[name] for name in names} | {"changed_at": at.isoformat()} for one in changes]
        new = [row for row, one in zip(made, changes, strict=True) if one["former"] is None]
        for part in _parts(new):
            connection.execute(sa.insert(_ITEM), part)
        changed = [
            {"key": row["id"], "new_state": row["state"], "new_text": row["text"], "new_changed_at": row["changed_at"]}
            for row, one in zip(made, changes, strict=True)
            if one["former"] is not None
        ]
        if changed:
            values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in ("state", "text", "changed_at")}
            connection.execute(sa.update(_ITEM).where(_ITEM.c.id == sa.bindparam("key")).values(values), changed)
        told = [
            {"item": one["id"], "at": at.isoformat(), "by": "data", "former": one["former"], "state": one["state"]}
            for one in changes
            if one["former"] != one["state"]
        ]
        for part in _parts(told):
            connection.execute(sa.insert(_EVENT), part)

    def items(self, states: Iterable[str] = LEFT) -> pa.Table:
        """Items in some states: id, the columns of ``ITEMS``, state, changed_at."""
        with snapshot(self._engine) as connection:
            return _table(connection.execute(sa.select(_ITEM).where(_ITEM.c.state.in_(list(states)))).all())

    def page(
        self,
        states: Iterable[str],
        count: int,
        skip: int = 0,
        reason: str | None = None,
        members: sa.Select[Any] | None = None,
        counts: Mapping[tuple[str, str], int] | None = None,
    ) -> tuple[list[dict[str, Any]], int]:
        """Items in some states, reasons of the highest rank and the nearest end first, and how many there are.

        ``members`` chooses the persons that somebody sees who is limited to some; ``counts`` are theirs, where they are
        at hand.
        """
        wanted = list(states)
        counts = self.counts(members) if counts is None else counts
        found: list[dict[str, Any]] = []
        total = 0
        for one in sorted(REASONS, key=lambda name: -REASONS[name][0]):
            if reason not in (None, one):
                continue
            here = sum(counts.get((one, state), 0) for state in wanted)
            if here and skip < total + here and len(found) < count:  # a part of the page is of this reason
                where = [_ITEM.c.reason == one, _ITEM.c.state.in_(wanted)]
                where += [] if members is None else [_ITEM.c.member.in_(members)]
                order = (_ITEM.c.until.is_(None), _ITEM.c.until, _ITEM.c.member, _ITEM.c.id)
                chosen = sa.select(_ITEM).where(*where).order_by(*order)
                chosen = chosen.limit(count - len(found)).offset(max(skip - total, 0))
                with snapshot(self._engine) as connection:
                    found += [dict(row._mapping) for row in connection.execute(chosen)]
            total += here
        return found, total

    def counts(self, members: sa.Select[Any] | None = None) -> dict[tuple[str, str], int]:
        """How many items there are by reason and state; of ``members`` only, where they are given."""
        where = [] if members is None else [_ITEM.c.member.in_(members)]
        counted = sa.select(_ITEM.c.reason, _ITEM.c.state, sa.func.count().label("items")).where(*where)
        with snapshot(self._engine) as connection:
            rows = connection.execute(counted.group_by(_ITEM.c.reason, _ITEM.c.state)).all()
        return {(row.reason, row.state): row.items for row in rows}

    def of_member(self, member: str) -> list[dict[str, Any]]:
        """Items of one person."""
        chosen = sa.select(_ITEM).where(_ITEM.c.member == member).order_by(_ITEM.c.reason, _ITEM.c.detail)
        with snapshot(self._engine) as connection:
            return [dict(row._mapping) for row in connection.execute(chosen)]

    def item(self, item: str) -> dict[str, Any]:
        """One item; NotFoundError when there is none."""
        with snapshot(self._engine) as connection:
            row = connection.execute(sa.select(_ITEM).where(_ITEM.c.id == item)).first()
        if row is None:
            raise NotFoundError("no such item of outreach")
        return dict(row._mapping)

    def history(self, item: str) -> list[Event]:
        """What became of an item, oldest first."""
        chosen = sa.select(_EVENT).where(_EVENT.c.item == item).order_by(_EVENT.c.number)
        with snapshot(self._engine) as connection:
            return [Event(row.at, row.by, row.former, row.state, row.note) for row in connection.execute(chosen)]

    def mark(self, item: str, state: str, by: str, at: datetime, note: str | None = None) -> None:
        """A person says what became of an item; ConflictError when it cannot go there from where it is."""
        if note is not None and (len(note) > 500 or not note.isprintable()):
            raise InputError("a note is a line of at most 500 characters")
        with transaction(self._engine, lock="outreach") as connection:
            row = connection.execute(sa.select(_ITEM.c.state).where(_ITEM.c.id == item)).first()
            if row is None:
                raise NotFoundError("no such item of outreach")
            allowed = BY_PEOPLE.get(cast(State, row.state), ())
            if state not in allowed:
                raise ConflictError(f"an item that is {row.state} can become {' or '.join(allowed) or 'nothing else'}")
            values = {"state": state, "changed_at": at.isoformat()}
            connection.execute(sa.update(_ITEM).where(_ITEM.c.id == item).values(values))
            event = {"item": item, "at": at.isoformat(), "by": by, "former": row.state, "state": state, "note": note}
            connection.execute(sa.insert(_EVENT).values(event))

    def block(self, members: Iterable[str], by: str, at: datetime) -> int:
        """Persons who are not to be contacted; how many of them are new."""
        with transaction(self._engine, lock="outreach") as connection:
            known = set(connection.scalars(sa.select(_BLOCK.c.member)))
            new = [{"member": one, "since": at.isoformat(), "by": by} for one in sorted(set(members) - known)]
            for part in _parts(new):
                connection.execute(sa.insert(_BLOCK), part)
        return len(new)

    def unblock(self, member: str) -> None:
        """A person may be contacted again; NotFoundError when nobody said otherwise."""
        with transaction(self._engine, lock="outreach") as connection:
            if not connection.execute(sa.delete(_BLOCK).where(_BLOCK.c.member == member)).rowcount:
                raise NotFoundError("this person is not on the list of those not to be contacted")

    def blocked(self) -> pa.Array:
        """Persons who are not to be contacted, sorted."""
        with snapshot(self._engine) as connection:
            return pa.array(sorted(connection.scalars(sa.select(_BLOCK.c.member))), pa.string())


def item_id(member: str, reason: str, detail: str) -> str:
    """Id of a reason of a person: the same from run to run."""
    return f"o{hashlib.sha256(f'{member}|{reason}|{detail}'.encode()).hexdigest()[:31]}"


def _keys(items: pa.Table) -> list[list[str]]:
    return [items[name].to_pylist() for name in ("member", "reason", "detail")]


def _table(rows: Sequence[Any]) -> pa.Table:
    return pa.Table.from_pylist([dict(row._mapping) for row in rows], schema=_STORED)


def _parts(rows: list[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    return (rows[first : first + _MANY] for first in range(0, len(rows), _MANY))
