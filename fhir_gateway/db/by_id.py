"""Rows by their ids: statements that are made once and asked again with other ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import Lookup

#: Ids that one statement of SQLite reads: it is made for a few numbers of them, and the last id is asked for again.
_SIZES = (1, 4, 16, 64, 256)
#: Ids that one call may name.
MOST_AT_ONCE = _SIZES[-1]


class ById:
    """A SELECT of the rows whose ``column`` is one of some ids. Safe to share between threads.

    PostgreSQL takes them as a list, which is one value: each value of a statement is made ready on its own.
    """

    def __init__(self, engine: Engine, statement: sa.Select[Any], column: sa.ColumnElement[str]) -> None:
        self._as_list = engine.dialect.name == "postgresql"
        self._statement = statement
        self._column = column
        self._engine = engine
        self._kept: dict[int, Lookup] = {}

    def rows(self, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """The rows of at most :data:`MOST_AT_ONCE` ids, in no given order; at least one id is needed."""
        if self._as_list:
            return self._lookup(0, self._in_list).all({"ids": list(ids)})
        size = next(one for one in _SIZES if one >= len(ids))
        values = {f"id_{place}": ids[min(place, len(ids) - 1)] for place in range(size)}
        return self._lookup(size, self._in_places).all(values)

    def _lookup(self, size: int, condition: Callable[[int], sa.ColumnElement[bool]]) -> Lookup:
        found = self._kept.get(size)
        if found is None:
            found = self._kept[size] = Lookup(self._engine, self._statement.where(condition(size)))
        return found

    def _in_list(self, _: int) -> sa.ColumnElement[bool]:
        return self._column == sa.any_(sa.bindparam("ids", [], postgresql.ARRAY(sa.Text)))

    def _in_places(self, size: int) -> sa.ColumnElement[bool]:
        return self._column.in_([sa.bindparam(f"id_{place}", "", self._column.type) for place in range(size)])
