"""RiskAssessments of a whole computation in the place of those of the one before: written is what differs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.publish import collector_off

RENDERING = 1
"""Raise it when what is served of a row changes: then everything is served anew."""
SERVED = pa.schema([("id", pa.string()), ("digest", pa.string())])
Render = Callable[[Mapping[str, Any]], Mapping[str, Any]]

_KEYED = """
SELECT r.method || '-' || sha256(r.key)[1:32] AS id, md5($rendering || r::VARCHAR) AS digest, r.* FROM rows r
"""
_CHANGED = """
SELECT k.* FROM keyed k LEFT JOIN former f USING (id) LEFT JOIN present p USING (id)
WHERE p.id IS NULL OR f.digest IS DISTINCT FROM k.digest ORDER BY k.id
"""


def serve(gateway: Gateway, rows: pa.Table, render: Render, methods: Sequence[str]) -> int:
    """Serve ``rows`` (``method``, ``key``, and what ``render`` makes a RiskAssessment of); how many there are.

    What was served of these methods and is not among them is deleted, in the same transaction. A row that says what it
    said before keeps its resource, with the date of then.
    """
    path = gateway.data_folder / "predictions" / f"served-{'-'.join(methods)}.parquet"
    ids = pa.array(gateway.resources.ids("RiskAssessment"), pa.string())
    mine = [pc.starts_with(ids, f"{name}-") for name in methods]
    present = pa.table({"id": ids.filter(_any(mine))})
    with duckdb.connect() as work:
        work.register("rows", rows)
        work.register("present", present)
        work.register("former", pq.read_table(path) if path.is_file() else SERVED.empty_table())
        work.execute(f"CREATE TABLE keyed AS {_KEYED}", {"rendering": str(RENDERING)})
        changed = work.sql(_CHANGED).to_arrow_table()
        gone = work.sql("SELECT id FROM present ANTI JOIN keyed USING (id) ORDER BY id").to_arrow_table()
        served = work.sql("SELECT id, digest FROM keyed ORDER BY id").to_arrow_table().cast(SERVED)
    if changed.num_rows or gone.num_rows:
        with collector_off(), gateway.resources.writing() as changes:
            changes.put_many(map(render, _by_batches(changed.drop_columns(["id", "digest"]))))
            for identity in gone["id"].to_pylist():
                changes.delete("RiskAssessment", identity)
    _keep(path, served)
    return len(served)


def _any(masks: Sequence[pa.Array]) -> pa.Array:
    found = masks[0]
    for one in masks[1:]:
        found = pc.or_(found, one)
    return found


def _by_batches(rows: pa.Table) -> Iterator[dict[str, Any]]:
    return chain.from_iterable(batch.to_pylist() for batch in rows.to_batches(max_chunksize=5_000))


def _keep(path: Path, served: pa.Table) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(served, partial, compression="zstd")
    os.replace(partial, path)
