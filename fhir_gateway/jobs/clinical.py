"""Clinical and claims resources as they are served: rows of the lake under our ids, about the persons that we serve.

Nothing of them is copied into the store. A resource is what its source sent, with the references led to what is served;
its version is the lake version that brought it, and it was last updated when that was committed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.db.resources import StoredResource
from fhir_gateway.db.search.dates import instant, parse_range
from fhir_gateway.errors import Location, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.publish import References, published_id
from fhir_gateway.terminology.value_sets import ValueSets

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
            yield from self._served(resource_type, wanted, None)

    def of_id(self, resource_type: str, served: str) -> StoredResource | None:
        """The resource with an id that we serve; None when there is none."""
        row = self._row(resource_type, served)
        if row is None:
            return None
        members = None if row["_member"] is None else pa.array([row["_member"]], pa.string())  # None: it is nobody's
        return next(self._served(resource_type, members, (row["_source"], row["id"])), None)

    def key_of(self, resource_type: str, served: str) -> tuple[str, str] | None:
        """Source and id there of the resource with an id that we serve; None when there is none."""
        row = self._row(resource_type, served)
        return None if row is None else (row["_source"], row["id"])

    def _row(self, resource_type: str, served: str) -> dict[str, Any] | None:
        keys = self._gateway.lake.read(resource_type, version=self.version)
        for source in sorted({one.source for one in self._gateway.lake.versions()}):
            if not served.startswith(f"{source}-"):
                continue
            ids = keys.filter(pc.equal(keys["_source"], source))
            rest = served[len(source) + 1 :]
            found = ids.filter(pc.equal(ids["id"], rest))
            if not found.num_rows and len(served) == _LONGEST_ID:  # a long id, which is served as its hash
                names = [one for one in ids["id"].to_pylist() if published_id(source, one) == served]
                found = ids.filter(pc.is_in(ids["id"], pa.array(names, pa.string())))
            if found.num_rows:
                row: dict[str, Any] = found.slice(0, 1).to_pylist()[0]
                return row
        return None

    def _served(
        self, resource_type: str, members: pa.Array | None, only: tuple[str, str] | None
    ) -> Iterator[StoredResource]:
        lake = self._gateway.lake
        rows = lake.read(resource_type, ["_raw", "_seq"], version=self.version, members=members)
        if only is not None:
            rows = rows.filter(pc.and_(pc.equal(rows["_source"], only[0]), pc.equal(rows["id"], only[1])))
        if not rows.num_rows:
            return
        about = pa.array([], pa.string()) if members is None else members
        references = References(self._gateway, lake.read("Patient", version=self.version, members=about), {})
        committed = {one.version: parse_range(one.committed_at)[0] for one in lake.versions()}
        for batch in rows.select(["_source", "id", "_raw", "_seq"]).to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                identity = published_id(row["_source"], row["id"])
                updated = instant(committed.get(row["_seq"], 0))
                resource = references.rewrite(row["_source"], row["_raw"])
                meta = {**resource.get("meta", {}), "versionId": str(row["_seq"]), "lastUpdated": updated}
                head = {"resourceType": resource_type, "id": identity, "meta": meta}
                body = orjson.dumps(head | {name: value for name, value in resource.items() if name not in head})
                yield StoredResource(resource_type, identity, row["_seq"], updated, False, body)


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
