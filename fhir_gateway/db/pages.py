"""One page of a search over the resource store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fhir_gateway.db.search.dates import instant
from fhir_gateway.db.search.paging import encode
from fhir_gateway.db.writing import StoredResource


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a search: matches, their number on all pages (None when not asked for), and where to go on."""

    resources: tuple[StoredResource, ...]
    total: int | None
    next: str | None


def page_of(resource_type: str, rows: Sequence[Sequence[Any]], count: int, sort: str | None, total: int | None) -> Page:
    """The page of rows of a search: id, version, time, body, key, and what they are sorted by; one more goes on."""
    last = rows[count - 1] if len(rows) > count else None
    following = None if last is None else encode(sort, list(last[5:]), last[4])
    found = (
        StoredResource(resource_type, one, version, instant(updated), False, bytes(body))
        for one, version, updated, body, *_ in rows[:count]
    )
    return Page(tuple(found), total, following)
