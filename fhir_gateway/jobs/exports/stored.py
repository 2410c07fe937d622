"""Rows that are resources of the store, as they are kept, and the ids of those that are gone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
import sqlalchemy as sa

from fhir_gateway.db.audience import ABOUT
from fhir_gateway.db.engine import snapshot, table_of
from fhir_gateway.db.freezing import Frozen, about_lists, changed, of_persons
from fhir_gateway.db.resource_tables import ResourceRow
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.db.writing import slices
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.exports.left import left
from fhir_gateway.jobs.exports.models import Block, Export, Level, Source
from fhir_gateway.jobs.exports.roster import linked
from fhir_gateway.r4.exact import parsed

EVERYWHERE: frozenset[Level] = frozenset({"system", "patient", "group"})
SYSTEM: frozenset[Level] = frozenset({"system"})
#: Types that are somebody's: exported for patients and lists, as far as they are about their persons.
PERSONAL = frozenset({"Patient", *ABOUT})
#: Who cares for members and pays for them: no patients' data. Of a list, those that it leads to.
DIRECTORY = frozenset({"Organization", "Practitioner", "PractitionerRole", "Location"})

_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}


def stored(resource_type: str, levels: frozenset[Level] = EVERYWHERE) -> Source:
    """The source of a type of the store."""
    return Source(resource_type, levels, now=partial(_rows, resource_type))


def gone(export: Export, moment: Frozen, resource_type: str) -> Iterator[list[str]]:
    """Ids of a type's resources that were deleted in the time asked for, or left the export, so many at a time."""
    wanted = export.wanted
    if wanted.since is None or (wanted.level != "system" and resource_type not in PERSONAL):
        return
    conditions = list(_persons(export, resource_type))
    chosen = export.seen.selecting(resource_type, deleted=True).where(*changed(wanted.since, wanted.until))
    for condition in conditions:
        for rows in moment.rows(chosen.where(condition), export.rows):
            yield [row.id for row in rows]
    there, key = export.seen.selecting(resource_type), table_of(ResourceRow).c.key
    told = [some.with_only_columns(key).where(sa.or_(*conditions)) for some in (there, chosen)]
    personal = wanted.level != "system"
    yield from left(export, moment, resource_type, told, personal)


def _rows(resource_type: str, export: Export, moment: Frozen) -> Iterator[Block]:
    wanted = export.wanted
    shape = _shape(export, resource_type)
    chosen = export.seen.selecting(resource_type, wanted.alternatives(resource_type))
    if not (wanted.roster and resource_type == "Group"):
        chosen = chosen.where(*changed(wanted.since, wanted.until))
    for condition in _conditions(export, moment, resource_type):
        for rows in moment.rows(chosen.where(condition), export.rows):
            bodies = [bytes(row.body) for row in rows]
            if resource_type == "Group" and wanted.level == "patient" and wanted.patients is not None:
                bodies = [body for body in bodies if _lists(body, wanted.patients)]
            if shape is not None:
                bodies = [shape(body) for body in bodies]
            if bodies:
                yield Block(b"\n".join(bodies) + b"\n", len(bodies))


def _conditions(export: Export, moment: Frozen, resource_type: str) -> Iterable[sa.ColumnElement[bool]]:
    """Conditions whose rows together are those of the level; their rows do not overlap."""
    wanted, resource = export.wanted, table_of(ResourceRow)
    if wanted.level == "system":
        return [sa.true()]
    if resource_type in PERSONAL:
        return _persons(export, resource_type)
    if wanted.level == "group" and resource_type == "Group":
        return [resource.c.id == wanted.group]
    if resource_type == "Provenance":
        # of lists: it may name any of their members, so there is none of an export of some patients
        return [about_lists(wanted.group)] if wanted.patients is None else []
    if wanted.level == "group" and resource_type in DIRECTORY:
        ids = sorted(linked(export, moment).get(resource_type, ()))
        return [resource.c.id.in_(some) for some in slices(ids)]
    return [sa.true()]


def _persons(export: Export, resource_type: str) -> Iterable[sa.ColumnElement[bool]]:
    wanted = export.wanted
    if wanted.level == "system":
        return [sa.true()]
    if wanted.patients is None:
        return [of_persons(resource_type, group=wanted.group)]
    people = sorted(set(wanted.patients))
    return [of_persons(resource_type, some, wanted.group) for some in slices(people)]


def _shape(export: Export, resource_type: str) -> Any:
    """What becomes of each body; None when it stays as it is."""
    wanted = export.wanted
    elements = wanted.elements_of(resource_type)
    only = None
    if resource_type == "Group" and wanted.patients is not None:
        only = frozenset(f"Patient/{one}" for one in wanted.patients)
    if elements is None and only is None:
        return None
    return partial(shaped, elements, only)


def shaped(elements: frozenset[str] | None, only: frozenset[str] | None, body: bytes) -> bytes:
    """A body with some root elements, and of a list only the entries of some patients; tagged as a part."""
    resource: Mapping[str, Any] = parsed(body.decode())
    if only is not None and "member" in resource:
        entries = [one for one in resource["member"] if one["entity"].get("reference") in only]
        resource = {name: value for name, value in resource.items() if name != "member"}
        resource |= {"member": entries} if entries else {}
    if elements is not None:
        resource = {name: value for name, value in resource.items() if name.removeprefix("_") in elements}
    meta = dict(resource.get("meta", {}))
    meta["tag"] = [*meta.get("tag", []), _SUBSETTED]
    return orjson.dumps({**resource, "meta": meta})


def _lists(body: bytes, patients: Sequence[str]) -> bool:
    """Whether any of some patients is on a list."""
    only = {f"Patient/{one}" for one in patients}
    return any(one.get("entity", {}).get("reference") in only for one in orjson.loads(body).get("member", ()))


def known_patients(gateway: Gateway, store: ResourceStore, ids: Sequence[str], group: str | None) -> set[str]:
    """Those of some patients whom a view shows and, if there is a list, whose entry on it is active."""
    found: set[str] = set()
    with snapshot(gateway.engine) as connection:
        for some in slices(list(ids)):
            chosen = store.selecting("Patient").where(of_persons("Patient", some, group))
            found |= set(connection.scalars(chosen.with_only_columns(table_of(ResourceRow).c.id)))
    return found
