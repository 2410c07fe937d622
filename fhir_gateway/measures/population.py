"""Populations: whom a measure is evaluated over, cut into batches that are evaluated one at a time.

A batch holds whole members, so results do not depend on how a population is cut, and memory is bounded by the
largest batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import duckdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.cql import Batch
from fhir_gateway.cql.batch import SMALL
from fhir_gateway.cql.sought import Coded
from fhir_gateway.errors import InputError
from fhir_gateway.lake.claims import ORGANIZATION_COLUMNS, PRACTITIONER_COLUMNS, ROLE_COLUMNS, providers
from fhir_gateway.measures import few
from fhir_gateway.measures.copies import Copies, EncounterCopies, WithoutCopies
from fhir_gateway.r4 import spec
from fhir_gateway.terminology.concept_maps import CodeMap

Resource = Mapping[str, Any]
Read = Callable[..., pa.Table]

#: Columns every table read from a population has, besides those asked for.
ROW_COLUMNS: Mapping[str, pa.DataType] = {
    "_source": pa.string(),
    "id": pa.string(),
    "_member": pa.string(),
    "_bucket": pa.int32(),
    "_last_updated": pa.timestamp("us", tz="UTC"),
}


class Population(Protocol):
    """Anything that can be evaluated: batches of members, and the lake version they were read from."""

    @property
    def lake_version(self) -> int | None:
        """Version of the lake, None when the population does not come from a lake."""

    @property
    def copies(self) -> Copies:
        """Whether copies of one visit by several sources count once, or all of them."""

    def batches(self) -> Iterator[Batch]:
        """Batches of disjoint members; together they are the population."""


class ReadableLake(Protocol):
    """The part of the lake that evaluation needs."""

    @property
    def version(self) -> int:
        """Newest version."""

    def buckets_of(self, version: int | None) -> int:
        """Number of member buckets of a version (None: the newest)."""

    def members(self, bucket: int | None = None, version: int | None = None) -> pa.Array:
        """Sorted person ids."""

    def rows(self, version: int | None = None) -> int:
        """How many rows of patients there are."""

    def read(
        self,
        resource_type: str,
        columns: Sequence[str] | None = None,
        bucket: int | None = None,
        version: int | None = None,
        members: pa.Array | None = None,
        *,
        coded: Coded | None = None,
        sparse: bool = False,
    ) -> pa.Table:
        """Newest rows of a type; with ``members`` only theirs, and those that belong to no member.

        With ``coded`` rows without any of these codes may be left out. ``sparse`` leaves out columns and parts that
        nothing fills.
        """


#: Members of a batch at most. A batch of this size of the published measures' cases takes some hundred MB; a smaller
#: one spends its time on starting operators, a larger one is no faster.
BATCH_MEMBERS = 25_000
#: Rows of all types in a batch, about: members with hundreds of resources each are fewer to a batch.
BATCH_ROWS = 400_000


@dataclass(frozen=True, slots=True)
class Slice:
    """Members of a lake that are evaluated together: those of some buckets, or a part of one.

    ``whole`` says that ``members`` are everybody there, so that nothing has to be filtered.
    """

    buckets: tuple[int, ...]
    members: pa.Array
    whole: bool


class LakePopulation:
    """All members of a lake, or those of ``members``, in batches of at most ``batch_members``.

    Where members have many resources a batch has fewer, for about :data:`BATCH_ROWS` rows.

    A batch is as many buckets as fit, or a part of one that is larger. Resources that belong to no member
    (Practitioner, Medication ...) are read from all buckets, since any member may refer to them.
    """

    def __init__(
        self,
        lake: ReadableLake,
        *,
        version: int | None = None,
        members: Iterable[str] | None = None,
        batch_members: int = BATCH_MEMBERS,
        maps: CodeMap | None = None,
        copies: Copies = "once",
    ) -> None:
        """Pin ``version`` (default: the newest now), so that commits made meanwhile are not seen half.

        Codes that ``maps`` know are read with what they map to beside them. Of ``copies`` of one visit by several
        sources one is read (:mod:`fhir_gateway.measures.copies`), or ``all``.
        """
        self.copies: Copies = copies
        self._organizations: pa.Table | None = None
        self._maps = maps
        self._lake = lake
        self._version = lake.version if version is None else version
        self._wanted = None if members is None else pa.array(sorted(set(members)), pa.string())
        self._batch_members = batch_members

    @property
    def lake_version(self) -> int | None:
        """Version of the lake that is read."""
        return self._version

    def batches(self) -> Iterator[Batch]:
        """One batch for each slice."""
        return map(self.batch, self.slices())

    def slices(self) -> tuple[Slice, ...]:
        """The population cut into batches, in order of bucket and member: the order of results, however it is cut."""
        found: list[Slice] = []
        everybody = self._members()
        limit = self._batch_members
        if self._wanted is None and everybody:
            of_each = self._lake.rows(self._version) / sum(map(len, everybody.values()))
            limit = max(1, min(limit, int(BATCH_ROWS / max(of_each, 1))))
        fitting: dict[int, pa.Array] = {}
        for bucket, members in everybody.items():
            if sum(map(len, fitting.values())) + len(members) > limit:
                found += self._cut(fitting, limit)
                fitting = {}
            fitting[bucket] = members
        return (*found, *self._cut(fitting, limit))

    def _cut(self, there: Mapping[int, pa.Array], limit: int) -> Iterator[Slice]:
        """The members of these buckets as one slice, or parts of the same size of a bucket that is too large."""
        if not there:
            return
        members = pa.concat_arrays(list(there.values()))
        count = -(-len(members) // limit)
        for part in np.array_split(np.arange(len(members)), count):
            yield Slice(tuple(there), members.take(pa.array(part)), self._wanted is None and count == 1)

    def batch(self, cut: Slice) -> Batch:
        """The batch of a slice."""

        def read(resource_type: str, columns: Sequence[str], coded: Coded | None = None) -> pa.Table:
            if coded is not None and self._maps:
                coded = {path: self._maps.with_sources(codes) for path, codes in coded.items()}
            own = resource_type == "Patient" or spec.patient_element(resource_type) is not None
            tables = [
                self._lake.read(
                    resource_type,
                    columns,
                    bucket=bucket,
                    version=self._version,
                    members=None if cut.whole else cut.members,
                    coded=coded,
                    sparse=True,
                )
                for bucket in (cut.buckets if own else (None,))
            ]
            table = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")
            return self._maps.apply(table) if self._maps else table

        narrows = len(cut.members) > SMALL  # what few members have is not worth looking through first
        if self.copies == "all":
            return Batch(cut.members, read, narrows=narrows)
        return WithoutCopies(cut.members, EncounterCopies(read, self._directory), narrows=narrows)

    def _directory(self) -> pa.Table:
        """The organizations of the lake: what they are known by outside it."""
        if self._organizations is None:
            lake, version = self._lake, self._version
            nobody = MemoryPopulation([])
            self._organizations = providers(
                nobody.read("Practitioner", PRACTITIONER_COLUMNS),
                nobody.read("PractitionerRole", ROLE_COLUMNS),
                lake.read("Organization", ORGANIZATION_COLUMNS, version=version),
            )
        return self._organizations

    def _members(self) -> dict[int, pa.Array]:
        """Members by bucket; buckets without any are left out."""
        if self._wanted is None:
            found = (
                (b, self._lake.members(bucket=b, version=self._version))
                for b in range(self._lake.buckets_of(self._version))
            )
            return {bucket: members for bucket, members in found if len(members)}
        patients = self._lake.read("Patient", version=self._version, members=self._wanted)
        here = {}
        for bucket in sorted(pc.unique(patients["_bucket"]).to_pylist()):
            here[bucket] = pc.unique(patients.filter(pc.equal(patients["_bucket"], bucket))["_member"])
        return here


class MemoryPopulation:
    """FHIR resources held in memory, with the same columns as the lake gives.

    ``groups`` are (member, resources) pairs: every resource of a group belongs to that member, whatever it refers to;
    the member None holds resources that any member may refer to.
    """

    lake_version: int | None = None
    copies: Copies = "all"

    def __init__(
        self, groups: Iterable[tuple[str | None, Iterable[Resource]]], *, batch_size: int | None = None
    ) -> None:
        """Take over the resources; ``batch_size`` is the number of members per batch (default: all in one)."""
        rows: dict[str, list[tuple[str | None, str | None, bytes]]] = {}
        members: set[str] = set()
        for member, resources in groups:
            for resource in resources:
                rows.setdefault(resource["resourceType"], []).append(
                    (member, resource.get("id"), orjson.dumps(resource))
                )
                if member is not None and resource["resourceType"] == "Patient":
                    members.add(member)
        self._members = pa.array(sorted(members), pa.string())
        self._batch_size = batch_size or max(len(members), 1)
        self._tables = {resource_type: _raw_table(found) for resource_type, found in rows.items()}

    @classmethod
    def from_resources(cls, resources: Iterable[Resource], *, batch_size: int | None = None) -> MemoryPopulation:
        """Group resources by the Patient they refer to; the member is that Patient's id."""
        return cls(((member_of(resource), [resource]) for resource in resources), batch_size=batch_size)

    def batches(self) -> Iterator[Batch]:
        """Batches of at most ``batch_size`` members, in order of member id."""
        for start in range(0, len(self._members), self._batch_size):
            members = self._members.slice(start, self._batch_size)
            yield Batch(members, self._reader(members))

    def read(self, resource_type: str, columns: Sequence[str]) -> pa.Table:
        """All resources of a type, in order of member and id."""
        raw = self._tables.get(resource_type)
        return typed_columns(_raw_table([]) if raw is None else raw, resource_type, columns)

    def _reader(self, members: pa.Array) -> Read:
        def read(resource_type: str, columns: Sequence[str]) -> pa.Table:
            raw = self._tables.get(resource_type, _raw_table([]))
            here = pc.or_(pc.is_in(raw["_member"], value_set=members), pc.is_null(raw["_member"]))
            return typed_columns(raw.filter(here), resource_type, columns)

        return read


