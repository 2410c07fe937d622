"""Serve who is in the lake: one Patient per person, and the organizations, clinicians and coverages around them.

The golden Patient of a person is the Patient of the first source that has one, under the person's id, with the
identifiers of all copies. Other resources keep their sources apart: their ids are ``{source}-{id}``. References follow.
"""

from __future__ import annotations

import gc
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.locks import hold
from fhir_gateway.jobs.served import (
    NOT_ADDRESSED,
    addressed,
    compare,
    read_former,
    referred_to,
    write_present,
)
from fhir_gateway.lake.columns import belongs_to_patients
from fhir_gateway.lake.store import Lake
from fhir_gateway.lake.tables import NO_BUCKET
from fhir_gateway.r4 import spec
from fhir_gateway.r4.exact import parsed
from fhir_gateway.sources.outcome import Progress, PullProgress

PUBLISHED = ("Organization", "Practitioner", "PractitionerRole", "Location", "Coverage", "RelatedPerson")
"""Types served beside Patient, each row of each source for itself."""
REPORTER = "gateway"
"""Id of the Organization that reports: ourselves."""

_KEYS = ("_hash", "_seq")
#: Rows whose texts are in memory at once, a few kilobytes each.
_AT_ONCE = 20_000
_REFERENCE = re.compile(r'("reference"\s*:\s*)("(?:[^"\\]|\\.)*")')

_GOLDEN = """
SELECT member, arg_min(source, place) AS source, arg_min(raw, place) AS raw,
  list(json_extract(raw, '$.identifier') ORDER BY place)
    FILTER (json_extract(raw, '$.identifier') IS NOT NULL) AS identifiers
FROM (
  SELECT _member AS member, _source AS source, _raw AS raw,
    struct_pack(rank := coalesce(r.rank, 1000000), source := _source, id := id) AS place
  FROM patients LEFT JOIN ranks r ON r.source = _source
) GROUP BY member ORDER BY member
"""


@dataclass(frozen=True, slots=True)
class Published:
    """Persons served, and resources that are new or changed, by type."""

    persons: int
    counts: dict[str, int]


def published_id(source: str, resource_id: str) -> str:
    """The id under which a source's resource is served; long ones are cut to a hash (FHIR ids end at 64)."""
    whole = f"{source}-{resource_id}"
    if len(whole) <= 64:
        return whole
    return f"{source}-{hashlib.sha256(resource_id.encode()).hexdigest()[: 63 - len(source)]}"


def publish(gateway: Gateway, progress: Progress | None = None) -> Published:
    """Bring the served resources up to the newest lake version; what did not change is not even looked at again.

    One process at a time; another one waits.
    """
    with hold(gateway, "publish", wait=lambda: True):
        return _publish(gateway, progress)


