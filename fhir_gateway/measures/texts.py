"""JSON put together in columns: a string for each row, made of pieces that are the same for all rows or a column."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

_UNSAFE = r'["\\\x00-\x1f]'


def text(value: Any) -> str:
    """JSON as reports have it."""
    return orjson.dumps(value).decode()


def joined(member: npt.NDArray[Any], texts: pa.Array, size: int) -> pa.Array:
    """For each of ``size`` members its texts, in order, with commas between; ``member`` is ascending."""
    offsets = np.searchsorted(member, np.arange(size + 1)).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), texts), ",")


def concatenated(*parts: Any) -> pa.Array:
    """pa.Array put together, row by row; a part is a column or the same text for all rows."""
    return pc.binary_join_element_wise(*parts, "")


def escaped(texts: pa.Array) -> pa.Array:
    """pa.Array as they stand in JSON strings; ids and references need nothing."""
    if not pc.any(pc.match_substring_regex(texts, _UNSAFE)).as_py():
        return texts
    return pa.array([None if one is None else text(one)[1:-1] for one in texts.to_pylist()], pa.string())


def flat(column: pa.ChunkedArray) -> pa.Array:
    """A column of a table in one piece."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def contents(texts: pa.Array) -> memoryview:
    """All texts one behind the other, without a copy."""
    _, offsets, values = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(values)[int(bounds[0]) : int(bounds[-1])]
