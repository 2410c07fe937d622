"""Which person each known patient of each source is, as the lake last placed them.

The lake keeps its own copy of the answers of the :class:`~fhir_gateway.lake.persons.PersonAssigner`, to see at the next
commit who has become another person and must move.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.errors import GatewayError
from fhir_gateway.lake.buckets import bucket_of
from fhir_gateway.lake.index import Index
from fhir_gateway.lake.persons import PersonAssigner, PersonHistory
from fhir_gateway.lake.places import Place, opened

SCHEMA = pa.schema(
    [("_source", pa.string()), ("_patient", pa.string()), ("_member", pa.string()), ("_bucket", pa.int32())]
)
_MOVED = pa.schema([SCHEMA.field("_source"), SCHEMA.field("_patient")])


@dataclass(frozen=True, slots=True)
class Links:
    """All links after asking the assigner: rows of ``SCHEMA``, and the pairs of source and patient that moved.

    ``mark`` is what the assigner is asked by the next time.
    """

    table: pa.Table
    moved: pa.Table
    mark: str | None = None


def read_links(path: Place | None) -> pa.Table:
    """Links of a lake version; none without a file."""
    return pq.read_table(opened(path), schema=SCHEMA) if path else SCHEMA.empty_table()


#: Patients that an assigner is asked for at a time: what it makes of them in between is memory too.
ASKED = 1 << 14


def _looked_up(persons: PersonAssigner, source: str, ids: pa.Array) -> pa.Array:
    answer = persons.lookup(source, ids)
    if len(answer) != len(ids) or answer.null_count:
        raise GatewayError("the person assigner must give one person for every patient")
    return answer.cast(pa.string())


def update_links(
    known: pa.Table,
    source: str,
    patients: pa.Array,
    assigned: pa.Table,
    persons: PersonAssigner,
    buckets: int,
    mark: str | None = None,
) -> Links:
    """Ask for all ``patients`` (ids of ``source``) and all known ones; ``assigned`` are answers already given.

    Where the assigner can say whom it placed since ``mark``, of the known ones only they are looked at; when nothing
    is different the table is ``known`` itself. Those of ``patients`` that are not known come after those that are.
    """
    now, placed = persons.placed_since(mark) if isinstance(persons, PersonHistory) else (None, None)
    followed = placed is not None
    if placed is None:
        placed = assigned.append_column("_source", pa.repeat(source, assigned.num_rows))
    told = _Told(placed)
    patients = patients.cast(pa.string()).drop_null().unique()
    here, seen = Index(patients), np.zeros(len(patients), np.bool_)
    parts, moved = [], []
    for batch in known.to_batches(max_chunksize=ASKED):
        for name, rows in by_source(batch):
            if name == source:
                places = here.places(rows["_patient"])
                seen[places[places >= 0]] = True
            members = told.of(name, rows["_patient"])
            if members.null_count:
                others = rows["_member"] if followed else _looked_up(persons, name, rows["_patient"])
                members = pc.coalesce(members, others)
            other = pc.not_equal(members, rows["_member"])
            if pc.any(other, min_count=0).as_py():
                gone = rows.filter(other)
                parts.append(_linked(gone["_source"], gone["_patient"], members.filter(other), buckets))
                moved.append(gone.select(_MOVED.names))
                rows = rows.filter(pc.invert(other))
            parts.append(rows)
    table = pa.Table.from_batches(parts, SCHEMA) if moved else known
    fresh = patients.filter(pa.array(~seen))
    new = []
    for ids in (fresh.slice(at, ASKED) for at in range(0, len(fresh), ASKED)):
        members = told.of(source, ids)
        if members.null_count:
            members = pc.coalesce(members, _looked_up(persons, source, ids))
        new.append(_linked(pa.repeat(source, len(ids)), ids, members, buckets))
    if new:
        table = pa.concat_tables([table, pa.Table.from_batches(new)])
    return Links(table, pa.Table.from_batches(moved, _MOVED), now)


def by_source(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of each source, with its name."""
    names = batch["_source"].unique().to_pylist()
    for name in names:
        yield name, batch if len(names) == 1 else batch.filter(pc.equal(batch["_source"], name))


class _Told:
    """Who patients are as the assigner said of itself: rows of ``_source``, ``_patient``, ``_member``."""

    def __init__(self, rows: pa.Table) -> None:
        self._found: dict[str, tuple[Index, pa.Array]] = {}
        for name in rows["_source"].unique().to_pylist():
            own = rows.filter(pc.equal(rows["_source"], name))
            patients, members = (own[column].combine_chunks() for column in ("_patient", "_member"))
            self._found[name] = Index(patients), members.cast(pa.string())

    def of(self, source: str, patients: pa.Array) -> pa.Array:
        """The members of patients of a source; null of whom nothing was said."""
        if source not in self._found:
            return pa.nulls(len(patients), pa.string())
        index, members = self._found[source]
        places = index.places(patients)
        return members.take(pa.array(places, mask=places < 0))


def _linked(sources: pa.Array, patients: pa.Array, members: pa.Array, buckets: int) -> pa.RecordBatch:
    hashed = [bucket_of(member, buckets) for member in members.to_pylist()]
    return pa.record_batch([sources, patients, members, pa.array(hashed, pa.int32())], schema=SCHEMA)
