"""DuckDB as unordered as SQL allows: what a query does not sort comes in another order each time.

Parallel grouping and joining gives rows in the order in which threads finish, on small tables nearly always the same
one. A number that depends on it (sums of rounded decimals or floats, the first of equals) differs once in a thousand
runs, on somebody else's machine. Here such queries are shuffled, so that it differs at once.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pytest

_UNORDERED = re.compile(r"\b(GROUP BY|DISTINCT|JOIN|INTERSECT|EXCEPT|UNION|UNNEST|OVER|PIVOT)\b", re.IGNORECASE)
_SELECT = re.compile(r"(?is)\A\s*(?:WITH|SELECT|FROM)\b")
_CREATE = re.compile(r"(?is)\A(\s*CREATE\s+(?:OR\s+REPLACE\s+)?(?:TEMP\s+)?TABLE\s+[\w.\"]+\s+AS\s)(.*)\Z")
_COMMENT = re.compile(r"--[^\n]*")
_TEXT = re.compile(r"'(?:[^']|'')*'")


def unordered(sql: str) -> str:
    """The query with its rows in random order, if it leaves their order to the database; else as it is."""
    made = _CREATE.match(sql)
    head, query = (made[1], made[2]) if made else ("", sql)
    query = query.strip().rstrip(";")
    if not _SELECT.match(query) or ";" in _TEXT.sub("", query) or not _UNORDERED.search(_TEXT.sub("", query)):
        return sql
    if re.search(r"(?i)\b(ORDER BY|LIMIT)\b", _outer(query)):
        return sql
    return f"{head} SELECT * FROM (\n{query}\n) ORDER BY random()"  # noqa: S608 (the query is ours)


def _outer(query: str) -> str:
    """What stands outside all parentheses."""
    text = _TEXT.sub("", _COMMENT.sub("", query))
    while (shorter := re.sub(r"\([^()]*\)", "", text)) != text:
        text = shorter
    return text


class _Connection:
    """A connection of DuckDB that shuffles what is not sorted."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, seed: float) -> None:
        self._connection = connection
        connection.execute("SET python_scan_all_frames = true")
        connection.execute(f"SELECT setseed({seed})").fetchall()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What libraries ask for before they take a connection."""
        return duckdb.DuckDBPyConnection

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def execute(self, query: Any, *arguments: Any, **named: Any) -> Any:
        """As the connection's."""
        return self._connection.execute(unordered(query) if isinstance(query, str) else query, *arguments, **named)

    def sql(self, query: Any, *arguments: Any, **named: Any) -> Any:
        """As the connection's."""
        return self._connection.sql(unordered(query) if isinstance(query, str) else query, *arguments, **named)

    def cursor(self) -> _Connection:
        """As the connection's."""
        return _Connection(self._connection.cursor(), 0.5)


@contextmanager
def shuffled(patch: pytest.MonkeyPatch, seed: int) -> Iterator[None]:
    """Every connection opened meanwhile gives what is not sorted in random order."""
    connect, chance = duckdb.connect, random.Random(seed)  # noqa: S311 (of an order)
    with patch.context() as local:
        local.setattr(duckdb, "connect", lambda *given, **named: _Connection(connect(*given, **named), chance.random()))
        yield
