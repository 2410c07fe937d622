"""Rows parted into files, of which one after the other is worked on: memory does not grow with the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fhir_gateway.lake.staging import gathered, id_words

#: Rows that are in memory at a time.
PART_ROWS = 1 << 15
#: Bits of an id's hash that tell its part: so many files are open at a time, and a larger part is parted again.
_BITS = 6
#: As often as rows are parted again at most: of ids with one hash there is one part, whatever their number.
_DEEPEST = 64 // _BITS


class Part(NamedTuple):
    """A file of rows: its number among all, and how many rows (``size``) it has."""

    number: int
    path: Path
    size: int

    def read(self) -> Iterator[pa.Table]:
        """The rows, some at a time."""
        with pa.OSFile(str(self.path)) as file:  # not mapped into memory: its pages would count as ours
            batches = pa.ipc.open_file(file)
            yield from gathered(batches.get_batch(number) for number in range(batches.num_record_batches))

    def whole(self) -> pa.Table:
        """All rows."""
        return pa.concat_tables(self.read())


def parted(
    rows: Iterable[pa.Table], parts: int, part: Callable[[pa.Table], npt.NDArray[np.int64]], scratch: Path
) -> list[Part]:
    """Files, in the folder ``scratch`` to be made, of the rows of each part that has any, in the order of the rows."""
    scratch.mkdir(parents=True)
    writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
    held = np.zeros(parts, np.int64)
    for found in rows:
        number = part(found)
        counts = np.bincount(number, minlength=parts)
        held += counts
        found = found.take(pa.array(np.argsort(number, kind="stable"))).combine_chunks()
        for at, (start, end) in enumerate(pairwise([0, *np.cumsum(counts).tolist()])):
            if start < end:
                if at not in writers:
                    writers[at] = pa.ipc.new_file(str(scratch / f"{at}.arrow"), found.schema)
                writers[at].write_table(found.slice(start, end - start))
    for writer in writers.values():
        writer.close()
    return [Part(at, scratch / f"{at}.arrow", int(held[at])) for at in sorted(writers)]


#: Gives the same rows as often as it is asked.
Rows = Callable[[], Iterable[pa.Table]]


def matched(
    one: Rows, other: Rows, count: int, scratch: Path, depth: int = 0
) -> Iterator[tuple[pa.Table, pa.Table | None]]:
    """Rows of ``one`` kind and all those of the ``other`` that have one of their ids, as many as fit into memory.

    ``count`` is of which there are more. ``scratch`` is a folder to make where they are many; the others of a part may
    have other ids too, and there may be none.
    """
    if count <= PART_ROWS or depth == _DEEPEST:
        ours, theirs = list(one()), list(other())
        if ours:
            yield pa.concat_tables(ours), pa.concat_tables(theirs) if theirs else None
        return
    bits = min(((count - 1) // PART_ROWS).bit_length(), _BITS)

    def part(rows: pa.Table) -> npt.NDArray[np.int64]:
        hashed = id_words(rows["id"].combine_chunks())[2] >> np.uint64(_BITS * depth)
        return (hashed & np.uint64((1 << bits) - 1)).astype(np.int64)

    ones = parted(one(), 1 << bits, part, scratch / "one")
    others = {found.number: found for found in parted(other(), 1 << bits, part, scratch / "other")}
    for mine in ones:
        there = others.pop(mine.number, None)
        size = max(mine.size, there.size if there else 0)
        yield from matched(mine.read, there.read if there else tuple, size, scratch / str(mine.number), depth + 1)
        for done in (mine, there):
            if done is not None:
                done.path.unlink()
    for unasked in others.values():
        unasked.path.unlink()
