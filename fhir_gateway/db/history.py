"""Versions of served resources, newest first, page by page (R4 http.html, history).

Present and earlier versions lie in two tables. Each table and type is asked for one page in the order of (last updated,
type, id, version), descending; the page is the merge of the answers. What is written meanwhile comes before the first
page, and a version that stops being the present one keeps its place: following pages neither repeat nor lose anything.
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_gateway.db.engine import table_of
from fhir_gateway.db.resource_tables import ResourceRow, ResourceVersionRow
from fhir_gateway.db.search.dates import parse_range
from fhir_gateway.db.writing import StoredResource, stored
from fhir_gateway.errors import InputError

Condition = sa.ColumnElement[bool]
Place = tuple[int, str, str, int]  # last updated, type, id, version
_AT_ONCE = 400


@dataclass(frozen=True, slots=True)
class Versions:
    """One page of a history, and where to go on."""

    resources: tuple[StoredResource, ...]
    next: str | None


def place_of(version: StoredResource) -> Place:
    """Where a version is in the order of a history."""
    return parse_range(version.last_updated)[0], version.type, version.id, version.version


def only_version(version: StoredResource, since: int | None, at: tuple[int, int] | None) -> Versions:
    """The history of what has one version only."""
    updated = parse_range(version.last_updated)[0]
    left_out = (since is not None and updated < since) or (at is not None and updated >= at[1])
    return Versions(() if left_out else (version,), None)


def page_of_versions(
    found: Sequence[StoredResource], since: int | None, at: tuple[int, int] | None, count: int, after: str | None
) -> Versions:
    """One page of the versions of one resource, which are in memory, newest first; none has the version of another."""
    place = None if after is None else _decode(after)
    page: list[tuple[Place, StoredResource]] = []
    ends = None  # when the next version came
    for one in found:
        updated = parse_range(one.last_updated)[0]
        left_out = (since is not None and updated < since) or (
            at is not None and (updated >= at[1] or (ends is not None and ends <= at[0]))
        )
        ends = updated
        where = place_of(one)
        if not left_out and (place is None or where < place):
            page.append((where, one))
    following = place_token(page[count - 1][0]) if len(page) > count else None
    return Versions(tuple(one for _, one in page[:count]), following)


def versions(
    connection: Connection,
    visible: Mapping[str, Sequence[Condition]],
    showing: Callable[[Sequence[StoredResource]], Sequence[StoredResource]],
    resource_id: str | None,
    since: int | None,
    at: tuple[int, int] | None,
    count: int,
    after: str | None,
) -> Versions:
    """One page of the versions of the types in ``visible``, with the conditions on present rows that are seen.

    ``showing`` leaves those earlier versions that may be seen, too.
    """
    place = None if after is None else _decode(after)
    found: list[tuple[Place, StoredResource]] = []
    while len(found) <= count:
        heads: list[tuple[Place, bool]] = []
        ended = True
        for resource_type, conditions in visible.items():
            for earlier in (False, True):
                chosen = _select(resource_type, earlier, conditions, resource_id, since, at, place)
                rows = connection.execute(chosen.limit(count + 1)).all()
                ended = ended and len(rows) <= count
                heads += [((row.last_updated, row.type, row.id, row.version), earlier) for row in rows]
        page = _with_bodies(connection, heapq.nlargest(count + 1, heads))
        shown = {id(one) for one in showing([one for _, one, earlier in page if earlier])}
        found += [(where, one) for where, one, earlier in page if not earlier or id(one) in shown]
        if ended and len(page) <= count:
            break
        place = page[-1][0]
    following = place_token(found[count - 1][0]) if len(found) > count else None
    return Versions(tuple(one for _, one in found[:count]), following)


def in_force(
    connection: Connection, resource_type: str, moment: int, ids: Sequence[str] | None = None
) -> Iterator[StoredResource]:
    """What the resources of a type were at a moment (microseconds), without those that were deleted then."""
    present, former = table_of(ResourceRow), table_of(ResourceVersionRow)
    of_former = sa.and_(present.c.type == former.c.type, present.c.id == former.c.id)
    for rows, chosen in (
        (present, sa.select(present)),
        (former, sa.select(former).join(present, of_former).where(_ended(present, former) > moment)),
    ):
        chosen = chosen.where(rows.c.type == resource_type, rows.c.last_updated <= moment, rows.c.deleted.is_(False))
        for some in [None] if ids is None else [ids[at : at + _AT_ONCE] for at in range(0, len(ids), _AT_ONCE)]:
            wanted = chosen if some is None else chosen.where(rows.c.id.in_(some))
            yield from map(stored, connection.execute(wanted.execution_options(yield_per=_AT_ONCE)))


def _select(
    resource_type: str,
    earlier: bool,
    conditions: Iterable[Condition],
    resource_id: str | None,
    since: int | None,
    at: tuple[int, int] | None,
    place: Place | None,
) -> sa.Select[Any]:
    present, former = table_of(ResourceRow), table_of(ResourceVersionRow)
    rows = former if earlier else present
    names = ("type", "id", "version", "last_updated")  # bodies are large: only those of the page are fetched
    chosen = sa.select(*(rows.c[name] for name in names)).where(rows.c.type == resource_type, *conditions)
    if earlier:
        chosen = chosen.join(present, sa.and_(present.c.type == former.c.type, present.c.id == former.c.id))
    if resource_id is not None:
        chosen = chosen.where(rows.c.id == resource_id)
    if since is not None:
        chosen = chosen.where(rows.c.last_updated >= since)
    if at is not None:
        chosen = chosen.where(rows.c.last_updated < at[1])
        if earlier:
            chosen = chosen.where(_ended(present, former) > at[0])
    if place is not None:
        chosen = chosen.where(_behind(rows, resource_type, place))
    return chosen.order_by(rows.c.last_updated.desc(), rows.c.id.desc(), rows.c.version.desc())


def _with_bodies(
    connection: Connection, heads: Sequence[tuple[Place, bool]]
) -> list[tuple[Place, StoredResource, bool]]:
    """The versions at these places, in the same order; ``True`` beside a place is an earlier version."""
    bodies: dict[tuple[str, str, int], StoredResource] = {}
    for resource_type in {kind for (_, kind, *_), _ in heads}:
        for earlier, rows in ((False, table_of(ResourceRow)), (True, table_of(ResourceVersionRow))):
            wanted = [(key[2], key[3]) for key, former in heads if key[1] == resource_type and former == earlier]
            for start in range(0, len(wanted), _AT_ONCE):
                some = sa.tuple_(rows.c.id, rows.c.version).in_(wanted[start : start + _AT_ONCE])
                for row in connection.execute(sa.select(rows).where(rows.c.type == resource_type, some)):
                    bodies[row.type, row.id, row.version] = stored(row)
    return [(key, bodies[key[1:]], earlier) for key, earlier in heads]


def _ended(present: sa.Table, former: sa.Table) -> sa.ColumnElement[int]:
    """When the next version came."""
    follower = former.alias()
    of_former = sa.select(follower.c.last_updated).where(
        follower.c.type == former.c.type, follower.c.id == former.c.id, follower.c.version == former.c.version + 1
    )
    return sa.func.coalesce(of_former.scalar_subquery(), present.c.last_updated)


def _behind(rows: sa.Table, resource_type: str, place: Place) -> Condition:
    updated, kind, resource_id, version = place
    if resource_type != kind:
        return rows.c.last_updated <= updated if resource_type < kind else rows.c.last_updated < updated
    return sa.tuple_(rows.c.last_updated, rows.c.id, rows.c.version) < sa.tuple_(
        sa.literal(updated), sa.literal(resource_id), sa.literal(version)
    )


def place_token(place: Place) -> str:
    """What a page after a place is asked by."""
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode()


def _decode(after: str) -> Place:
    try:
        updated, kind, resource_id, version = orjson.loads(base64.urlsafe_b64decode(after))
    except (ValueError, TypeError) as error:
        raise InputError("the page token is damaged") from error
    whole = isinstance(updated, int) and isinstance(version, int)
    if not (whole and isinstance(kind, str) and isinstance(resource_id, str)):
        raise InputError("the page token is damaged")
    return updated, kind, resource_id, version
