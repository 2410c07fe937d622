"""The order of a table's first rows, found in memory: by bucket, member, source and id, as readers want them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.lake.staging import StagedRows, id_words
from fhir_gateway.lake.tables import NO_BUCKET

_PART_ROWS = 1 << 17


@dataclass(frozen=True, slots=True)
class Seats:
    """The patients of a source: the person and bucket of each, and ``rank``, the person's place in the order."""

    source: str
    patients: pa.Array
    members: pa.Array
    buckets: pa.Array
    rank: np.ndarray


def seats(links: pa.Table, source: str) -> Seats:
    """What ``links`` say of a source's patients."""
    own = links.filter(pc.field("_source") == source).combine_chunks()
    own = own.take(pc.sort_indices(own, [("_bucket", "ascending"), ("_member", "ascending")]))
    patients, members, buckets = (own[name].combine_chunks() for name in ("_patient", "_member", "_bucket"))
    codes = members.dictionary_encode().indices.to_numpy()
    rank = np.cumsum(np.diff(codes, prepend=codes[:1]) != 0)
    return Seats(source, patients, members, buckets, rank)


def first_rows(staged: StagedRows, seated: Seats) -> Iterator[pa.Table]:
    """All staged rows in their order, a part after the other, with ``_source``, ``_member`` and ``_bucket``."""
    rows = pa.Table.from_batches(staged.batches()).combine_chunks()
    found = pc.index_in(rows["_patient"], seated.patients).combine_chunks()
    place = found.fill_null(-1).to_numpy()
    # who belongs to nobody comes first: the bucket of nobody is below all others
    rank = np.where(place < 0, -1, seated.rank[place]) if len(seated.rank) else np.full(len(place), -1)
    order = in_order(rank, rows["id"].combine_chunks())
    for at in range(0, len(order), _PART_ROWS):
        part = pa.array(order[at : at + _PART_ROWS])
        seat = found.take(part)
        buckets = seated.buckets.take(seat).fill_null(NO_BUCKET)
        yield (
            rows.take(part)
            .append_column("_source", pa.repeat(seated.source, len(part)))
            .append_column("_member", seated.members.take(seat))
            .append_column("_bucket", buckets)
        )


def in_order(rank: np.ndarray, ids: pa.StringArray) -> np.ndarray:
    """Row numbers by rank and, byte by byte, id."""
    first, second, _ = id_words(ids)
    bits = int(rank.max(initial=0) + 1).bit_length()
    # in one number the rank and the beginning of the id, which tells nearly all apart
    key = (rank + 1).astype(np.uint64) << np.uint64(64 - bits) | first >> np.uint64(bits)
    order: np.ndarray = np.argsort(key)
    if _repeated(key[order]):
        order = np.lexsort((second, first, rank))
        if _repeated(*(key[order] for key in (rank, first, second))):
            table = pa.table({"rank": rank, "id": ids})
            order = pc.sort_indices(table, [("rank", "ascending"), ("id", "ascending")]).to_numpy()
    return order


def _repeated(*keys: np.ndarray) -> bool:
    return bool(np.logical_and.reduce([key[1:] == key[:-1] for key in keys]).any())