def member_of(resource: Resource) -> str | None:
    """Id of the Patient a resource belongs to, None when it belongs to nobody."""
    resource_type = resource["resourceType"]
    if resource_type == "Patient":
        return str(resource["id"])
    element = spec.patient_element(resource_type)
    reference = (resource.get(element) or {}).get("reference") if element else None
    if not reference:
        return None
    parts = str(reference).partition("/_history/")[0].split("/")
    return parts[-1] if len(parts) >= 2 and parts[-2] == "Patient" else None


def typed_columns(raw: pa.Table, resource_type: str, columns: Sequence[str]) -> pa.Table:
    """Add the typed columns of FHIR elements to a table that has the resources' JSON in ``_raw``.

    Layout and types are those of ``r4.spec.column_structure``, or the parts that paths name; ``_raw`` itself is kept
    only when asked for.
    """
    wanted = [name for name in dict.fromkeys(columns) if name not in ROW_COLUMNS and name != "_raw"]
    try:
        structure = spec.narrowed(spec.column_structure(resource_type), wanted)
    except KeyError as error:
        raise InputError(f"{resource_type} has no columns {error.args[0]}") from None
    table = raw.select([*ROW_COLUMNS, *(["_raw"] if "_raw" in columns else [])])
    if not wanted:
        return table
    typed = few.typed(raw["_raw"].to_pylist(), structure) if raw.num_rows <= few.FEW else None
    if typed is None:
        typed = _transformed(raw, structure)
    for name, inner in structure.items():
        table = table.append_column(name, pc.struct_field(typed, name).cast(spec.arrow_type(inner)))
    return table