def _publish(gateway: Gateway, progress: Progress | None) -> Published:
    if progress:
        progress(PullProgress("publish", "what changed"))
    lake, version = gateway.lake, gateway.lake.version
    patients = lake.read("Patient", _KEYS, version=version, ordered=False)
    copies = {kind: lake.read(kind, _KEYS, version=version, ordered=False) for kind in PUBLISHED}
    ranks = pa.table({"source": [one.name for one in gateway.endpoints.all()]})
    ranks = ranks.append_column("rank", pa.array(range(ranks.num_rows), pa.int64()))
    former = read_former(gateway.engine)
    difference = compare(patients, ranks, copies, former, lambda kind: _all_texts(lake, version, kind))
    counts: dict[str, int] = {}

    def put(kind: str, resources: Iterator[dict[str, Any]]) -> None:
        with collector_off():
            outcome = gateway.resources.put_many(resources)
        counts[kind] = counts.get(kind, 0) + outcome.created + outcome.updated

    put("Organization", iter([reporter(gateway)]))
    own = counts.pop("Organization")
    by_address = []
    for kind, rows in {"Patient": patients, **copies}.items():
        changed, done = _changed(kind, rows, difference.keys(kind)), 0
        counts.setdefault(kind, 0)
        for some in _in_slices(changed):
            if progress:
                progress(PullProgress("publish", kind, done, changed.num_rows))
            texts = lake.texts(kind, some, version)
            persons, *others = referred_to(texts, patients, *copies.values())
            references = References(gateway, persons, dict(zip(copies, others, strict=True)))
            put(kind, _patients(_golden(texts, ranks), references) if kind == "Patient" else _copies(texts, references))
            by_address.append(addressed(kind, texts))
            done += some.num_rows
    gone = {(row["kind"], _served_as(row["source"], row["id"])) for row in difference.gone.to_pylist()}
    if not former.num_rows:  # served by an older gateway, which kept no digests
        gone |= {("Patient", id) for id in set(gateway.resources.ids("Patient")) - set(difference.persons.to_pylist())}
    for kind, resource_id in sorted(gone):
        with suppress(NotFoundError):  # somebody deleted it already
            gateway.resources.delete(kind, resource_id)
    write_present(gateway.engine, version, difference.digests(pa.concat_tables([NOT_ADDRESSED, *by_address])))
    counts["Organization"] += own
    return Published(len(difference.persons), counts)


def _all_texts(lake: Lake, version: int, kind: str) -> Iterator[pa.Table]:
    """All rows of a type with their text, some buckets at a time."""
    waiting: list[pa.Table] = []
    for bucket in range(NO_BUCKET, lake.buckets) if belongs_to_patients(kind) else (None,):
        waiting.append(lake.read(kind, ["_raw"], bucket=bucket, version=version, ordered=False))
        if sum(rows.num_rows for rows in waiting) >= _AT_ONCE:
            yield pa.concat_tables(waiting)
            waiting = []
    if any(rows.num_rows for rows in waiting):
        yield pa.concat_tables(waiting)


def _changed(kind: str, rows: pa.Table, keys: pa.Table) -> pa.Table:
    """The rows of a type that are to be served anew, those of a bucket and a member together; of such a person all."""
    if not keys.num_rows:
        return rows.slice(0, 0)
    names = (["_member"], ["id"]) if kind == "Patient" else (["_source", "id"], ["source", "id"])
    chosen = rows.join(keys, *names, "left semi")
    return chosen.sort_by([("_bucket", "ascending"), ("_member", "ascending")])


def _in_slices(rows: pa.Table) -> Iterator[pa.Table]:
    """Rows whose texts are in memory at once, none of a member apart from the others."""
    members = rows["_member"].combine_chunks()
    starts = (
        np.flatnonzero(pc.fill_null(pc.not_equal(members[1:], members[:-1]), True).to_numpy(zero_copy_only=False)) + 1
    )
    first = 0
    while first < rows.num_rows:
        at = np.searchsorted(starts, first + _AT_ONCE)
        last = int(starts[at]) if at < len(starts) else rows.num_rows
        yield rows.slice(first, last - first)
        first = last


def _golden(patients: pa.Table, ranks: pa.Table) -> pa.Table:
    """The first copy of each person, with the identifiers of all."""
    with duckdb.connect() as connection:
        connection.register("patients", patients)
        connection.register("ranks", ranks)
        return connection.sql(_GOLDEN).to_arrow_table()


def _served_as(source: str, resource_id: str) -> str:
    """The id under which a row of the digests is served; persons have no source."""
    return published_id(source, resource_id) if source else resource_id


