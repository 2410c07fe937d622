"""Clinical and claims resources as they are served: rows of the lake under our ids, about the persons that we serve.

Nothing of them is copied into the store. A resource is what its source sent, with the references led to what is
served; its version is the lake version that brought it, and it was last updated when that was committed. The lake
keeps what was superseded and what was deleted: that is the resource's history.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
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
#: Of one version the row that is there counts: the other is in the bucket that the resource left.
_GONE = """
WITH last AS (
  SELECT _source, id, _seq, _deleted, _member FROM written
  QUALIFY 1 = row_number() OVER (PARTITION BY _source, id ORDER BY _seq DESC, _deleted)
), former AS (
  SELECT _source, id, _deleted, _member FROM written WHERE _seq <= $then
  QUALIFY 1 = row_number() OVER (PARTITION BY _source, id ORDER BY _seq DESC, _deleted)
), seen AS (
  SELECT _source, id FROM former SEMI JOIN before ON member = _member WHERE NOT _deleted
), taken AS (
  SELECT DISTINCT _source, id FROM touched WHERE _deleted AND ($everybody OR _member IN (SELECT member FROM mine))
)
SELECT _source, id FROM last SEMI JOIN touched USING (_source, id) WHERE _seq IN (SELECT seq FROM inside) AND (
  (_deleted AND (_source, id) IN (SELECT (_source, id) FROM taken UNION ALL SELECT (_source, id) FROM seen))
  OR (
    NOT _deleted AND NOT $everybody AND coalesce(_member NOT IN (SELECT member FROM mine), true)
    AND (_source, id) IN (SELECT (_source, id) FROM seen)
  )
)
"""


@dataclass(frozen=True, slots=True)
class Written:
    """A row that a lake version wrote into a bucket; ``deleted``: that the resource is gone, or left the bucket."""

    seq: int
    bucket: int
    id: str
    source: str
    deleted: bool

    @property
    def key(self) -> Key:
        """The resource: its source, and its id there."""
        return self.source, self.id

    @property
    def place(self) -> tuple[int, int, str, str]:
        """Where it is among all rows of its type."""
        return self.seq, self.bucket, self.id, self.source


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
        return (str(found[0]["_source"]), str(found[0]["id"])) if found and not found[0]["_deleted"] else None

    def versions_of(self, resource_type: str, served: str) -> list[StoredResource]:
        """All versions of the resource with an id that we serve, newest first; deletions have no body.

        A version is a lake version that brought other text, another person, or the resource's end. References lead to
        where they lead now.
        """
        return next(iter(self._versions(resource_type, self._written(resource_type, served, ("_raw",))).values()), [])

    def versions_of_keys(self, resource_type: str, keys: Collection[Key]) -> dict[Key, list[StoredResource]]:
        """The same of resources by their source and id there."""
        ids = pa.array(sorted({name for _, name in keys}), pa.string())
        rows = self._lake.history(resource_type, ids, ("_raw",), self.version).to_pylist()
        return self._versions(resource_type, [one for one in rows if (one["_source"], one["id"]) in keys])

    def written(
        self,
        resource_type: str,
        after: Written | None,
        since: int | None,
        until: int | None,
        members: Collection[str] | None,
    ) -> Iterator[Written]:
        """Everything that was ever written of a type, newest first, behind ``after``; file by file.

        Only from ``since`` on and before ``until`` (microseconds), and only what may be about these ``members`` now or
        was when it was written; None is everybody.
        """
        lake, committed = self._lake, self._committed()
        mine = None if members is None else pa.array(sorted(members), pa.string())
        patients = None if mine is None else _keys_of(lake.read("Patient", version=self.version, members=mine), "id")
        for seq, bucket in lake.parts(resource_type, self.version):
            when = committed.get(seq, 0)
            behind = after is None or (seq, bucket) <= (after.seq, after.bucket)
            if not behind or (since is not None and when < since) or (until is not None and when >= until):
                continue
            rows = lake.history(resource_type, None, ("_patient",), self.version, part=(seq, bucket))
            if mine is not None:
                about = pc.is_in(_keys_of(rows, "_patient"), value_set=patients)
                rows = rows.filter(pc.or_(pc.is_in(rows["_member"], value_set=mine), about))
            rows = rows.sort_by([("id", "descending"), ("_source", "descending")])
            for batch in rows.select(["_source", "id", "_deleted"]).to_batches(max_chunksize=1000):
                for row in batch.to_pylist():
                    one = Written(seq, bucket, row["id"], row["_source"], row["_deleted"])
                    if after is None or one.place < after.place:
                        yield one

    def _versions(self, resource_type: str, rows: Iterable[Mapping[str, Any]]) -> dict[Key, list[StoredResource]]:
        """All versions of some resources, by source and id, each newest first, out of all their rows."""
        found: dict[Key, list[Mapping[str, Any]]] = {}
        for one in rows:
            found.setdefault((one["_source"], one["id"]), []).append(one)
        if not found:
            return {}
        members = {one["_member"] for some in found.values() for one in some if one["_member"] is not None}
        persons = self._lake.read("Patient", version=self.version, members=pa.array(sorted(members), pa.string()))
        references, committed = References(self._gateway, persons, {}), self._committed()
        return {
            key: [
                self._gone(resource_type, one, committed)
                if one["_deleted"]
                else self._rendered(resource_type, one, references, committed)
                for one in _newest_first(some)
            ]
            for key, some in found.items()
        }

    def gone(
        self,
        resource_type: str,
        since: int,
        until: int | None,
        members: Collection[str] | None,
        before: Collection[str] = (),
    ) -> list[str]:
        """Served ids of what was deleted after ``since`` and before ``until`` (microseconds) and is not back.

        Only of these ``members``, unless it is None. With members, also what became somebody else's in that time, or
        was then deleted, and at ``since`` was of somebody in ``before``. Sorted.
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
        inside = pc.is_in(written["_seq"], value_set=pa.array(chosen, pa.int64()))
        mine = _texts(members or ())
        among = pc.is_in(written["_member"], value_set=mine)
        theirs = written["_deleted"] if members is None else pc.or_(written["_deleted"], pc.invert(among))
        touched = written.filter(pc.and_(inside, theirs))
        if not touched.num_rows:
            return []
        rows = self._lake.history(resource_type, pc.unique(touched["id"].combine_chunks()), version=self.version)
        with duckdb.connect() as connection:
            for name, table in (
                ("touched", touched),
                ("written", rows),
                ("inside", pa.table({"seq": pa.array(chosen, pa.int64())})),
                ("mine", pa.table({"member": mine})),
                ("before", pa.table({"member": _texts(before)})),
            ):
                connection.register(name, table)
            number = max((one for one, when in committed.items() if when <= since), default=0)
            found = connection.execute(_GONE, {"everybody": members is None, "then": number}).fetchall()
        return sorted(published_id(source, name) for source, name in found)

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


def _texts(values: Collection[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())


def _keys_of(rows: pa.Table, name: str) -> pa.ChunkedArray:
    """Source and id in one column; sources have no line feeds."""
    return pc.binary_join_element_wise(rows["_source"], rows[name], "\n")


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
