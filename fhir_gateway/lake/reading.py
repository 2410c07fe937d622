"""Reading a table's files: only the leaves that are asked for, and of members only the row groups they are in."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


class Only(NamedTuple):
    """Rows that have one of ``values`` (not empty) in ``column``, which is one of our own."""

    column: str
    values: pa.Array


def stored_rows(path: Path, bucket: int, schema: pa.Schema, only: Only | None = None) -> pa.Table:
    """A file's rows with exactly the columns of ``schema``: columns and nested fields that it lacks are null.

    ``_bucket`` is not in the file: it is the folder's.
    """
    file = pq.ParquetFile(path, memory_map=True)
    groups = list(range(file.num_row_groups))
    kept = None
    if only is not None:
        groups = _groups_with(file, only)
        found = file.read_row_groups(groups, columns=[only.column], use_threads=False)[only.column]
        kept = pc.indices_nonzero(pc.is_in(found, value_set=only.values))
    if kept is not None and len(kept) == 0:
        return schema.empty_table()
    wanted = [file.schema.column(leaf).path for leaf in _leaves(file.schema_arrow, schema)]
    table = file.read_row_groups(groups, columns=wanted, use_threads=False)
    size = table.num_rows if wanted else sum(file.metadata.row_group(group).num_rows for group in groups)
    if kept is not None:
        table, size = table.take(kept), len(kept)
    there = set(table.column_names)
    columns = []
    for field in schema:
        if field.name == "_bucket":
            columns.append(pa.repeat(pa.scalar(bucket, pa.int32()), size))
        elif field.name in there:
            column = table[field.name]
            columns.append(column if column.type.equals(field.type) else column.cast(field.type))
        else:
            columns.append(pa.nulls(size, field.type))
    return pa.table(columns, schema=schema)


def _groups_with(file: pq.ParquetFile, only: Only) -> list[int]:
    """Row groups that may hold such rows: those without statistics may."""
    column = file.schema_arrow.names.index(only.column)  # our own columns are flat and come first
    bounds = pc.min_max(only.values)
    least, most = bounds["min"].as_py(), bounds["max"].as_py()
    found = []
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        if statistics is None or not statistics.has_min_max or (statistics.min <= most and statistics.max >= least):
            found.append(group)
    return found


def _leaves(stored: pa.Schema, wanted: pa.Schema) -> list[int]:
    """Numbers of the Parquet columns behind the ``wanted`` columns that the file has."""
    chosen: list[int] = []
    first = 0
    for field in stored:
        if field.name in wanted.names:
            chosen += _leaves_below(field.type, wanted.field(field.name).type, first)
        first += _leaf_count(field.type)
    return chosen


def _leaves_below(stored: pa.DataType, wanted: pa.DataType, first: int) -> list[int]:
    if pa.types.is_list(stored):
        return _leaves_below(stored.value_type, wanted.value_type, first)
    if not pa.types.is_struct(stored):
        return [first]
    chosen: list[int] = []
    at = first
    for field in stored:
        if wanted.get_field_index(field.name) >= 0:
            chosen += _leaves_below(field.type, wanted.field(field.name).type, at)
        at += _leaf_count(field.type)
    return chosen or [first]  # any leaf says where the element is there


def _leaf_count(stored: pa.DataType) -> int:
    if pa.types.is_list(stored):
        return _leaf_count(stored.value_type)
    if pa.types.is_struct(stored):
        return sum(_leaf_count(field.type) for field in stored)
    return 1
