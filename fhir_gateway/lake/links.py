"""Which person each known patient of each source is, as the lake last placed them.

The lake keeps its own copy of the answers of the :class:`~fhir_gateway.lake.persons.PersonAssigner`, to see at the next
commit who has become another person and must move.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.errors import GatewayError
from fhir_gateway.lake.persons import PersonAssigner, PersonHistory
from fhir_gateway.lake.places import Place, opened

SCHEMA = pa.schema(
    [("_source", pa.string()), ("_patient", pa.string()), ("_member", pa.string()), ("_bucket", pa.int32())]
)


def bucket_of(member: str, buckets: int) -> int:
    """Bucket of a person: stable over machines, versions and time."""
    return int.from_bytes(hashlib.blake2b(member.encode(), digest_size=8).digest(), "big") % buckets


@dataclass(frozen=True, slots=True)
class Links:
    """All links after asking the assigner: rows of ``SCHEMA``, and the pairs of source and patient that moved.

    ``mark`` is what the assigner is asked by the next time.
    """

    table: pa.Table
    moved: pa.Table
    mark: str | None = None

    @property
    def changed(self) -> bool:
        """Whether anyone moved."""
        return bool(self.moved.num_rows)


def read_links(path: Place | None) -> pa.Table:
    """Links of a lake version; none without a file."""
    return pq.read_table(opened(path), schema=SCHEMA) if path else SCHEMA.empty_table()


#: Patients that an assigner is asked for at a time: what it makes of them in between is memory too.
ASKED = 1 << 14


def _persons(answer: pa.Array, asked: int) -> pa.Array:
    if len(answer) != asked or answer.null_count:
        raise GatewayError("the person assigner must give one person for every patient")
    return answer.cast(pa.string())


def _looked_up(persons: PersonAssigner, source: str, ids: pa.Array) -> pa.Array:
    """The persons of patients of a source."""
    parts = [ids.slice(first, ASKED) for first in range(0, len(ids), ASKED)]
    return pa.concat_arrays([_persons(persons.lookup(source, part), len(part)) for part in parts])


def _hashed(members: pa.Array, buckets: int) -> pa.Array:
    """The buckets of members."""
    parts = (members.slice(first, ASKED).to_pylist() for first in range(0, len(members), ASKED))
    found = [pa.array([bucket_of(member, buckets) for member in part], pa.int32()) for part in parts]
    return pa.concat_arrays([pa.array([], pa.int32()), *found])


def _buckets(members: pa.ChunkedArray, known: pa.Table, buckets: int) -> pa.ChunkedArray:
    """The bucket of each member; hashed are those who are new, a few microseconds each."""
    places = known["_bucket"].take(pc.index_in(members, known["_member"].combine_chunks()))
    new = pc.unique(members.filter(pc.is_null(places)))
    return pc.coalesce(places, _hashed(new, buckets).take(pc.index_in(members, new)))


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
    is different the table is ``known`` itself.
    """
    now = None
    if isinstance(persons, PersonHistory):
        now, placed = persons.placed_since(mark)
        if placed is not None:
            return _followed(known, source, patients, placed, persons, buckets, now)
    parts = []
    for name in sorted({source, *known["_source"].unique().to_pylist()}):
        ids = known.filter(pc.field("_source") == name)["_patient"].combine_chunks()
        if name == source:
            ids = pc.unique(pa.concat_arrays([ids, patients.cast(pa.string())])).drop_null()
        ids = ids.take(pc.sort_indices(ids))
        if not len(ids):
            continue
        members = _looked_up(persons, name, ids)
        if name == source and assigned.num_rows:
            at = pc.index_in(ids, assigned["_patient"])
            members = pc.coalesce(assigned["_member"].combine_chunks().take(at), members)
        parts.append(pa.table({"_source": pa.repeat(name, len(ids)), "_patient": ids, "_member": members}))
    if not parts:
        return Links(SCHEMA.empty_table(), SCHEMA.empty_table(), now)
    table = pa.concat_tables(parts)
    table = table.append_column("_bucket", _buckets(table["_member"], known, buckets)).cast(SCHEMA)
    before = known.select(["_source", "_patient", "_member"]).rename_columns(["_source", "_patient", "_before"])
    joined = table.join(before, ["_source", "_patient"], join_type="inner")
    moved = joined.filter(pc.field("_member") != pc.field("_before"))
    return Links(table, moved.select(["_source", "_patient"]), now)


def _followed(
    known: pa.Table,
    source: str,
    patients: pa.Array,
    placed: pa.Table,
    persons: PersonAssigner,
    buckets: int,
    mark: str,
) -> Links:
    """The known links with those of ``placed`` who are somebody else now, and with the patients not known so far."""
    keys = ["_source", "_patient"]
    joined = known.join(placed.rename_columns([*keys, "_now"]), keys, join_type="inner")
    moved = joined.filter(pc.field("_now") != pc.field("_member")).select([*keys, "_now"])
    table = known
    if moved.num_rows:
        members = moved["_now"].combine_chunks()
        table = pa.concat_tables(
            [
                known.join(moved, keys, join_type="left anti").select(SCHEMA.names),
                _linked(moved["_source"], moved["_patient"], members, buckets),
            ]
        )
    here = known.filter(pc.field("_source") == source)["_patient"]
    fresh = patients.cast(pa.string()).drop_null().unique()
    fresh = fresh.filter(pc.invert(pc.is_in(fresh, value_set=here.filter(pc.is_in(here, value_set=fresh)))))
    if len(fresh):
        members = _looked_up(persons, source, fresh)
        table = pa.concat_tables([table, _linked(pa.repeat(source, len(fresh)), fresh, members, buckets)])
    return Links(table, moved.select(keys), mark)


def _linked(sources: pa.Array, patients: pa.Array, members: pa.Array, buckets: int) -> pa.Table:
    return pa.table([sources, patients, members, _hashed(members, buckets)], schema=SCHEMA)
