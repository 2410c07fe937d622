"""What left a client's sight without being deleted: it became another person's, or another audience's.

A client that keeps a copy by ``_since`` holds it still, under the person of then. It is told as it is told of
deletions: by its id, and nothing of what became of it. Whose resources the client saw is decided by the lists as they
were in the moment that it asks from; what it is told of is no longer to be seen by the lists of now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from fhir_gateway.db.audience import Audience
from fhir_gateway.db.engine import table_of
from fhir_gateway.db.freezing import Frozen, changed
from fhir_gateway.db.history import in_force
from fhir_gateway.db.resource_tables import ResourceRow
from fhir_gateway.db.search.parameters import active_entries
from fhir_gateway.db.search.values import reference_parts
from fhir_gateway.jobs.exports.models import Export, Json


def persons_before(export: Export, moment: Frozen) -> frozenset[str] | None:
    """Whose resources the same export had in the moment it asks from; None is everybody's, now as then."""
    if export.before is None:
        export.before = (_persons_before(export, moment),)
    return export.before[0]


def _persons_before(export: Export, moment: Frozen) -> frozenset[str] | None:
    wanted = export.wanted
    found: frozenset[str] | None = None if wanted.patients is None else frozenset(wanted.patients)
    registered = Audience(export.audience.labels, viewer=export.audience.viewer)
    if wanted.since is None or (wanted.group is None and registered.everybody):
        return found
    listed: set[str] = set()
    of_group: set[str] = set()
    for one in in_force(moment.connection, "Group", wanted.since):
        group = one.json()
        persons = _members(group)
        if one.id == wanted.group:
            of_group |= persons
        if not registered.everybody and registered.lists(group):
            listed |= persons
    for some, limits in ((of_group, wanted.group is not None), (listed, not registered.everybody)):
        if limits:
            found = frozenset(some) if found is None else found & some
    return found


def _members(group: Json) -> set[str]:
    found = (entry.get("reference") for entry in active_entries({"member": group.get("member", ())}) if entry)
    parts = (reference_parts(one, None) for one in found if isinstance(one, str))
    return {name for kind, name in parts if kind == "Patient"}


def left(
    export: Export, moment: Frozen, resource_type: str, told: Sequence[sa.Select[Any]], personal: bool
) -> Iterator[list[str]]:
    """Ids of stored resources of a type that the same export had before and has no longer, so many at a time.

    ``told`` select the keys of rows that it has, or tells of anyway; ``personal``: the type is exported for persons.
    """
    wanted, resource = export.wanted, table_of(ResourceRow)
    before = persons_before(export, moment)
    if wanted.since is None or (before is None and not export.audience.restriction(resource_type)):
        return
    chosen = sa.select(resource.c.id).where(resource.c.type == resource_type, *changed(wanted.since, wanted.until))
    hidden = moment.connection.execute(
        chosen.where(*(resource.c.key.not_in(one.correlate(None)) for one in told))
        .order_by(resource.c.key)
        .execution_options(yield_per=export.rows)
    )
    for rows in hidden.partitions():
        ids = [row.id for row in rows]
        found = sorted(
            one.id
            for one in in_force(moment.connection, resource_type, wanted.since, ids)
            if _had(export, one.json(), before, personal)
        )
        if found:
            yield found


def _had(export: Export, resource: Json, before: frozenset[str] | None, personal: bool) -> bool:
    """Whether the export had a resource as it was then."""
    person = export.audience.person(resource, None)
    theirs = before is None or person in before
    return (theirs or not personal) and export.audience.shows(resource, theirs) and export.seen.permits(resource)