def _transformed(raw: pa.Table, structure: Mapping[str, spec.Structure]) -> pa.Array:
    with duckdb.connect() as connection:
        connection.register("resources", raw.select(["_raw"]))
        shape = orjson.dumps(structure).decode()
        query = "SELECT json_transform(_raw, ?) AS typed FROM resources"
        typed = connection.sql(query, params=[shape]).to_arrow_table()["typed"].combine_chunks()
    if isinstance(typed, pa.ChunkedArray):
        typed = pa.concat_arrays(typed.chunks) if typed.num_chunks else pa.array([], typed.type)
    return typed


def _raw_table(rows: Iterable[tuple[str | None, str | None, bytes]]) -> pa.Table:
    """Rows in the order of the lake: by member, source and id; the last of a repeated id wins, as in a second pull."""
    newest = {(member or "", resource_id or ""): (member, resource_id, raw) for member, resource_id, raw in rows}
    ordered = [newest[key] for key in sorted(newest)]
    return pa.table(
        {
            "_source": pa.array(["memory"] * len(ordered), pa.string()),
            "id": pa.array([resource_id for _, resource_id, _ in ordered], pa.string()),
            "_member": pa.array([member for member, _, _ in ordered], pa.string()),
            "_bucket": pa.array([0] * len(ordered), pa.int32()),
            "_last_updated": pa.nulls(len(ordered), pa.timestamp("us", tz="UTC")),
            "_raw": pa.array([raw.decode() for _, _, raw in ordered], pa.string()),
        }
    )
