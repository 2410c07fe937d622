"""The order of a table's first rows: by bucket, member, source and id, as readers want them.

It is found by a few numbers a row, in memory; the rows themselves go through the disk when they are many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.lake.staging import StagedRows, gathered, id_words
from fhir_gateway.lake.tables import NO_BUCKET

#: Rows that are in memory at a time; but of very many rows, a part of so many parts (each is an open file).
_PART_ROWS = 1 << 15
_MOST_PARTS = 64


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


def first_rows(staged: StagedRows, seated: Seats, scratch: Path) -> Iterator[pa.Table]:
    """All staged rows in their order, a part after the other, with ``_source``, ``_member`` and ``_bucket``."""
    ranks = np.empty(staged.count, np.int32)
    ranks[_order(staged, seated)] = np.arange(staged.count, dtype=np.int32)
    for rows in parted(_numbered(staged, ranks), staged.count, scratch):
        seat = pc.index_in(rows["_patient"], seated.patients).combine_chunks()
        yield (
            rows.append_column("_source", pa.repeat(seated.source, rows.num_rows))
            .append_column("_member", seated.members.take(seat))
            .append_column("_bucket", seated.buckets.take(seat).fill_null(NO_BUCKET))
        )


def _order(staged: StagedRows, seated: Seats) -> np.ndarray:
    """Numbers of the staged rows in their order."""
    ranks, firsts = [], []
    for rows in gathered(staged.batches()):
        place = pc.index_in(rows["_patient"], seated.patients).fill_null(-1).to_numpy()
        # who belongs to nobody comes first: the bucket of nobody is below all others
        ranks.append(np.where(place < 0, -1, seated.rank[place]) if len(seated.rank) else np.full(len(place), -1))
        firsts += [id_words(ids)[0] for ids in rows["id"].chunks]
    rank = np.concatenate(ranks)
    key = _key(rank, np.concatenate(firsts))
    order = np.argsort(key)
    if _repeated(key[order]):
        return in_order(rank, pa.chunked_array([batch["id"] for batch in staged.batches()]).combine_chunks())
    return order


def _numbered(staged: StagedRows, ranks: np.ndarray) -> Iterator[pa.Table]:
    """The staged rows with their ``rank``."""
    at = 0
    for rows in gathered(staged.batches()):
        yield rows.append_column("rank", pa.array(ranks[at : at + rows.num_rows]))
        at += rows.num_rows


def parted(rows: Iterable[pa.Table], count: int, scratch: Path) -> Iterator[pa.Table]:
    """So many rows by their ``rank``, from 0 on, a part after the other; only a part of them is in memory.

    ``scratch`` is a folder to make for the others.
    """
    if count <= _PART_ROWS:
        whole = pa.concat_tables(rows)
        yield whole.take(pa.array(np.argsort(whole["rank"].to_numpy())))
        return
    size = max(_PART_ROWS, count // _MOST_PARTS + 1)
    scratch.mkdir()
    writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
    for found in rows:
        ranks = found["rank"].to_numpy()
        order = np.argsort(ranks)
        bounds = np.searchsorted(ranks[order], np.arange(0, count + size, size))
        for part, (start, end) in enumerate(pairwise(bounds.tolist())):
            if start == end:
                continue
            if part not in writers:
                writers[part] = pa.ipc.new_file(str(scratch / f"{part}.arrow"), found.schema)
            writers[part].write_table(found.take(pa.array(order[start:end])).combine_chunks())
    for part, writer in sorted(writers.items()):
        writer.close()
        path = scratch / f"{part}.arrow"
        with pa.OSFile(str(path)) as file:
            whole = pa.ipc.open_file(file).read_all()
        path.unlink()
        yield whole.take(pa.array(np.argsort(whole["rank"].to_numpy())))


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


def _key(rank: np.ndarray, first: np.ndarray) -> np.ndarray:
    """In one number the rank and the beginning of the id, which tells nearly all apart."""
    bits = int(rank.max(initial=0) + 1).bit_length()
    key: np.ndarray = (rank + 1).astype(np.uint64) << np.uint64(64 - bits) | first >> np.uint64(bits)
    return key


def _repeated(*keys: np.ndarray) -> bool:
    return bool(np.logical_and.reduce([key[1:] == key[:-1] for key in keys]).any())
