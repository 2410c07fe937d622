"""The history of clinical types, and of everything: versions out of the lake and out of the store, newest first.

Both come in the order of their times; a page is the merge of the two, and ends at a place in both. One request looks at
so many rows: a page may then have fewer versions than asked for, and none, and yet a next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from fhir_gateway.db.history import page_of_versions, place_of, place_token
from fhir_gateway.db.resources import StoredResource, Versions
from fhir_gateway.errors import InputError
from fhir_gateway.jobs.clinical_changes import ClinicalChanges, Place

#: Rows whose versions one request judges, and rows whose keys it looks at to find some that may be shown.
MOST_JUDGED, MOST_LOOKED_AT = 5000, 1 << 20
#: In the order of types behind all that there are.
_BEHIND_ALL = "~"
_LAKE, _STORE = "lake", "store"


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a history is wanted; times in microseconds. ``size`` is what a page takes."""

    since: int | None
    at: tuple[int, int] | None
    size: int
    after: Place | None


@dataclass(frozen=True, slots=True)
class Step:
    """A version at its place in the lake; without one the request has looked enough, as far as this place."""

    place: Place
    version: StoredResource | None = None


def steps(
    changes: ClinicalChanges,
    resource_types: Sequence[str],
    limited: Callable[[str], bool],
    listed: frozenset[str] | None,
    seen: Callable[[Sequence[StoredResource]], Sequence[StoredResource]],
    asked: Asked,
) -> Iterator[Step]:
    """The versions of clinical types that may be seen, newest first, as far as one request looks.

    ``limited`` says of a type whether it depends on the resource which versions are ``seen`` (given all of it that
    decides), ``listed`` are the persons whose resources may be; None is everybody.
    """
    judged = looked_at = 0
    until = None if asked.at is None else asked.at[1]
    for group in changes.written(resource_types, asked.after, asked.since, until, listed):
        hidden = limited(group.resource_type)
        for some in group.slices(asked.size):
            found = changes.versions(group, some, whole=hidden or asked.at is not None)
            shown = {key: _in_force(seen(versions) if hidden else versions, asked) for key, versions in found.items()}
            rows = some.select(["_source", "id", "_deleted", "_row"]).to_pylist()
            for row in rows:
                version = shown[row["_source"], row["id"]].get(group.sheet.seq)
                if version is not None and version.deleted == row["_deleted"]:  # else the row where it left a bucket
                    yield Step(group.place(row["_row"]), version)
            judged += len(rows)
            if judged >= MOST_JUDGED:
                yield Step(group.place(rows[-1]["_row"]))
                return
        looked_at += group.size
        if looked_at >= MOST_LOOKED_AT:
            yield Step(group.end)
            return


def _in_force(versions: Sequence[StoredResource], asked: Asked) -> dict[int, StoredResource]:
    """Those of one resource in the time asked for, by version."""
    found = page_of_versions(versions, asked.since, asked.at, max(len(versions), 1), None)
    return {one.version: one for one in found.resources}


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended, in the lake and in the store."""

    lake: Place | None = None
    store: str | None = None

    @classmethod
    def of(cls, token: str | None) -> Position:
        """Behind the version, or the row, that a page ended with; of the same time the lake comes first."""
        if token is None:
            return cls()
        try:
            kind, *place = orjson.loads(token)
            if kind == _LAKE:
                lake = Place(*place)
                return cls(lake, place_token((lake.when, _BEHIND_ALL, "", 0)))
            updated, resource_type, resource_id, version = place
        except (orjson.JSONDecodeError, TypeError, ValueError) as error:
            raise InputError("the page token is damaged") from error
        return cls(Place(updated, 0, _BEHIND_ALL, 0, 0), place_token((updated, resource_type, resource_id, version)))


def merged(lake: Iterator[Step], stored: Sequence[StoredResource], count: int) -> Versions:
    """One page of both; ``stored`` has one version more than the page, if there are so many."""
    page: list[StoredResource] = []
    ended: list[Any] = []
    rest = iter(stored)
    step, one = next(lake, None), next(rest, None)
    while step is not None or one is not None:
        place = None if one is None else place_of(one)
        of_lake = step is not None and (place is None or step.place.when >= place[0])
        if of_lake and step is not None and step.version is None:
            return Versions(tuple(page), _token(_LAKE, step.place))
        if len(page) == count:
            return Versions(tuple(page), _token(*ended))
        if of_lake and step is not None and step.version is not None:
            page.append(step.version)
            ended = [_LAKE, step.place]
            step = next(lake, None)
        elif one is not None:
            page.append(one)
            ended = [_STORE, place]
            one = next(rest, None)
    return Versions(tuple(page), None)


def _token(kind: str, place: Sequence[Any]) -> str:
    return orjson.dumps([kind, *place]).decode()