@contextmanager
def collector_off() -> Iterator[None]:
    """No cyclic garbage collection inside: it makes parsing many small objects 4 to 8 times slower."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def reporter(gateway: Gateway) -> dict[str, Any]:
    """The Organization that we are."""
    return {
        "resourceType": "Organization",
        "id": REPORTER,
        "active": True,
        "name": gateway.settings.reporter_name,
    }


class References:
    """Where references of a source's resources lead in what we serve."""

    def __init__(self, gateway: Gateway, patients: pa.Table, copies: Mapping[str, pa.Table]) -> None:
        """Over the rows of all served types."""
        self._persons = gateway.persons
        self._patients: dict[tuple[str, str], str] = {}
        self._types: dict[tuple[str, str], str] = {}
        for kind, rows in {"Patient": patients, **copies}.items():
            keys = zip(rows["_source"].to_pylist(), rows["id"].to_pylist(), strict=True)
            if kind == "Patient":
                self._patients = dict(zip(keys, rows["_member"].to_pylist(), strict=True))
            else:
                self._types.update(dict.fromkeys(keys, kind))

    @classmethod
    def of(cls, gateway: Gateway) -> References:
        """Over what the lake holds now."""
        return cls(
            gateway,
            gateway.lake.read("Patient", ordered=False),
            {kind: gateway.lake.read(kind, ordered=False) for kind in PUBLISHED},
        )

    def rewrite(self, source: str, raw: str) -> Any:
        """A resource of ``source``, parsed to be written again (:mod:`r4.exact`), its references led to our ids.

        References are rewritten in the text, which is several times faster than walking the parsed resource. Inside a
        string quotes are escaped, so only members named ``reference`` are met.
        """

        def lead(found: re.Match[str]) -> str:
            return found[1] + orjson.dumps(self._target(source, orjson.loads(found[2]))).decode()

        return parsed(_REFERENCE.sub(lead, raw))

    def _target(self, source: str, reference: str) -> str:
        if reference.startswith("urn:uuid:"):
            return self._by_uuid(source, reference)
        parts = reference.partition("/_history/")[0].split("/")
        if len(parts) < 2 or parts[-2] not in _types() or "?" in parts[-1]:
            return reference
        kind, resource_id = parts[-2], parts[-1]
        absolute = len(parts) > 2
        if kind == "Patient":
            person = self._patients.get((source, resource_id))
            if person is None:
                if absolute:
                    return reference
                person = self._persons.lookup(source, pa.array([resource_id]))[0].as_py()
                self._patients[source, resource_id] = person
            return f"Patient/{person}"
        if absolute and (source, resource_id) not in self._types:
            return reference
        return f"{kind}/{published_id(source, resource_id)}"

    def _by_uuid(self, source: str, reference: str) -> str:
        """References inside a transaction Bundle name resources by the UUID that became their id."""
        resource_id = reference.removeprefix("urn:uuid:")
        if person := self._patients.get((source, resource_id)):
            return f"Patient/{person}"
        kind = self._types.get((source, resource_id))
        return f"{kind}/{published_id(source, resource_id)}" if kind else reference


def _patients(golden: pa.Table, references: References) -> Iterator[dict[str, Any]]:
    for batch in golden.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            patient = references.rewrite(row["source"], row["raw"])
            patient["id"] = row["member"]
            identifiers: dict[tuple[str | None, str | None], Any] = {}
            for copy in row["identifiers"] or ():
                for identifier in orjson.loads(copy):
                    identifiers.setdefault((identifier.get("system"), identifier.get("value")), identifier)
            if identifiers:
                patient["identifier"] = list(identifiers.values())
            links = [link for link in patient.pop("link", ()) if _other(link) != f"Patient/{row['member']}"]
            yield {**patient, "link": links} if links else patient


def _other(link: dict[str, Any]) -> str | None:
    """Where a link between patient records leads; those of one person lead to themselves now."""
    reference: str | None = link.get("other", {}).get("reference")
    return reference


def _copies(rows: pa.Table, references: References) -> Iterator[dict[str, Any]]:
    for batch in rows.select(["_source", "id", "_raw"]).to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            resource = references.rewrite(row["_source"], row["_raw"])
            yield {**resource, "id": published_id(row["_source"], row["id"])}


@cache
def _types() -> frozenset[str]:
    return frozenset(spec.resource_types())
