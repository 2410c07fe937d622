"""Clinical and claims resources as they are served: rows of the lake under our ids, about the persons that we serve.

Nothing of them is copied into the store. A resource is what its source sent, with the references led to what is
served; its version is the lake version that brought it, and it was last updated when that was committed. The lake
keeps what was superseded and what was deleted: that is the resource's history.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.db.resources import StoredResource
from fhir_gateway.db.search.dates import instant, parse_range
from fhir_gateway.errors import Location, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.publish import References, published_id
from fhir_gateway.lake.store import Lake
from fhir_gateway.terminology.value_sets import ValueSets

_LONGEST_ID = 64
_KEYS = ("_source", "id", "_seq", "_deleted")


class ClinicalRows:
    """The rows of one lake version, by default the newest."""

    def __init__(self, gateway: Gateway, version: int | None = None) -> None:
        self._gateway = gateway
        self.version = gateway.lake.version if version is None else version

    def members(self) -> list[str]:
        """All persons, sorted."""
        found: list[str] = self._gateway.lake.members(version=self.version).to_pylist()
        return found

    def of_members(self, resource_type: str, members: Sequence[str]) -> Iterator[StoredResource]:
        """All resources of a type about these persons, by person, source and id."""
        wanted = pa.array(sorted(set(members)), pa.string())
        if len(wanted):
            yield from self._served(resource_type, wanted)

    def of_names(self, resource_type: str, served: Collection[str], members: Sequence[str]) -> Iterator[StoredResource]:
        """Those of the resources about these persons that we serve under these ids; only their text is read."""
        wanted = pa.array(sorted(set(members)), pa.string())
        rows = self._lake.read(resource_type, ["_seq"], version=self.version, members=wanted)
        names = map(published_id, rows["_source"].to_pylist(), rows["id"].to_pylist())
        rows = rows.filter(pa.array([name in served for name in names], pa.bool_()))
        yield from self._rows(resource_type, self._lake.texts(resource_type, rows, self.version), wanted)

    def of_id(self, resource_type: str, served: str) -> StoredResource | None:
        """The resource with an id that we serve, which may be a deletion; None when there never was one."""
        return next(iter(self.versions_of(resource_type, served)), None)

    def key_of(self, resource_type: str, served: str) -> tuple[str, str] | None:
        """Source and id there of the resource with an id that we serve; None when there is none."""
        found = _newest_first(self._written(resource_type, served, ()))
        return (found[0]["_source"], found[0]["id"]) if found and not found[0]["_deleted"] else None

    def versions_of(self, resource_type: str, served: str) -> list[StoredResource]:
        """All versions of the resource with an id that we serve, newest first; deletions have no body.

        A version is a lake version that brought other text, another person, or the resource's end. References lead to
        where they lead now.
        """
        rows = _newest_first(self._written(resource_type, served, ("_raw",)))
        if not rows:
            return []
        persons = pa.array(sorted({one["_member"] for one in rows if one["_member"] is not None}), pa.string())
        references = References(self._gateway, self._lake.read("Patient", version=self.version, members=persons), {})
        committed = self._committed()
        return [
            self._gone(resource_type, one, committed)
            if one["_deleted"]
            else self._rendered(resource_type, one, references, committed)
            for one in rows
        ]

    def gone(self, resource_type: str, since: int, until: int | None, members: Collection[str] | None) -> list[str]:
        """Served ids of what was deleted after ``since`` and before ``until`` (microseconds) and is not back.

        Only of these ``members``, unless it is None. Sorted.
        """
        committed = self._committed()
        chosen = [
            number
            for number, when in committed.items()
            if number <= self.version and when > since and (until is None or when < until)
        ]
        if not chosen:
            return []
        written = self._lake.history(resource_type, version=self.version, since=min(chosen) - 1)
        left = written.filter(pc.and_(written["_deleted"], pc.is_in(written["_seq"], pa.array(chosen, pa.int64()))))
        if members is not None:
            left = left.filter(pc.is_in(left["_member"], value_set=pa.array(sorted(members), pa.string())))
        if not left.num_rows:
            return []
        ids = pc.unique(left["id"].combine_chunks())
        now = self._lake.history(resource_type, ids, version=self.version)
        ends: dict[tuple[str, str], tuple[int, bool]] = {}
        for source, name, seq, deleted in zip(*(now[one].to_pylist() for one in _KEYS), strict=True):
            # of one version the row that is there counts: the other is in the bucket that the resource left
            ends[source, name] = max(ends.get((source, name), (-1, False)), (seq, not deleted))
        asked = set(zip(left["_source"].to_pylist(), left["id"].to_pylist(), strict=True))
        inside = frozenset(chosen)
        return sorted(published_id(*key) for key in asked if not ends[key][1] and ends[key][0] in inside)

    @property
    def _lake(self) -> Lake:
        return self._gateway.lake

    def _committed(self) -> dict[int, int]:
        """When each lake version was committed, in microseconds."""
        return {one.version: parse_range(one.committed_at)[0] for one in self._lake.versions()}

    def _written(self, resource_type: str, served: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        """All rows of the resource with an id that we serve."""
        for source in sorted({one.source for one in self._lake.versions()}):
            if not served.startswith(f"{source}-"):
                continue
            names = {served[len(source) + 1 :]}
            if len(served) == _LONGEST_ID:  # maybe a long id, which is served as its hash
                keys = self._lake.history(resource_type, version=self.version)
                known = pc.unique(keys.filter(pc.equal(keys["_source"], source))["id"]).to_pylist()
                names = {one for one in known if published_id(source, one) == served}
            rows = self._lake.history(resource_type, pa.array(sorted(names), pa.string()), columns, self.version)
            found: list[dict[str, Any]] = rows.filter(pc.equal(rows["_source"], source)).to_pylist()
            if found:
                return found
        return []

    def _served(self, resource_type: str, members: pa.Array) -> Iterator[StoredResource]:
        rows = self._lake.read(resource_type, ["_raw", "_seq"], version=self.version, members=members)
        yield from self._rows(resource_type, rows, members)

    def _rows(self, resource_type: str, rows: pa.Table, members: pa.Array) -> Iterator[StoredResource]:
        if not rows.num_rows:
            return
        references = References(self._gateway, self._lake.read("Patient", version=self.version, members=members), {})
        committed = self._committed()
        for batch in rows.select(["_source", "id", "_raw", "_seq"]).to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                yield self._rendered(resource_type, row, references, committed)

    def _rendered(
        self, resource_type: str, row: Mapping[str, Any], references: References, committed: Mapping[int, int]
    ) -> StoredResource:
        identity = published_id(row["_source"], row["id"])
        updated = instant(committed.get(row["_seq"], 0))
        resource = references.rewrite(row["_source"], row["_raw"])
        meta = {**resource.get("meta", {}), "versionId": str(row["_seq"]), "lastUpdated": updated}
        head = {"resourceType": resource_type, "id": identity, "meta": meta}
        body = orjson.dumps(head | {name: value for name, value in resource.items() if name not in head})
        return StoredResource(resource_type, identity, row["_seq"], updated, False, body)

    def _gone(self, resource_type: str, row: Mapping[str, Any], committed: Mapping[int, int]) -> StoredResource:
        updated = instant(committed.get(row["_seq"], 0))
        return StoredResource(resource_type, published_id(row["_source"], row["id"]), row["_seq"], updated, True, b"")


def _newest_first(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each version: of one that moved the row where it is, not the one where it left."""
    found: dict[int, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda one: (one["_seq"], not one["_deleted"])):
        found[row["_seq"]] = row
    return [found[seq] for seq in sorted(found, reverse=True)]


def codes_of(gateway: Gateway, canonical: str) -> frozenset[tuple[str, str]]:
    """The codes (system, code) of a value set that a measure package or the terminology store has.

    NotFoundError when neither has it; TerminologyError when it cannot be computed.
    """
    url, _, version = canonical.partition("|")
    for package in gateway.measures.packages():
        if url in package.value_sets.urls:
            return package.value_sets.resolve(url, version or None).codes
    found = gateway.terminology.find("ValueSet", canonical)
    if found is None:
        raise NotFoundError("there is no such value set", location=Location(rule="in"))
    return ValueSets([found[1]]).resolve(url).codes
