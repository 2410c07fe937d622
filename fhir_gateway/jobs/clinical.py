"""Clinical and claims resources as they are served: rows of the lake under our ids, about the persons that we serve.

Nothing of them is copied into the store. A resource is what its source sent, with the references led to what is
served; its version is the lake version that brought it, and it was last updated when that was committed. The lake
keeps what was superseded and what was deleted: that is the resource's history.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
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

#: Source and id there.
Key = tuple[str, str]
_LONGEST_ID = 64


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
        rows = self.lake.read(resource_type, ["_seq"], version=self.version, members=wanted)
        names = map(published_id, rows["_source"].to_pylist(), rows["id"].to_pylist())
        rows = rows.filter(pa.array([name in served for name in names], pa.bool_()))
        yield from self.rendered(resource_type, self.lake.texts(resource_type, rows, self.version), wanted)

    def of_id(self, resource_type: str, served: str) -> StoredResource | None:
        """The resource with an id that we serve, which may be a deletion; None when there never was one."""
        return next(iter(self.versions_of(resource_type, served)), None)

    def key_of(self, resource_type: str, served: str) -> tuple[str, str] | None:
        """Source and id there of the resource with an id that we serve; None when there is none."""
        found = _newest_first(self._written(resource_type, served, ()))
        return (str(found[0]["_source"]), str(found[0]["id"])) if found and not found[0]["_deleted"] else None

    def versions_of(self, resource_type: str, served: str) -> list[StoredResource]:
        """All versions of the resource with an id that we serve, newest first; deletions have no body.

        A version is a lake version that brought other text, another person, or the resource's end. References lead to
        where they lead now.
        """
        return next(iter(self.versions(resource_type, self._written(resource_type, served, ("_raw",))).values()), [])

    def versions(self, resource_type: str, rows: Iterable[Mapping[str, Any]]) -> dict[Key, list[StoredResource]]:
        """The versions of some resources, by source and id, each newest first, out of rows of the lake with `_raw`."""
        found: dict[Key, list[Mapping[str, Any]]] = {}
        for one in rows:
            found.setdefault((one["_source"], one["id"]), []).append(one)
        if not found:
            return {}
        members = {one["_member"] for some in found.values() for one in some if one["_member"] is not None}
        persons = self.lake.read("Patient", version=self.version, members=pa.array(sorted(members), pa.string()))
        references, committed = References(self._gateway, persons, {}), self.committed
        return {
            key: [
                self._gone(resource_type, one, committed)
                if one["_deleted"]
                else self._rendered(resource_type, one, references, committed)
                for one in _newest_first(some)
            ]
            for key, some in found.items()
        }

    @property
    def lake(self) -> Lake:
        """The lake."""
        return self._gateway.lake

    @cached_property
    def committed(self) -> dict[int, int]:
        """When each lake version was committed, in microseconds."""
        return {one.version: parse_range(one.committed_at)[0] for one in self.lake.versions()}

    def _written(self, resource_type: str, served: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        """All rows of the resource with an id that we serve."""
        for source in sorted({one.source for one in self.lake.versions()}):
            if not served.startswith(f"{source}-"):
                continue
            names = {served[len(source) + 1 :]}
            if len(served) == _LONGEST_ID:  # maybe a long id, which is served as its hash
                keys = self.lake.history(resource_type, version=self.version)
                known = pc.unique(keys.filter(pc.equal(keys["_source"], source))["id"]).to_pylist()
                names = {one for one in known if published_id(source, one) == served}
            rows = self.lake.history(resource_type, pa.array(sorted(names), pa.string()), columns, self.version)
            found: list[dict[str, Any]] = rows.filter(pc.equal(rows["_source"], source)).to_pylist()
            if found:
                return found
        return []

    def _served(self, resource_type: str, members: pa.Array) -> Iterator[StoredResource]:
        rows = self.lake.read(resource_type, ["_raw", "_seq"], version=self.version, members=members)
        yield from self.rendered(resource_type, rows, members)

    def rendered(self, resource_type: str, rows: pa.Table, members: pa.Array) -> Iterator[StoredResource]:
        """Rows with `_raw`, in their order, as they are served; ``members`` are the persons they are about."""
        if not rows.num_rows:
            return
        references = References(self._gateway, self.lake.read("Patient", version=self.version, members=members), {})
        committed = self.committed
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


def _newest_first(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One row for each version: of one that moved the row where it is, not the one where it left."""
    found: dict[int, Mapping[str, Any]] = {}
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
