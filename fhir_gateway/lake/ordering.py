"""The order of a table's first rows: by bucket, member, source and id, as readers want them.

Rows that are too many for memory go through the disk: those between two rows of a sample go into a file, and each of
these files is put in order by itself. So memory does not grow with the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.lake import parting
from fhir_gateway.lake.index import Index
from fhir_gateway.lake.links import ASKED, by_source
from fhir_gateway.lake.staging import gathered, id_words
from fhir_gateway.lake.tables import NO_BUCKET

#: Files that rows are parted into; a file that holds too many yet is parted again.
_FEWEST_PARTS = 8
_MOST_PARTS = 64
#: Rows of the sample, for each file.
_SAMPLED = 64
_END = np.iinfo(np.uint64).max

_Key = npt.NDArray[np.uint64]
#: Gives the same rows as often as it is asked, with their ``rank`` and ``id``.
_Rows = Callable[[], Iterable[pa.Table]]


@dataclass(frozen=True, slots=True)
class Seats:
    """Patients by bucket, person and source, and ``rank``, the place of a person's source in this order.

    All patients of ``source`` have a seat, of other sources those whose rows a commit writes as well.
    """

    source: str
    members: pa.Array
    buckets: pa.Array
    rank: npt.NDArray[np.int32]
    places: Mapping[str, Index]

    def of(self, patients: pa.ChunkedArray, sources: pa.ChunkedArray | None = None) -> npt.NDArray[np.int32]:
        """The seats of patients (each has one, or is null: -1), who are of ``source`` where nothing else is said."""
        ids = patients.combine_chunks()
        if sources is None:
            return self.places[self.source].places(ids)
        found = np.full(len(ids), -1, np.int32)
        for source in sources.unique().to_pylist():
            own = pc.equal(sources, source).to_numpy()
            found[own] = self.places[source].places(ids.filter(pa.array(own)))
        return found


def seats(links: pa.Table, source: str, moved: pa.Table | None = None) -> Seats:
    """What ``links`` say of a source's patients, and of others who ``moved`` (pairs ``_source``, ``_patient``)."""
    own: dict[str, list[pa.RecordBatch]] = {source: []}
    others = {}
    if moved is not None:
        for name in set(moved["_source"].unique().to_pylist()) - {source}:
            others[name] = Index(moved.filter(pc.equal(moved["_source"], name))["_patient"].combine_chunks())
    for batch in links.to_batches(max_chunksize=ASKED):
        for name, rows in by_source(batch):
            if name in others:
                rows = rows.filter(pa.array(others[name].places(rows["_patient"]) >= 0))
            if name == source or name in others:
                own.setdefault(name, []).append(rows)
    names = sorted(own)
    table = pa.Table.from_batches([batch for name in names for batch in own[name]], links.schema)
    members, buckets = (table[name].combine_chunks() for name in ("_member", "_bucket"))
    order = in_order(buckets.to_numpy(), members)  # keeps the order of what is alike: by source
    sizes = [sum(batch.num_rows for batch in own[name]) for name in names]
    sources = np.repeat(np.arange(len(names), dtype=np.int32), sizes)[order]
    seat = np.empty(len(order), np.int32)
    seat[order] = np.arange(len(order), dtype=np.int32)
    places, start = {}, 0
    for name, size in zip(names, sizes, strict=True):
        patients = table["_patient"].slice(start, size).combine_chunks()
        places[name] = Index(patients, seat[start : start + size], sure=True)
        start += size
    members, buckets = members.take(pa.array(order)), buckets.take(pa.array(order))
    first = np.zeros(len(order), np.bool_)  # of a person, and of a source of theirs
    first[1:] = pc.not_equal(members[1:], members[:-1]).to_numpy(zero_copy_only=False)
    first[1:] |= sources[1:] != sources[:-1]
    return Seats(source, members, buckets, np.cumsum(first, dtype=np.int32), places)


def placed(
    batches: Callable[[], Iterable[pa.RecordBatch]], count: int, seated: Seats, scratch: Path
) -> Iterator[pa.Table]:
    """So many rows in their order, a part after the other, with ``_source``, ``_member`` and ``_bucket``.

    Rows that do not say their ``_source`` are of that of the seats. ``batches`` are asked for more than once.
    """

    def rows() -> Iterator[pa.Table]:
        for found in gathered(batches()):
            seat = seated.of(found["_patient"], found["_source"] if "_source" in found.column_names else None)
            # who belongs to nobody comes first: the bucket of nobody is below all others
            rank = np.where(seat < 0, -1, seated.rank[seat]) if len(seated.rank) else seat
            yield found.append_column("rank", pa.array(rank)).append_column("seat", pa.array(seat))

    for found in ordered(rows, count, scratch):
        place = found["seat"].to_numpy()
        seat = pa.array(place, mask=place < 0)
        if "_source" not in found.column_names:
            found = found.append_column("_source", pa.repeat(seated.source, found.num_rows))
        yield found.append_column("_member", seated.members.take(seat)).append_column(
            "_bucket", seated.buckets.take(seat).fill_null(NO_BUCKET)
        )


