"""One state of all served resources, read in streams: what an export says of one moment.

The moment is agreed with the writers: everything that happened up to it is in the state, and whatever is written later
has a later time. So a client that asks for changes since that moment misses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fhir_gateway.db.audience import ABOUT, ACTIVE_MEMBER
from fhir_gateway.db.engine import snapshot, table_of, transaction
from fhir_gateway.db.resource_tables import ResourceRow, SearchIndexRow
from fhir_gateway.db.search.dates import instant, microseconds

_MILLISECOND = 1000


@dataclass(frozen=True)
class Frozen:
    """The state as of ``as_of`` (microseconds, whole milliseconds). Reads only while its ``with`` block lasts."""

    connection: Connection
    as_of: int

    @property
    def instant(self) -> str:
        """The moment as FHIR writes it."""
        return instant(self.as_of)

    def rows(self, chosen: sa.Select[Any], size: int) -> Iterator[Sequence[sa.Row[Any]]]:
        """The rows of a statement of :meth:`fhir_gateway.db.resources.ResourceStore.selecting`, so many at a time."""
        ordered = chosen.order_by(table_of(ResourceRow).c.key).execution_options(yield_per=size)
        yield from self.connection.execute(ordered).partitions()

    def ids(self, chosen: sa.Select[Any]) -> list[str]:
        """Only the ids of such a statement."""
        resource = table_of(ResourceRow)
        return list(self.connection.scalars(chosen.with_only_columns(resource.c.id).order_by(resource.c.key)))

    def active_members(self, group: str) -> list[str]:
        """Persons whose entry on a list is active."""
        return list(self.connection.scalars(_active_members(group).distinct()))


@contextmanager
def freeze(engine: Engine, clock: Callable[[], datetime], lock: str) -> Iterator[Frozen]:
    """Agree on a moment with those who write under ``lock``, and open what there was then."""
    with transaction(engine, lock=lock):
        as_of = microseconds(clock()) // _MILLISECOND * _MILLISECOND
        # times are kept in milliseconds: who writes next does so in a later one
        time.sleep(2 * _MILLISECOND / 1_000_000)
    with snapshot(engine) as connection:
        yield Frozen(connection, as_of)


def changed(since: int | None, until: int | None) -> list[sa.ColumnElement[bool]]:
    """Conditions on resources that changed after ``since`` and before ``until`` (microseconds)."""
    updated = table_of(ResourceRow).c.last_updated
    after = [] if since is None else [updated > since]
    return after if until is None else [*after, updated < until]


def of_persons(
    resource_type: str, persons: Sequence[str] | None = None, group: str | None = None
) -> sa.ColumnElement[bool]:
    """Condition on resources of a type that are about some persons, or about the active members of a list.

    Without either: about any person.
    """
    resource, index = table_of(ResourceRow), table_of(SearchIndexRow)
    if resource_type == "Patient":
        about: sa.ColumnElement[Any] = resource.c.id
        exists = None
    else:
        rows = index.alias("person")
        about = rows.c.value
        exists = sa.exists().where(
            rows.c.key == resource.c.key, rows.c.parameter == ABOUT[resource_type], rows.c.system == "Patient"
        )
    chosen: list[sa.ColumnElement[bool]] = []
    if persons is not None:
        chosen.append(about.in_(persons))
    if group is not None:
        chosen.append(about.in_(_active_members(group)))
    if exists is not None:
        return exists.where(*chosen)
    return sa.and_(sa.true(), *chosen)


def about_lists(group: str | None = None) -> sa.ColumnElement[bool]:
    """Condition on Provenance of lists, or of one list."""
    resource, rows = table_of(ResourceRow), table_of(SearchIndexRow).alias("target")
    found = sa.exists().where(
        rows.c.key == resource.c.key, rows.c.parameter == "Provenance.target", rows.c.system == "Group"
    )
    return found if group is None else found.where(rows.c.value == group)


def _active_members(group: str) -> sa.Select[Any]:
    resource, entry = table_of(ResourceRow).alias("list"), table_of(SearchIndexRow).alias("entry")
    return (
        sa.select(entry.c.value)
        .join_from(resource, entry, entry.c.key == resource.c.key)
        .where(
            resource.c.type == "Group",
            resource.c.id == group,
            entry.c.parameter == ACTIVE_MEMBER,
            entry.c.system == "Patient",
        )
    )
