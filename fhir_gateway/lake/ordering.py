"""The order of a table's first rows: by bucket, member, source and id, as readers want them.

Rows that are too many for memory go through the disk: those between two rows of a sample go into a file, and each of
these files is put in order by itself. So memory does not grow with the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.lake.staging import StagedRows, gathered, id_words
from fhir_gateway.lake.tables import NO_BUCKET

#: Rows that are in memory at a time.
_PART_ROWS = 1 << 15
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
    """The patients of a source by bucket and person, and ``rank``, the person's place in this order.

    ``place`` are places of patients in it by the hash of their ids, which ``hashed`` has sorted.
    """

    source: str
    members: pa.Array
    buckets: pa.Array
    rank: npt.NDArray[np.int32]
    hashed: npt.NDArray[np.uint64]
    place: npt.NDArray[np.int32]
    alike: pa.Array | None
    """The patients' ids, when two of them have the same hash."""

    def of(self, patients: pa.ChunkedArray) -> npt.NDArray[np.int32]:
        """The places of patients (each is here, or null: -1)."""
        ids = patients.combine_chunks()
        if self.alike is not None:
            return np.asarray(pc.index_in(ids, self.alike).fill_null(-1))
        if not len(self.place):
            return np.full(len(ids), -1, np.int32)
        hashed = id_words(ids)[2]
        found = self.place[np.minimum(np.searchsorted(self.hashed, hashed), len(self.place) - 1)]
        found[pc.is_null(ids).to_numpy(zero_copy_only=False)] = -1
        return found


def seats(links: pa.Table, source: str) -> Seats:
    """What ``links`` say of a source's patients."""
    own = links.filter(pc.field("_source") == source)
    own = own.take(pc.sort_indices(own, [("_bucket", "ascending"), ("_member", "ascending")]))
    patients, members, buckets = (own[name].combine_chunks() for name in ("_patient", "_member", "_bucket"))
    codes = members.dictionary_encode().indices.to_numpy()
    rank = np.cumsum(np.diff(codes, prepend=codes[:1]) != 0, dtype=np.int32)
    hashed = id_words(patients)[2]
    place = np.argsort(hashed).astype(np.int32)
    hashed = hashed[place]
    alike = patients if _repeated(hashed) else None
    return Seats(source, members, buckets, rank, hashed, place, alike)


def first_rows(staged: StagedRows, seated: Seats, scratch: Path) -> Iterator[pa.Table]:
    """All staged rows in their order, a part after the other, with ``_source``, ``_member`` and ``_bucket``."""

    def rows() -> Iterator[pa.Table]:
        for found in gathered(staged.batches()):
            place = seated.of(found["_patient"])
            # who belongs to nobody comes first: the bucket of nobody is below all others
            rank = np.where(place < 0, -1, seated.rank[place]) if len(seated.rank) else place
            yield found.append_column("rank", pa.array(rank)).append_column("place", pa.array(place))

    for found in ordered(rows, staged.count, scratch):
        place = found["place"].to_numpy()
        seat = pa.array(place, mask=place < 0)
        yield (
            found.append_column("_source", pa.repeat(seated.source, found.num_rows))
            .append_column("_member", seated.members.take(seat))
            .append_column("_bucket", seated.buckets.take(seat).fill_null(NO_BUCKET))
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
        while size >= _PART_ROWS:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, _PART_ROWS)
            size -= _PART_ROWS
            waiting = [whole.slice(_PART_ROWS)]
            del whole
    if size:
        yield pa.concat_tables(waiting)


def _in_parts(rows: _Rows, count: int, scratch: Path, depth: int) -> Iterator[pa.Table]:
    """The rows in their order; they are told apart by the key of ``depth``, and alike in those before it."""
    if count <= _PART_ROWS or depth == len(_KEYS):
        whole = pa.concat_tables(rows())
        if whole.num_rows:
            ids = whole["id"].combine_chunks()
            yield whole.take(pa.array(in_order(whole["rank"].to_numpy(), ids)))
        return
    splits = _splits(rows(), count, depth)
    scratch.mkdir(parents=True)
    for path, held in _parted(rows(), splits, scratch, depth):
        deeper = depth + (held == count)  # the splits part any two keys: all rows have the same
        yield from _in_parts(partial(_read, path), held, path.with_suffix(""), deeper)
        path.unlink()
    scratch.rmdir()


def _splits(rows: Iterable[pa.Table], count: int, depth: int) -> _Key:
    """Keys that part the rows into files of about the same size, of any two keys that are there at least one pair."""
    parts = min(max(count // (_PART_ROWS // 2), _FEWEST_PARTS), _MOST_PARTS)
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


def _parted(rows: Iterable[pa.Table], splits: _Key, scratch: Path, depth: int) -> list[tuple[Path, int]]:
    """Files of the rows between splits, in their order, and how many rows each holds."""
    writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
    held = np.zeros(len(splits) + 1, np.int64)
    for found in rows:
        part = np.searchsorted(splits, _KEYS[depth](found), "right")
        order = np.argsort(part, kind="stable")
        counts = np.bincount(part, minlength=len(held))
        held += counts
        found = found.take(pa.array(order)).combine_chunks()
        for number, (start, end) in enumerate(pairwise([0, *np.cumsum(counts).tolist()])):
            if start < end:
                if number not in writers:
                    writers[number] = pa.ipc.new_file(str(scratch / f"{number}.arrow"), found.schema)
                writers[number].write_table(found.slice(start, end - start))
    for writer in writers.values():
        writer.close()
    return [(scratch / f"{number}.arrow", int(held[number])) for number in sorted(writers)]


def _read(path: Path) -> Iterator[pa.Table]:
    with pa.OSFile(str(path)) as file:  # not mapped into memory: its pages would count as ours
        batches = pa.ipc.open_file(file)
        yield from gathered(batches.get_batch(number) for number in range(batches.num_record_batches))


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