def ordered(rows: _Rows, count: int, scratch: Path) -> Iterator[pa.Table]:
    """So many rows by their ``rank`` (from -1 on) and, byte by byte, ``id``, of which only a part is in memory.

    All tables but the last are of the same size. ``scratch`` is a folder to make for the others.
    """
    waiting: list[pa.Table] = []
    size = 0
    for part in _in_parts(rows, count, scratch, 0):
        waiting.append(part)
        size += part.num_rows
        while size >= parting.PART_ROWS:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, parting.PART_ROWS)
            size -= parting.PART_ROWS
            waiting = [whole.slice(parting.PART_ROWS)]
            del whole
    if size:
        yield pa.concat_tables(waiting)


def _in_parts(rows: _Rows, count: int, scratch: Path, depth: int) -> Iterator[pa.Table]:
    """The rows in their order; they are told apart by the key of ``depth``, and alike in those before it."""
    if count <= parting.PART_ROWS or depth == len(_KEYS):
        whole = pa.concat_tables(rows())
        if whole.num_rows:
            ids = whole["id"].combine_chunks()
            yield whole.take(pa.array(in_order(whole["rank"].to_numpy(), ids)))
        return
    splits = _splits(rows(), count, depth)

    def between(rows: pa.Table) -> npt.NDArray[np.int64]:
        return np.searchsorted(splits, _KEYS[depth](rows), "right")

    for part in parting.parted(rows(), len(splits) + 1, between, scratch):
        deeper = depth + (part.size == count)  # the splits part any two keys: all rows have the same
        yield from _in_parts(part.read, part.size, part.path.with_suffix(""), deeper)
        part.path.unlink()
    scratch.rmdir()


def _splits(rows: Iterable[pa.Table], count: int, depth: int) -> _Key:
    """Keys that part the rows into files of about the same size, of any two keys that are there at least one pair."""
    parts = min(max(count // (parting.PART_ROWS // 2), _FEWEST_PARTS), _MOST_PARTS)
    step = max(count // (parts * _SAMPLED), 1)
    sample, at = [], 0
    for found in rows:
        chosen = pa.array(np.arange(-at % step, found.num_rows, step))
        sample.append(_KEYS[depth](found.select(["rank", "id"]).take(chosen)))
        at += found.num_rows
    keys = np.sort(np.concatenate(sample))
    splits, times = np.unique(keys[np.arange(1, parts) * len(keys) // parts], return_counts=True)
    often = splits[times > 1]  # one key of many rows has a file of its own
    return np.unique(np.concatenate([splits, often[often < _END] + np.uint64(1)]))


def in_order(rank: np.ndarray, ids: pa.StringArray) -> np.ndarray:
    """Row numbers by rank and, byte by byte, id."""
    first, second, _ = id_words(ids)
    key = _key(rank, first)
    order: np.ndarray = np.argsort(key)
    if _repeated(key[order]):
        order = np.lexsort((second, first, rank))
        if _repeated(*(key[order] for key in (rank, first, second))):
            table = pa.table({"rank": rank, "id": ids})
            order = pc.sort_indices(table, [("rank", "ascending"), ("id", "ascending")]).to_numpy()
    return order


def _key(rank: np.ndarray, first: np.ndarray) -> _Key:
    """In one number the rank and the beginning of the id, which tells nearly all apart."""
    bits = int(rank.max(initial=0) + 1).bit_length()
    key: _Key = (rank + 1).astype(np.uint64) << np.uint64(64 - bits) | first >> np.uint64(bits)
    return key


def _rank_key(rows: pa.Table) -> _Key:
    """The rank, and what of the id has place beside it."""
    ids = rows["id"].combine_chunks()
    rank = (rows["rank"].to_numpy() + 1).astype(np.uint64)
    key: _Key = rank << np.uint64(32) | id_words(ids)[0] >> np.uint64(32)
    return key


def _id_key(number: int) -> Callable[[pa.Table], _Key]:
    def key(rows: pa.Table) -> _Key:
        words: _Key = id_words(rows["id"].combine_chunks())[number]
        return words

    return key


#: What rows are told apart by, the next one where all are alike in those before.
_KEYS: list[Callable[[pa.Table], _Key]] = [_rank_key, _id_key(0), _id_key(1)]


def _repeated(*keys: np.ndarray) -> bool:
    return bool(np.logical_and.reduce([key[1:] == key[:-1] for key in keys]).any())
