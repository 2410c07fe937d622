"""Rows of a few members: what a request about one person reads, again and again from the same files.

Understanding a file, and finding where in it a member is, takes longer than reading the rows. Files never change: what
is known of those that were read last is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.lake.places import Place
from fhir_gateway.lake.reading import Only, filled, footer, groups_with, laid_out, leaves

#: Values that rows are looked up by one at a time.
FEW = 100


class _Open:
    """A file that is held open; readers take turns."""

    def __init__(self, path: Place) -> None:
        self._file = footer(path).open(path)
        self._lock = Lock()

    def read(self, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Columns of some row groups."""
        with self._lock:
            return self._file.read_row_groups(groups, columns=columns, use_threads=False)


@lru_cache(maxsize=256)  # each takes a file descriptor
def _opened(path: Place) -> _Open:
    return _Open(path)


@lru_cache(maxsize=4096)
def _found(path: Place, column: str, values: tuple[str, ...]) -> tuple[tuple[int, ...], pa.Array]:
    """The row groups that have rows with one of ``values``, and the places of these rows in them."""
    file, only = _opened(path), Only(column, pa.array(values, pa.string()))
    groups, places, before = [], [pa.array([], pa.uint64())], 0
    for group in groups_with(footer(path), only):
        found = file.read([group], [column])[column]
        here = pc.indices_nonzero(pc.is_in(found, value_set=only.values))
        if len(here):
            groups.append(group)
            places.append(pc.add(here, pa.scalar(before, pa.uint64())))
            before += len(found)
    return tuple(groups), pa.concat_arrays(places)


@lru_cache(maxsize=4096)
def _laid(path: Place, schema: pa.Schema) -> tuple[str, ...]:
    """The Parquet columns of a file that ``schema`` is made of."""
    about = footer(path)
    return tuple(about.metadata.schema.column(leaf).path for leaf in leaves(about.schema, schema))


@lru_cache(maxsize=1024)
def _filled(schema: pa.Schema, paths: tuple[Place, ...]) -> pa.Schema:
    return filled(schema, [footer(path).schema for path in paths])


def rows_of_few(
    files: Sequence[tuple[Place, int]], schema: pa.Schema, only: Only, *, sparse: bool = False
) -> list[pa.Table]:
    """Rows of files (with the bucket of each) that are ``only`` few, one table for each file that has any.

    They are as :func:`fhir_gateway.lake.reading.stored_rows` gives them, with ``sparse`` without what no file has.
    """
    values = tuple(only.values.to_pylist())
    found = [(path, bucket, *_found(path, only.column, values)) for path, bucket in files]
    found = [one for one in found if one[2]]
    if not found:
        return []
    if sparse:
        schema = _filled(schema, tuple(path for path, _ in files))
    tables = []
    for path, bucket, groups, places in found:
        columns = _laid(path, schema)
        rows = _opened(path).read(groups, columns).take(places) if columns else None
        tables.append(laid_out(rows if rows is not None else pa.table({}), len(places), bucket, schema))
    return tables


__all__ = ["FEW", "rows_of_few"]
