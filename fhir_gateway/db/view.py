"""What an audience sees of the stored resources: conditions of statements, and what else is asked in its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_gateway.db.audience import Audience
from fhir_gateway.db.engine import table_of
from fhir_gateway.db.resource_tables import ResourceRow, SearchIndexRow
from fhir_gateway.db.search.criteria import Reach
from fhir_gateway.db.search.matching import matches
from fhir_gateway.db.writing import StoredResource, slices


class View:
    """The tables of resources as ``audience`` sees them; ``searchable`` are the types that chains may lead into."""

    def __init__(
        self,
        audience: Audience,
        searchable: Callable[[str], bool],
        base_url: str | None,
        clock: Callable[[], datetime],
    ) -> None:
        self.audience = audience
        self.searchable = searchable
        self._base_url = base_url
        self._clock = clock
        self._resource = table_of(ResourceRow)
        self._index = table_of(SearchIndexRow)
        self.reach = Reach(self._resource, self._index, base_url, self.visible, searchable)

    @property
    def statement_key(self) -> tuple[Any, ...]:
        """What of the audience the statements depend on that are kept (those of an audience without grants)."""
        return (None, None) if self.audience.everybody else (self.audience.labels, self.audience.viewer)

    def select(self, resource_type: str) -> sa.Select[Any]:
        """Statement of the visible resources of a type, deleted ones among them."""
        visible = self.visible(resource_type)
        return sa.select(self._resource).where(self._resource.c.type == resource_type, *visible)

    def visible(self, resource_type: str, rows: sa.FromClause | None = None) -> list[sa.ColumnElement[bool]]:
        """Conditions on ``rows`` (the resources, or an alias) of a type that the audience sees."""
        rows = self._resource if rows is None else rows
        condition = self.audience.condition(resource_type, rows, self._index)
        found = [] if condition is None else [condition]
        for alternatives in self.audience.restriction(resource_type):
            met = [sa.and_(*self.reach.conditions(resource_type, one, rows, self._clock())) for one in alternatives]
            found.append(sa.or_(*met))
        return found

    def live(self, resource_type: str) -> sa.Select[Any]:
        """Statement of those that are not deleted."""
        return self.select(resource_type).where(self._resource.c.deleted.is_(False))

    def showing(self, connection: Connection, earlier: Sequence[StoredResource]) -> list[StoredResource]:
        """Of earlier versions of visible resources those that the audience would see now."""
        if self.audience.unlimited:
            return list(earlier)
        bodies = {id(one): one.json() for one in earlier if not one.deleted}
        persons = {key: self.audience.person(body, self._base_url) for key, body in bodies.items()}
        listed = self._listed(connection, {person for person in persons.values() if person is not None})
        return [
            one
            for one in earlier
            if one.deleted
            or (self.audience.shows(bodies[id(one)], persons[id(one)] in listed) and self.permits(bodies[id(one)]))
        ]

    def _listed(self, connection: Connection, persons: set[str]) -> set[str]:
        if self.audience.everybody or not persons:
            return set()
        return {
            person
            for some in slices(sorted(persons))
            for person in connection.scalars(self.audience.members(self._index, some))
        }

    def permits(self, resource: Mapping[str, Any]) -> bool:
        """True when a resource meets what the grants of the audience say; also for what the tables do not hold."""
        now = self._clock()
        return all(
            any(matches(resource, criteria, self._base_url, now) for criteria in alternatives)
            for alternatives in self.audience.restriction(resource["resourceType"])
        )
