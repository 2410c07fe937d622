"""Memory for columns is used again once nobody has any of them, and never before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fhir_gateway.lake.assemble import Scratch
from fhir_gateway.lake.ordering import ordered


def test_memory_is_used_again_when_nobody_has_what_was_made_in_it() -> None:
    scratch = Scratch()
    first = scratch.arena(1000)
    first[:] = 7
    column = pa.Array.from_buffers(pa.uint8(), 10, [None, pa.py_buffer(first).slice(100, 10)])
    del first
    other = scratch.arena(1000)
    other[:] = 9
    assert column.to_pylist() == [7] * 10
    place = other.ctypes.data
    del other, column
    assert scratch.arena(900).ctypes.data == place


@pytest.mark.parametrize("rows", [1, 99, 100, 101, 1000])
def test_rows_come_by_rank_through_parts_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr("fhir_gateway.lake.parting.PART_ROWS", 100)
    ranks = np.random.default_rng(rows).permutation(rows).astype(np.int32)
    given = pa.table({"rank": ranks, "id": [str(rank) for rank in ranks]})
    batches = [given.slice(at, 77) for at in range(0, rows, 77)]
    parts = list(ordered(lambda: batches, rows, tmp_path / "scratch"))
    assert pa.concat_tables(parts)["id"].to_pylist() == [str(rank) for rank in range(rows)]
    assert max(part.num_rows for part in parts) <= 100
    assert not list(tmp_path.glob("scratch/*"))
