"""Searches that differ in nothing but their values: one statement, kept and asked again with others.

Building a statement takes ten times as long as running it. The plain criteria, of which most searches are made, have
the same statement whatever their values are: it is made once from marks in the place of values, and where the marks
come out as its parameters the values go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fhir_gateway.db.engine import Lookup
from fhir_gateway.db.search.parameters import search_parameters
from fhir_gateway.db.search.values import LONGEST, reference_parts
from fhir_gateway.r4.spec import resource_types

#: Looks like an id, so that a reference with it is one.
_MARK = "kept-7d1f0a52c3-"
_MOST_CRITERIA = 8


@dataclass(frozen=True, slots=True)
class Shape:
    """Criteria with marks in the place of values, by which a statement is kept, and the values by mark."""

    criteria: tuple[tuple[str, str], ...]
    values: Mapping[str, str]


def shape_of(resource_type: str, criteria: Sequence[tuple[str, str]], base_url: str | None) -> Shape | None:
    """The shape of criteria that are all plain: ``_id``, references, tokens and addresses without modifier, of one
    value each, that need no escapes. None for all else.
    """
    if len(criteria) > _MOST_CRITERIA:
        return None
    marked: list[tuple[str, str]] = []
    values: dict[str, str] = {}
    for name, text in criteria:
        parts = _parts(resource_type, name, text, base_url)
        if parts is None:
            return None
        said, own, between = parts
        marks = [f"{_MARK}{len(values) + number}" for number in range(len(own))]
        marked.append((name, said + between.join(marks)))
        values |= zip(marks, own, strict=True)
    return Shape(tuple(marked), values)


def _parts(resource_type: str, name: str, text: str, base_url: str | None) -> tuple[str, Sequence[str], str] | None:
    """What a value says itself, and the parts of it that differ, with what stands between them; None if not plain."""
    if not text or len(text) > LONGEST or any(one in text for one in (",", "\\", "\x00")):
        return None
    if name == "_id":
        return "", [text], ""
    parameter = search_parameters(resource_type).get(name)
    kind = None if parameter is None else parameter.kind
    if kind == "reference":
        target, value = reference_parts(text, base_url)
        if not value or (target is not None and target not in _types()):
            return None
        return f"{target}/" if target else "", [value], ""
    if kind == "token":
        parts = text.split("|", 1)
        return ("", parts, "|") if all(parts) else None
    if kind in ("uri", "canonical") and "|" not in text:
        return "", [text], ""
    return None


@lru_cache(maxsize=1)
def _types() -> frozenset[str]:
    return frozenset(resource_types())


class KeptSearch:
    """The first page of a search, for other values and any number of rows."""

    def __init__(self, engine: Engine, statement: sa.Select[Any], shape: Shape) -> None:
        """Over the statement made of ``shape.criteria``; ValueError when the marks are not where values go."""
        self._lookup = Lookup(engine, statement.limit(sa.bindparam("first", 0, sa.Integer)))
        self._marks = {name: value for name, value in self._lookup.said.items() if _is_mark(value)}
        if set(self._marks.values()) != shape.values.keys():
            raise ValueError("a value of the search is not a parameter of its statement")

    def rows(self, shape: Shape, count: int) -> Iterator[tuple[Any, ...]]:
        """At most ``count`` rows for the values of a shape like the one this was made from."""
        values = {name: shape.values[mark] for name, mark in self._marks.items()}
        return iter(self._lookup.all({**values, "first": count}))


def _is_mark(value: object) -> bool:
    return isinstance(value, str) and value.startswith(_MARK)
